"""One bucket of Cloud Storage: its objects are listed, read, sent and brought, proven by MD5."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from vmctl.cloud.errors import map_google_errors
from vmctl.cloud.google_api import RETRIES, GoogleApi, open_api
from vmctl.domain.errors import IntegrityError
from vmctl.domain.events import Advanced, Story
from vmctl.domain.vertex.refusal import STORAGE, explain

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.config import Project
    from vmctl.domain.settings.vertex_settings import VertexSettings

ROOT = "https://storage.googleapis.com/"
CHUNK = 8 << 20  # a multiple of 256 KiB, as uploads want


class StoredObject(NamedTuple):
    """An object as Cloud Storage describes it; checksums are base64, MD5 is "" for a composed."""

    name: str
    bytes: int
    generation: str
    md5: str
    crc32c: str
    created: str  # RFC 3339


class Part(Protocol):
    """Where the bytes of a file gather before it has its name."""

    size: int

    def begin(self, offset: int) -> None: ...

    def write(self, data: bytes) -> None: ...

    def fileno(self) -> int: ...


class Bucket:
    """A target's bucket; raises what `explain` says of a refusal, Unreachable without an answer."""

    def __init__(self, api: GoogleApi, name: str) -> None:
        self._api = api
        self._objects = api.service.objects()
        self.name = name
        self.close = api.close

    def location(self) -> str:
        """Where it is, such as EUROPE-WEST4 or EU; raises NotFound where there is none."""
        found = self._api.ask(self._api.service.buckets().get(bucket=self.name, fields="location"))
        return str(found["location"])

    def find(self, name: str) -> StoredObject | None:
        """One object, if it is there."""
        request = self._objects.get(bucket=self.name, object=name)
        found = self._api.ask(request, missing_ok=True)
        return None if found is None else _stored(found)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """All objects whose names begin so, by name."""
        for reply in self._api.pages(self._objects.list, bucket=self.name, prefix=prefix):
            yield from map(_stored, reply.get("items", []))

    def delete(self, found: StoredObject) -> None:
        """Delete this very generation; one that is gone is no error."""
        request = self._objects.delete(
            bucket=self.name, object=found.name, generation=found.generation
        )
        self._api.ask(request, missing_ok=True)

    def read(self, name: str, offset: int = 0) -> bytes:
        """A small object, from this byte on; it must have one there."""
        request = self._objects.get_media(bucket=self.name, object=name)
        if offset:
            request.headers["range"] = f"bytes={offset}-"
        return bytes(self._api.ask(request))

    def send(self, file: Path, name: str, step: str) -> Story[bool]:
        """Make an object of a file, unless there is one; whether anything was sent.

        A part that fails is sent again from where it broke off. Nothing has the name before all
        is there; raises IntegrityError where the object is not what was sent.
        """
        from googleapiclient.errors import HttpError
        from googleapiclient.http import MediaFileUpload

        if self.find(name) is not None:
            return False
        total = file.stat().st_size
        media = MediaFileUpload(str(file), "application/gzip", chunksize=CHUNK, resumable=True)
        request = self._objects.insert(
            bucket=self.name, name=name, media_body=media, ifGenerationMatch=0
        )
        reply: Any = None
        while reply is None:
            with map_google_errors(self._api.project, self._api.root):
                try:
                    status, reply = request.next_chunk(num_retries=RETRIES)
                except HttpError as error:
                    if error.resp.status == 412:  # somebody sent the same meanwhile
                        return False
                    raise
            done = status.resumable_progress if status else total
            yield Advanced(step, done_bytes=done, total_bytes=total)
        if reply.get("md5Hash") != md5_of(file):
            raise IntegrityError(
                f"gs://{self.name}/{name} is not what was sent: its MD5 differs.",
                hint=f"Delete it and try again: gcloud storage rm gs://{self.name}/{name}",
            )
        return True

    def bring(self, found: StoredObject, part: Part, step: str) -> Story[int]:
        """An object's content gathers in a part, proven by its checksum; returns the bytes that
        were there.

        What an earlier attempt has left is not brought again, unless it proves to be of something
        else. Raises IntegrityError for a wrong sum.
        """
        resumed = part.size if part.size <= found.bytes else 0
        while True:
            part.begin(resumed)
            yield from self._read_on(found, part, step)
            if _is_whole(part.fileno(), found):
                return resumed
            if not resumed:
                raise IntegrityError(
                    f"{found.name.rpartition('/')[2]} arrived damaged: its checksum is not that of "
                    "the bucket.",
                    hint="Nothing of it was kept. Fetch it again: vmctl fetch",
                )
            resumed = 0

    def _read_on(self, found: StoredObject, part: Part, step: str) -> Story[None]:
        while part.size < found.bytes:
            request = self._objects.get_media(
                bucket=self.name, object=found.name, generation=found.generation
            )
            last = min(part.size + CHUNK, found.bytes) - 1
            request.headers["range"] = f"bytes={part.size}-{last}"
            part.write(self._api.ask(request))
            yield Advanced(step, done_bytes=part.size, total_bytes=found.bytes)


def open_bucket(project: Project, settings: VertexSettings, clock: Clock) -> Bucket:
    """The bucket of a target of kind "vertex"."""
    api = open_api(
        project,
        "storage",
        ROOT,
        lambda failure, google: explain(failure, google, settings, STORAGE),
        clock,
    )
    return Bucket(api, settings.bucket)


def md5_of(file: Path) -> str:
    """A file's MD5 as Cloud Storage writes it."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False))
    return base64.b64encode(digest.digest()).decode()


def _is_whole(descriptor: int, found: StoredObject) -> bool:
    """By MD5, or by CRC32C where an object has no MD5."""
    import google_crc32c

    md5, crc, offset = hashlib.md5(usedforsecurity=False), 0, 0
    while data := os.pread(descriptor, 1 << 20, offset):
        offset += len(data)
        if found.md5:
            md5.update(data)
        else:
            crc = google_crc32c.extend(crc, data)
    digest = md5.digest() if found.md5 else crc.to_bytes(4, "big")
    return base64.b64encode(digest).decode() == (found.md5 or found.crc32c)


def _stored(item: Any) -> StoredObject:
    return StoredObject(
        name=str(item["name"]),
        bytes=int(item.get("size", 0)),
        generation=str(item.get("generation", "")),
        md5=str(item.get("md5Hash", "")),
        crc32c=str(item.get("crc32c", "")),
        created=str(item["timeCreated"]),
    )
