"""`--on vertex`: the project's folder in a bucket, and what is refused before money is spent."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.harness.emulator import Emulator
from tests.harness.endpoint import secret_of, trusted
from tests.harness.folders import public_folder, remove
from tests.harness.laptop import Laptop, project
from vmctl.clock import Clock
from vmctl.config import Flags, load_project
from vmctl.domain.errors import InvalidInput
from vmctl.workflows.base.stories import drain
from vmctl.workflows.vertex.archive_gc import gc_archives

TOML = """name = "small"
[targets.vertex]
kind = "vertex"
region = "europe-west4"
bucket = "gs://course"
[targets.far]
kind = "vertex"
region = "us-central1"
bucket = "gs://course"
[targets.none]
kind = "vertex"
region = "us-central1"
bucket = "gs://nothing"
[jobs.small]
script = "train.py"
[push]
exclude = ["left"]
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[tuple[Emulator, Laptop]]:
    """An emulator without machines, and a bucket in it."""
    emulator = Emulator(public_folder("vertex"), "real", "--metadata-only").start()
    emulator.ask("POST", "/storage/v1/b?project=p1", {"name": "course", "location": "europe-west4"})
    home = public_folder("vertex-laptop")
    yield emulator, Laptop(home, emulator.home)
    emulator.remove()
    remove(home)


def test_a_push_leaves_one_archive_and_sends_nothing_twice(
    cloud: tuple[Emulator, Laptop], folder: Path
) -> None:
    emulator, laptop = cloud
    project(folder, TOML, {"train.py": "print(1)\n", "left/x": "x", "data/a": "b"})
    (folder / "link").symlink_to("train.py")
    (folder / "train.py").chmod(0o755)
    first = laptop.json("push", "--on", "vertex", cwd=folder)
    again = laptop.json("push", "--on", "vertex", cwd=folder)
    assert (first["sent"], again["sent"]) == (True, False)
    assert first["archive"] == again["archive"]
    name = first["archive"].removeprefix("gs://course/")
    content = read_object(emulator, name)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        assert archive.getnames() == ["data/a", "link", "train.py", "vmctl.toml"]
        assert archive.getmember("train.py").mode == 0o755
        assert archive.getmember("link").linkname == "train.py"
    (folder / "train.py").write_text("print(2)\n")
    tried = laptop.json("push", "--on", "vertex", "--dry-run", cwd=folder)
    changed = laptop.json("push", "--on", "vertex", cwd=folder)
    assert (tried["sent"], changed["sent"]) == (False, True)
    assert tried["archive"] == changed["archive"] != first["archive"]


def test_what_cannot_work_is_said_before_anything_is_sent(
    cloud: tuple[Emulator, Laptop], folder: Path
) -> None:
    _, laptop = cloud
    project(folder, TOML)
    far = laptop("push", "--on", "far", cwd=folder, code=2).stderr
    assert "gs://course is in europe-west4, the jobs run in us-central1" in far
    missing = laptop("push", "--on", "none", cwd=folder, code=3).stderr
    assert "gcloud storage buckets create gs://nothing --location us-central1" in missing
    for words in (["up"], ["attach"], ["tunnel", "tensorboard"], ["ssh"]):
        refused = laptop(*words, "--on", "vertex", cwd=folder, code=2).stderr
        assert "on Vertex AI there is none to reach" in refused


def test_doctor_looks_at_the_service_and_the_bucket(
    cloud: tuple[Emulator, Laptop], folder: Path
) -> None:
    _, laptop = cloud
    project(folder, TOML)
    found = laptop.json("doctor", "--on", "vertex", cwd=folder)
    shown = {finding["check"]: finding["status"] for finding in found["findings"]}
    assert (found["ready"], shown) == (True, {"settings": "ok", "api": "ok", "bucket": "ok"})
    told = laptop("doctor", "--on", "vertex", cwd=folder)
    assert "Everything is ready: vmctl run JOB" in told.stdout + told.stderr
    broken = laptop("doctor", "--on", "none", cwd=folder, code=3)
    assert "gs://nothing does not exist" in broken.stdout + broken.stderr


