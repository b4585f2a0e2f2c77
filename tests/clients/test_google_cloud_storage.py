"""google-cloud-storage and gcloud storage: Google's own clients of Cloud Storage."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.api_core import exceptions
from google.cloud import storage
from google.oauth2.credentials import Credentials

from .conftest import Site

pytestmark = pytest.mark.timeout(240)
SIZE = (5 << 20) + 123
PIECE = 1 << 20


@pytest.fixture(scope="module")
def google(site: Site) -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", site.certificate)
        made = storage.Client(
            project=site.project,
            credentials=Credentials(site.token),
            client_options={"api_endpoint": site.url},
        )
        made.create_bucket("photos", location="europe-west4")
        yield made
        made.close()


@pytest.mark.parametrize("piece", [None, PIECE])
def test_content_goes_up_and_comes_down(google: Any, tmp_path: Path, piece: int | None) -> None:
    content = os.urandom(SIZE)
    (tmp_path / "up").write_bytes(content)
    blob = google.bucket("photos").blob(f"large/{piece}", chunk_size=piece)
    blob.upload_from_filename(tmp_path / "up", checksum="crc32c")
    blob.download_to_filename(tmp_path / "down", checksum="crc32c")
    assert (tmp_path / "down").read_bytes() == content
    assert blob.download_as_bytes(start=1000, end=1999) == content[1000:2000]


def test_objects_are_listed_copied_composed_and_deleted_in_a_batch(google: Any) -> None:
    bucket = google.bucket("photos")
    for name in ("a/one", "a/two", "b"):
        bucket.blob(name).upload_from_string(name)
    found = google.list_blobs("photos", delimiter="/", prefix="a/", page_size=1)
    assert [blob.name for blob in found] == ["a/one", "a/two"]
    top = google.list_blobs("photos", delimiter="/")
    assert ("b" in {blob.name for blob in top}, "a/" in top.prefixes) == (True, True)
    bucket.blob("a/all").compose([bucket.blob("a/one"), bucket.blob("a/two")])
    copied = bucket.copy_blob(bucket.blob("a/all"), bucket, "copy")
    assert copied.download_as_bytes() == b"a/onea/two"
    with google.batch():
        bucket.delete_blobs([bucket.blob("a/one"), bucket.blob("a/two"), bucket.blob("copy")])
    assert [blob.name for blob in google.list_blobs("photos", prefix="a/")] == ["a/all"]


def test_refusals_are_the_librarys_own_exceptions(google: Any) -> None:
    bucket = google.bucket("photos")
    bucket.blob("kept").upload_from_string("x")
    with pytest.raises(exceptions.PreconditionFailed):
        bucket.blob("kept").upload_from_string("y", if_generation_match=0)
    with pytest.raises(exceptions.NotFound):
        bucket.blob("none").download_as_bytes()
    with pytest.raises(exceptions.Conflict):
        google.create_bucket("photos")
    with pytest.raises(exceptions.Conflict):
        bucket.delete()


def test_gcloud_storage_copies_lists_and_synchronises(
    google: Any, site: Site, tmp_path: Path
) -> None:
    def gcloud(*words: str) -> str:
        done = subprocess.run(
            ["gcloud", "storage", *words],
            env={**os.environ, **site.environ, "HOME": str(tmp_path)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "tree" / "sub").mkdir(parents=True)
    (tmp_path / "tree" / "sub" / "one").write_text("1\n")
    (tmp_path / "tree" / "two").write_bytes(os.urandom(SIZE))
    gcloud("rsync", "-r", str(tmp_path / "tree"), "gs://photos/tree")
    assert gcloud("ls", "-r", "gs://photos/tree/**").split() == [
        "gs://photos/tree/sub/one", "gs://photos/tree/two",
    ]  # fmt: skip
    assert gcloud("cat", "gs://photos/tree/sub/one") == "1\n"
    gcloud("cp", "gs://photos/tree/two", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == (tmp_path / "tree" / "two").read_bytes()
    gcloud("rm", "-r", "gs://photos/tree")
    assert "gs://photos/tree/" not in gcloud("ls", "gs://photos")
