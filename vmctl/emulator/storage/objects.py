"""All buckets and objects: what is known of each in SQLite, their content in files.

Everything but reading content happens on the server's event loop, so that an object changes as a
whole; a kill leaves the object before or after, and at most a file that the next start removes.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import google_crc32c

from ..clock import Clock
from ..errors import Json
from ..machines.file_modes import make_folder
from ..machines.storage import enclose
from .files import BucketFiles, Signature

ROOT = "https://www.googleapis.com/storage/v1/"
BLOCK = 1 << 20
UNKNOWN = "application/octet-stream"
TABLES = """
create table if not exists buckets (name text primary key, project text, body text, shared int);
create table if not exists objects (
  bucket text, name text, body text, size int, mtime int, inode int, primary key (bucket, name)
) without rowid;
create table if not exists uploads (id text primary key, body text);
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object: its name, what is said of it, and the file that was described."""

    bucket: str
    name: str
    body: Json
    signature: Signature

    @property
    def generation(self) -> int:
        """Which content of this name it is."""
        return int(self.body["generation"])


class Storage:
    """The buckets of one emulator; used from the server's event loop only."""

    def __init__(self, home: Path, clock: Clock) -> None:
        self.clock = clock
        self.url = "https://storage.googleapis.com"  # where content is read; the server's own
        self.home = home
        self._home = home / "buckets"
        enclose(self._home)
        self.parts = self._home / ".parts"
        make_folder(self.parts)
        self._generation = 0
        (home / "state").mkdir(exist_ok=True, mode=0o700)
        database = home / "state" / "storage.db"
        database.touch(0o600)
        self._db = sqlite3.connect(database, isolation_level=None)
        # a kill of the process loses nothing; a power cut may
        self._db.executescript(f"pragma journal_mode=wal; pragma synchronous=off; {TABLES}")
        known = {row[0] for row in self._db.execute("select id from uploads")}
        for file in self.parts.iterdir():
            if file.name not in known:
                file.unlink()
        # a kill may have come between a file and what is said of it
        self._unchecked = {body["name"] for body in self.buckets()}

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # -- buckets -------------------------------------------------------------------------------

    def buckets(self, project: str | None = None) -> list[Json]:
        """The buckets of a project, or all, by name."""
        rows = self._db.execute("select project, body from buckets order by name")
        return [json.loads(body) for owner, body in rows if project in (None, owner)]

    def bucket(self, name: str) -> Json | None:
        """A bucket's resource; None if there is none of that name, in any project."""
        row = self._db.execute("select body from buckets where name = ?", (name,)).fetchone()
        return None if row is None else json.loads(row[0])

    def save_bucket(self, project: str, body: Json) -> None:
        """Make a bucket, or replace what is said of it."""
        self.files(body["name"]).make()
        self._db.execute(
            "insert into buckets values (?, ?, ?, 0) "
            "on conflict (name) do update set body = excluded.body",
            (body["name"], project, json.dumps(body)),
        )

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket without objects."""
        self._db.execute("delete from buckets where name = ?", (name,))
        self.files(name).remove()

    def share(self, name: str) -> Path:
        """The disk that a bucket is for machines, which write to it from now on."""
        self._db.execute("update buckets set shared = 1 where name = ?", (name,))
        return self.files(name).disk

    def files(self, bucket: str) -> BucketFiles:
        """The files of a bucket."""
        return BucketFiles(self._home, bucket)

    # -- objects -------------------------------------------------------------------------------

    async def get(self, bucket: str, name: str) -> Stored | None:
        """An object as it is now; None if there is none."""
        return await self._look(bucket, name, self._row(bucket, name))

    async def list_objects(self, bucket: str, prefix: str = "") -> list[Stored]:
        """The objects whose names begin so, by name."""
        if self._is_shared(bucket) or bucket in self._unchecked:
            self._unchecked.discard(bucket)
            known = {row.name: row for row in self._rows(bucket, "")}
            seen = dict(self.files(bucket).walk())
            for name, signature in seen.items():
                if name not in known or known[name].signature != signature:
                    await self._look(bucket, name, known.get(name))
            for name in known.keys() - seen.keys():
                await self._look(bucket, name, known[name])
        return list(self._rows(bucket, prefix))

    async def put(
        self,
        bucket: str,
        name: str,
        part: Path,
        body: Json,
        check: Callable[[Stored | None, Json], None],
    ) -> Stored:
        """Make an object of a finished file in `parts`, in place of the one that is there.

        `check` is given that one, and the checksums of what would take its place, at the last
        moment; what it raises leaves all as it was."""
        with part.open("rb") as stream:
            sums = await asyncio.to_thread(checksums, stream.fileno())
        there = await self.get(bucket, name)
        check(there, sums)
        self.files(bucket).put(part, name)
        descriptor = self.files(bucket).open(name)
        try:
            signature = Signature.of(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        return self._save(bucket, name, body | sums, signature)

    def change(self, stored: Stored, body: Json) -> Stored:
        """Replace what is said of an object; its content stays."""
        number = str(int(stored.body["metageneration"]) + 1)
        changed = {**body, "metageneration": number, "updated": stamp(self.clock.now())}
        changed["etag"] = _etag(stored.generation, number)
        self._write(replace(stored, body=changed))
        return replace(stored, body=changed)

    def delete(self, stored: Stored) -> None:
        """Delete an object."""
        self._forget(stored.bucket, stored.name)
        self.files(stored.bucket).delete(stored.name)

    def resource(self, stored: Stored) -> Json:
        """An object's resource, with its links."""
        path = f"b/{stored.bucket}/o/{quote(stored.name, safe='')}"
        media = f"{self.url}/download/storage/v1/{path}"
        query = f"generation={stored.generation}&alt=media"
        return {**stored.body, "selfLink": ROOT + path, "mediaLink": f"{media}?{query}"}

    # -- uploads -------------------------------------------------------------------------------

    def save_upload(self, upload_id: str, body: Json) -> None:
        """Remember a resumable upload, whose file is in `parts`."""
        self._db.execute("replace into uploads values (?, ?)", (upload_id, json.dumps(body)))

    def upload(self, upload_id: str) -> Json | None:
        """What was said when a resumable upload began."""
        row = self._db.execute("select body from uploads where id = ?", (upload_id,)).fetchone()
        return None if row is None else json.loads(row[0])

    def end_upload(self, upload_id: str) -> None:
        """Forget a resumable upload, and what has come of it."""
        self._db.execute("delete from uploads where id = ?", (upload_id,))
        (self.parts / upload_id).unlink(missing_ok=True)

    # -- rows ----------------------------------------------------------------------------------

    async def _look(self, bucket: str, name: str, stored: Stored | None) -> Stored | None:
        """An object by its file, which a machine may have made, written to or removed."""
        try:
            descriptor = self.files(bucket).open(name)
        except OSError:
            self._forget(bucket, name)
            return None
        try:
            signature = Signature.of(os.fstat(descriptor))
            if stored is not None and stored.signature == signature:
                return stored
            sums = await asyncio.to_thread(checksums, descriptor)
        finally:
            os.close(descriptor)
        return self._save(bucket, name, {"contentType": UNKNOWN, **sums}, signature)

    def _save(self, bucket: str, name: str, body: Json, signature: Signature) -> Stored:
        now = self.clock.now()
        self._generation = max(self._generation + 1, int(now.timestamp() * 1e6))
        generation, at = self._generation, stamp(now)
        full = {
            **body,
            "kind": "storage#object",
            "id": f"{bucket}/{name}/{generation}",
            "name": name,
            "bucket": bucket,
            "generation": str(generation),
            "metageneration": "1",
            "storageClass": body.get("storageClass", "STANDARD"),
            "etag": _etag(generation, "1"),
            "timeCreated": at,
            "updated": at,
            "timeStorageClassUpdated": at,
            "timeFinalized": at,
        }
        stored = Stored(bucket, name, full, signature)
        self._write(stored)
        return stored

    def _write(self, stored: Stored) -> None:
        row = stored.bucket, stored.name, json.dumps(stored.body), *stored.signature
        self._db.execute("replace into objects values (?, ?, ?, ?, ?, ?)", row)

    def _forget(self, bucket: str, name: str) -> None:
        self._db.execute("delete from objects where bucket = ? and name = ?", (bucket, name))

    def _row(self, bucket: str, name: str) -> Stored | None:
        found = self._db.execute(
            "select * from objects where bucket = ? and name = ?", (bucket, name)
        ).fetchone()
        return None if found is None else _stored(found)

    def _rows(self, bucket: str, prefix: str) -> Iterator[Stored]:
        rows = self._db.execute(
            "select * from objects where bucket = ? and name >= ? order by name", (bucket, prefix)
        )
        for row in rows:
            if not row[1].startswith(prefix):
                return
            yield _stored(row)

    def _is_shared(self, bucket: str) -> bool:
        row = self._db.execute("select shared from buckets where name = ?", (bucket,)).fetchone()
        return row is not None and bool(row[0])


def stamp(moment: datetime) -> str:
    """Format a time as Cloud Storage does: its clients insist on the Z."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def checksums(descriptor: int) -> Json:
    """Size, CRC32C and MD5 of an open file, from its start, as an object's resource has them."""
    crc, md5, size = 0, hashlib.md5(usedforsecurity=False), 0
    while block := os.pread(descriptor, BLOCK, size):
        crc = google_crc32c.extend(crc, block)
        md5.update(block)
        size += len(block)
    return {
        "size": str(size),
        "crc32c": base64.b64encode(crc.to_bytes(4, "big")).decode(),
        "md5Hash": base64.b64encode(md5.digest()).decode(),
    }


def _etag(generation: int, metageneration: str) -> str:
    return base64.b64encode(f"{generation}.{metageneration}".encode()).decode()


def _stored(row: tuple[Any, ...]) -> Stored:
    bucket, name, body, *signature = row
    return Stored(bucket, name, json.loads(body), Signature(*signature))