def test_the_same_in_gclouds_words(cloud: tuple[Emulator, Laptop], folder: Path) -> None:
    _, laptop = cloud
    project(folder, TOML, {"train.py": ""})
    told = laptop("run", "--on", "vertex", "--print-gcloud", "small", "--x", cwd=folder).stdout
    assert "gcloud storage cp --no-clobber" in told
    assert "gcloud ai custom-jobs create --region=europe-west4" in told
    config = json.loads(Path(told.partition("--config=")[2].split()[0]).read_text())
    assert "machineSpec" in config["workerPoolSpecs"][0]
    brought = laptop("fetch", "x.pth", "--on", "vertex", "--print-gcloud", cwd=folder).stdout
    assert "gcloud storage cp --recursive gs://course/vmctl/" in brought


CREATE = "aiplatform.projects.locations.customJobs.create"
QUOTA = (
    "The following quota metrics exceed quota limits: "
    "aiplatform.googleapis.com/custom_model_training_nvidia_t4_gpus"
)
OFF = "Vertex AI API has not been used in project p1 before or it is disabled."


@pytest.mark.parametrize(
    ("fault", "code", "told"),
    [
        (
            {"status": 429, "reason": "RESOURCE_EXHAUSTED", "message": QUOTA},
            6,
            "quota custom_model_training_nvidia_t4_gpus",
        ),
        (
            {"status": 403, "reason": "SERVICE_DISABLED", "message": OFF},
            5,
            "gcloud services enable aiplatform.googleapis.com",
        ),
        (
            {"status": 403, "reason": "forbidden", "message": "No aiplatform.customJobs.create."},
            5,
            "Service Account User",
        ),
    ],
)
def test_a_bad_day_is_told_in_words_and_leaves_no_job(
    cloud: tuple[Emulator, Laptop], folder: Path, fault: dict[str, object], code: int, told: str
) -> None:
    emulator, laptop = cloud
    project(folder, TOML, {"train.py": ""})
    with emulator.fault(kind="http", method=CREATE, **fault):
        said = laptop("run", "--on", "vertex", "small", cwd=folder, code=code).stderr
    assert told in said
    assert laptop.json("ps", "--on", "vertex", cwd=folder) == []


class Later(Clock):
    """Two hours on, when an archive is no more that of a job just being submitted."""

    def now(self) -> datetime:
        return super().now() + timedelta(hours=2)


def test_gc_deletes_the_archives_that_no_job_needs(
    cloud: tuple[Emulator, Laptop], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, laptop = cloud
    project(folder, TOML, {"old.py": "1"})
    pushed = laptop.json("push", "--on", "vertex", cwd=folder)["archive"]
    early = laptop.json("gc", "--yes", "--on", "vertex", cwd=folder)
    assert (early["deleted"], f"gs://course/{early['kept'][0]}"[:18]) == ([], "gs://course/vmctl/")
    for name, value in laptop.environ.items():
        monkeypatch.setenv(name, value)
    loaded = load_project(folder, flags=Flags(on="vertex"))
    with pytest.raises(InvalidInput, match="Nothing was removed"):
        drain(gc_archives(loaded, confirm=lambda *_: False, clock=Later()))
    result = drain(gc_archives(loaded, confirm=lambda *_: True, clock=Later()))
    assert pushed in {f"gs://course/{name}" for name in result.deleted}
    assert result.kept == ()
    assert laptop.json("push", "--on", "vertex", cwd=folder)["sent"] is True


def read_object(emulator: Emulator, name: str) -> bytes:
    """An object's content, over plain HTTPS."""
    quoted = urllib.parse.quote(name, safe="")
    request = urllib.request.Request(
        f"{emulator.url}/storage/v1/b/course/o/{quoted}?alt=media",
        headers={"Authorization": f"Bearer {secret_of(emulator.about)}"},
    )
    with urllib.request.urlopen(request, context=trusted(emulator.about)) as reply:
        return bytes(reply.read())
