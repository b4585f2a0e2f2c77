"""The embedded Cloud Storage: buckets and objects, as Google's client and plain HTTP see them."""

from __future__ import annotations

import base64
import hashlib
import http.client
import io
import json
import os
import urllib.parse
from collections.abc import Iterator
from typing import Any

import google_crc32c
import pytest

from tests.harness.emulator import Emulator
from tests.harness.endpoint import secret_of, trusted
from tests.harness.folders import public_folder

Json = dict[str, Any]
BUCKET = "photos"
QUANTUM = 256 << 10


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    """An emulator with a bucket."""
    emulator = Emulator(public_folder("storage"), "real", "--metadata-only").start()
    emulator.ask("POST", "/storage/v1/b?project=p1", {"name": BUCKET, "location": "europe-west4"})
    yield emulator
    emulator.remove()


def send(
    cloud: Emulator, method: str, path: str, data: bytes | None = None, **headers: str
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Status, headers and body of an answer; a header's `_` stands for `-`."""
    address = urllib.parse.urlsplit(cloud.url)
    connection = http.client.HTTPSConnection(
        address.hostname or "", address.port, context=trusted(cloud.about), timeout=60
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(
            method, path, data, {"Authorization": f"Bearer {secret_of(cloud.about)}", **named}
        )
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def put(cloud: Emulator, name: str, content: bytes, query: str = "") -> tuple[int, Json]:
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name={quoted(name)}{query}"
    status, _, body = send(cloud, "POST", path, content, Content_Type="text/plain")
    return status, json.loads(body)


def get(cloud: Emulator, name: str, query: str = "") -> tuple[int, Json]:
    status, _, body = send(cloud, "GET", f"/storage/v1/b/{BUCKET}/o/{quoted(name)}{query}")
    return status, json.loads(body or b"{}")


def read(cloud: Emulator, name: str, **headers: str) -> tuple[int, bytes]:
    path = f"/storage/v1/b/{BUCKET}/o/{quoted(name)}?alt=media"
    status, _, body = send(cloud, "GET", path, **headers)
    return status, body


def quoted(name: str) -> str:
    return urllib.parse.quote(name, safe="")


def sums(content: bytes) -> Json:
    crc = google_crc32c.extend(0, content).to_bytes(4, "big")
    md5 = hashlib.md5(content, usedforsecurity=False).digest()
    return {
        "size": str(len(content)),
        "crc32c": base64.b64encode(crc).decode(),
        "md5Hash": base64.b64encode(md5).decode(),
    }


@pytest.mark.parametrize(
    "name", ["plain", "a/b/c.txt", "a", "a//b", "../up", "/x", "folder/", "ü n\u20ac", "x" * 900]
)
def test_any_name_holds_what_was_put_there(cloud: Emulator, name: str) -> None:
    content = name.encode() * 3
    status, made = put(cloud, name, content)
    assert (status, made["name"], made["contentType"]) == (200, name, "text/plain")
    assert {key: made[key] for key in sums(content)} == sums(content)
    assert get(cloud, name) == (200, made)
    assert read(cloud, name) == (200, content)
    assert send(cloud, "DELETE", f"/storage/v1/b/{BUCKET}/o/{quoted(name)}")[0] == 204
    assert get(cloud, name)[1]["error"]["message"] == f"No such object: {BUCKET}/{name}"
    assert read(cloud, name)[0] == 404


def test_ranges_are_those_that_were_asked_for(cloud: Emulator) -> None:
    put(cloud, "ranged", b"0123456789")
    for asked, found in {"2-4": b"234", "7-": b"789", "-3": b"789", "8-99": b"89"}.items():
        assert read(cloud, "ranged", Range=f"bytes={asked}") == (206, found)
    assert read(cloud, "ranged", Range="bytes=10-")[0] == 416


def test_a_generation_that_is_not_expected_changes_nothing(cloud: Emulator) -> None:
    _, made = put(cloud, "guarded", b"one", "&ifGenerationMatch=0")
    assert put(cloud, "guarded", b"two", "&ifGenerationMatch=0")[0] == 412
    assert put(cloud, "guarded", b"two", "&ifGenerationMatch=1")[0] == 412
    assert read(cloud, "guarded") == (200, b"one")
    generation = made["generation"]
    assert get(cloud, "guarded", f"?ifGenerationNotMatch={generation}")[0] == 304
    status, newer = put(cloud, "guarded", b"two", f"&ifGenerationMatch={generation}")
    assert (status, int(newer["generation"]) > int(generation)) == (200, True)
    path = f"/storage/v1/b/{BUCKET}/o/guarded?ifGenerationMatch={generation}"
    assert send(cloud, "DELETE", path)[0] == 412
    assert put(cloud, "guarded", b"x", "&ifGenerationMatch=many")[0] == 400


def test_content_that_is_not_what_was_announced_is_refused(cloud: Emulator) -> None:
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name=announced"
    wrong = f"crc32c={sums(b'other')['crc32c']}"
    status, _, body = send(cloud, "POST", path, b"content", X_Goog_Hash=wrong)
    assert (status, b"CRC32C" in body) == (400, True)
    assert get(cloud, "announced")[0] == 404


def test_lists_come_in_pages_and_in_folders(cloud: Emulator) -> None:
    names = [f"list/{folder}/{n}" for folder in "ab" for n in range(3)] + ["list/top", "list/a.txt"]
    for name in names:
        put(cloud, name, b"x")

    def listed(**query: Any) -> list[str]:
        found, token = [], ""
        while True:
            given = urllib.parse.urlencode({**query, **({"pageToken": token} if token else {})})
            page = json.loads(send(cloud, "GET", f"/storage/v1/b/{BUCKET}/o?{given}")[2])
            assert len(page.get("items", ())) + len(page.get("prefixes", ())) <= 3
            found += page.get("prefixes", []) + [item["name"] for item in page.get("items", [])]
            token = page.get("nextPageToken", "")
            if not token:
                return sorted(found)

    assert listed(prefix="list/", maxResults=3) == sorted(names)
    tops = ["list/a.txt", "list/a/", "list/b/", "list/top"]
    assert listed(prefix="list/", delimiter="/", maxResults=3) == tops
    assert listed(prefix="list/a/", startOffset="list/a/1", maxResults=2) == names[1:3]


def test_a_resumable_upload_goes_on_after_a_cut_and_a_restart(cloud: Emulator) -> None:
    content = os.urandom(2 * QUANTUM + 12345)
    path = f"/upload/storage/v1/b/{BUCKET}/o?uploadType=resumable&name=large"
    about = json.dumps({"metadata": {"by": "test"}}).encode()
    status, headers, _ = send(cloud, "POST", path, about, Content_Type="application/json")
    session = headers["Location"]
    assert (status, session.startswith(cloud.url)) == (200, True)
    there = session.removeprefix(cloud.url)
    total = len(content)
    # a piece that breaks off in the middle: whole quanta are kept
    address = urllib.parse.urlsplit(cloud.url)
    connection = http.client.HTTPSConnection(
        address.hostname or "", address.port, context=trusted(cloud.about), timeout=60
    )
    connection.putrequest("PUT", there)
    connection.putheader("Authorization", f"Bearer {secret_of(cloud.about)}")
    connection.putheader("Content-Length", str(total))
    connection.putheader("Content-Range", f"bytes 0-{total - 1}/{total}")
    connection.endheaders()
    connection.send(content[: QUANTUM + 100])
    connection.close()
    cloud.stop()
    cloud.start()
    status, headers, _ = send(cloud, "PUT", there, b"", Content_Range=f"bytes */{total}")
    assert status == 308
    have = int(headers["Range"].rpartition("-")[2]) + 1 if "Range" in headers else 0
    assert have % QUANTUM == 0 and have <= QUANTUM
    if not have:
        first = content[:QUANTUM]
        said = f"bytes 0-{QUANTUM - 1}/{total}"
        assert send(cloud, "PUT", there, first, Content_Range=said)[0] == 308
        have = QUANTUM
    said = f"bytes {have}-{total - 1}/{total}"
    status, _, body = send(cloud, "PUT", there, content[have:], Content_Range=said)
    made = json.loads(body)
    assert (status, made["metadata"]) == (200, {"by": "test"})
    assert {key: made[key] for key in sums(content)} == sums(content)
    assert read(cloud, "large") == (200, content)
    assert send(cloud, "PUT", there, b"", Content_Range=f"bytes */{total}")[0] == 404


def test_googles_client_moves_copies_and_composes(cloud: Emulator) -> None:
    storage = client(cloud)
    from googleapiclient.http import MediaIoBaseDownload, MediaIoBaseUpload

    objects = storage.objects()
    for name, resumable in (("one", False), ("two", True)):
        media = MediaIoBaseUpload(
            io.BytesIO(name.encode() * 1000), "text/plain", chunksize=QUANTUM, resumable=resumable
        )
        made = objects.insert(bucket=BUCKET, name=name, media_body=media, body={}).execute()
        assert made["size"] == "3000"
    parts = [{"name": "one"}, {"name": "two"}]
    whole = objects.compose(
        destinationBucket=BUCKET, destinationObject="whole", body={"sourceObjects": parts}
    ).execute()
    assert (whole["size"], whole["componentCount"]) == ("6000", 2)
    objects.rewrite(
        sourceBucket=BUCKET, sourceObject="whole", destinationBucket=BUCKET,
        destinationObject="copy/whole", body={},
    ).execute()  # fmt: skip
    got = io.BytesIO()
    download = MediaIoBaseDownload(got, objects.get_media(bucket=BUCKET, object="copy/whole"), 1000)
    while not download.next_chunk()[1]:
        pass
    assert got.getvalue() == b"one" * 1000 + b"two" * 1000
    changed = objects.patch(bucket=BUCKET, object="one", body={"metadata": {"k": "v"}}).execute()
    storage.close()
    assert (changed["metadata"], changed["metageneration"]) == ({"k": "v"}, "2")


def client(cloud: Emulator) -> Any:
    """Google's client for Cloud Storage, pointed at the emulator."""
    from google.oauth2.credentials import Credentials
    from google_auth_httplib2 import AuthorizedHttp
    from googleapiclient.discovery import build_from_document
    from googleapiclient.discovery_cache import get_static_doc
    from httplib2 import Http

    document = json.loads(get_static_doc("storage", "v1")) | {"rootUrl": f"{cloud.url}/"}
    credentials = Credentials(secret_of(cloud.about))  # type: ignore[no-untyped-call]
    http = AuthorizedHttp(credentials, http=Http(ca_certs=cloud.about["certificate"]))
    return build_from_document(document, http=http)


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("POST", "b?project=p1", {"name": BUCKET}, 409, "you already own it"),
        ("POST", "b?project=p1", {"name": "No"}, 400, "Invalid bucket name"),
        ("POST", "b?project=p1", {"name": "abc", "location": "mars"}, 400, "location"),
        ("POST", "b?project=p1", {"name": "abc", "colour": "red"}, 400, "colour"),
        ("POST", "b", {"name": "abc"}, 400, "project"),
        ("GET", "b/none", None, 404, "The specified bucket does not exist."),
        ("GET", "b/none/o", None, 404, "The specified bucket does not exist."),
        ("GET", f"b/{BUCKET}/o?maxResults=none", None, 400, "max_results"),
        ("GET", f"b/{BUCKET}/o?pageToken=%25", None, 400, "pageToken"),
        ("GET", f"b/{BUCKET}/o/none", None, 404, "No such object"),
        ("DELETE", f"b/{BUCKET}", None, 409, "not empty"),
        ("POST", f"b/{BUCKET}/o/x/compose", {"sourceObjects": []}, 400, "source components"),
    ],
)
def test_what_is_wrong_is_said_as_google_says_it(
    cloud: Emulator, method: str, path: str, body: Json | None, status: int, words: str
) -> None:
    put(cloud, "kept", b"x")
    raw = None if body is None else json.dumps(body).encode()
    code, _, answer = send(cloud, method, f"/storage/v1/{path}", raw)
    assert (code, words in json.loads(answer)["error"]["message"]) == (status, True), answer


def test_what_a_machine_writes_is_an_object_and_its_links_are_none(cloud: Emulator) -> None:
    # as a machine sees it: the bucket's folder
    folder = cloud.home / "buckets" / BUCKET / "fs"
    put(cloud, "shared/log", b"one\n")
    first = get(cloud, "shared/log")[1]
    with (folder / "shared" / "log").open("ab") as file:
        file.write(b"two\n")
    changed = get(cloud, "shared/log")[1]
    assert changed["generation"] > first["generation"]
    assert changed["md5Hash"] == sums(b"one\ntwo\n")["md5Hash"]
    (folder / "shared" / "passwd").symlink_to("/etc/passwd")
    (folder / "etc").symlink_to("/etc")
    os.mkfifo(folder / "pipe")
    for name in ("shared/passwd", "etc/passwd", "pipe"):
        assert get(cloud, name)[0] == read(cloud, name)[0] == 404
    for name in ("shared", "etc", "pipe"):
        assert (folder / name).is_symlink() == (name == "etc")
    assert put(cloud, "etc/passwd", b"mine")[0] == 200, "beside what is in the way"
    assert read(cloud, "etc/passwd") == (200, b"mine")
