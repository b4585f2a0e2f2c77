"""Send files in one program run: a listing, then each file's missing bytes and its SHA-256.

What goes over standard output, in this order:

    {"waiting": why}                    any number of times, with `wait`
    {"listing": N}                      and N bytes: the listing as JSON, compressed by zlib
    {"number", "offset", "bytes"}       for each file, then that many bytes, then
    {"sha256", "changed", "mtime_ns", "mode"}     of the whole file; whether it changed meanwhile
    {"end": true}

Between these records empty lines may come: they only say that this end is at work.

Files are numbered in the order of the listing. With `ask` the other side then says on standard
input which of them it wants, as one line: {"files": [[number, offset, prefix_sha256], ...]}.
Without it, all are sent at once: that is a round trip less.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import stat
import sys
import time
import zlib

from .. import heartbeat
from ..protocol import LISTED, LISTING_BYTES, GuestError
from .lookup import locate, place_of
from .open_files import unfinished

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from ..messages import FetchRequest, ListedEntry, RemoteListing

CHUNK_BYTES = 1 << 18
LOOK_S = 0.5
REMIND_S = 5.0  # so that somebody who has left is noticed


def fetch(request: FetchRequest) -> None:
    """Find what is wanted, wait for it where asked to, and send it."""
    heartbeat.begin()
    listing = _settled(request)
    if listing is not None:
        send(listing, bool(request["ask"]))


def send(listing: RemoteListing, ask: bool) -> None:
    """The listing, then the files that the other side wants of it."""
    data = json.dumps(listing).encode()
    count = sum(len(item["files"]) for item in listing["found"])
    if count > LISTED or len(data) > LISTING_BYTES:
        raise GuestError(
            "invalid",
            f"These are {count} files and folders, too many for one listing ({LISTED} at most).",
            "Fetch folder by folder, or pack them: vmctl exec -- tar cf all.tar FOLDER",
        )
    packed = zlib.compress(data, 1)
    heartbeat.hush()
    _line({"listing": len(packed)})
    _write(packed)
    heartbeat.resume()
    files = [
        (item, entry) for item in listing["found"] for entry in item["files"] if entry[0] == "file"
    ]
    wanted: list[list[Any]] = [[number, 0, ""] for number in range(len(files))]
    if ask:
        answer = sys.stdin.buffer.readline()
        if not answer:  # nobody wants anything any more
            return
        wanted = json.loads(answer)["files"]
    for number, offset, prefix in wanted:
        item, entry = files[number]
        path = place_of(item, entry)
        if entry[1] and not os.path.lexists(path):  # the run has ended meanwhile
            path = f"{item['path']}/{entry[1]}"
        _send_one(number, path, entry, int(offset), str(prefix))
    _line({"end": True})


def _settled(request: FetchRequest) -> RemoteListing | None:
    """The listing once it is whole; a refusal where that is not waited for."""
    sent, sent_at = "", 0.0
    while True:
        listing = locate(request)
        why = _missing(listing) if request["wait"] else ""
        if not why and not request["force"]:
            why = unfinished(listing)
            if why and not request["wait"]:
                raise GuestError(
                    "conflict",
                    f"{why}.",
                    "Wait for it: vmctl fetch --wait, or fetch it as it is: vmctl fetch --force",
                )
        if not why:
            return listing
        if why != sent or time.monotonic() - sent_at > REMIND_S:
            _line({"waiting": why})
            sent, sent_at = why, time.monotonic()
        if _left(LOOK_S):
            return None


def _missing(listing: RemoteListing) -> str:
    """What the run that goes on has not written yet."""
    if not listing["going"]:
        return ""
    older = [item["wanted"] for item in listing["found"] if item.get("older")]
    waited = [*listing["missing"], *older]
    return f"{listing['run']} has not written {waited[0]} yet" if waited else ""


def _left(seconds: float) -> bool:
    """Wait a moment; True when standard input has been closed meanwhile."""
    ready, _, _ = select.select([0], [], [], seconds)
    return bool(ready)


def _send_one(number: int, path: str, entry: ListedEntry, offset: int, prefix: str) -> None:
    """Header, bytes from the offset on, trailer; from 0 where the prefix is not this file's.

    Never more than was listed: what a file has grown by since does not count.
    """
    descriptor = _open(path)
    try:
        before = os.fstat(descriptor)
        if not stat.S_ISREG(before.st_mode):
            raise GuestError("conflict", f"{path} is no longer a file.", "vmctl fetch")
        size = min(before.st_size, entry[2])
        digest = hashlib.sha256()
        if offset > size or not _same_prefix(descriptor, offset, digest, prefix):
            offset, digest = 0, hashlib.sha256()
        os.lseek(descriptor, offset, os.SEEK_SET)
        left = size - offset
        heartbeat.hush()
        _line({"number": number, "offset": offset, "bytes": left})
        while left:
            data = os.read(descriptor, min(CHUNK_BYTES, left))
            if not data:  # it shrank: the promised length is kept, the trailer says so
                data = bytes(min(CHUNK_BYTES, left))
            digest.update(data)
            _write(data)
            left -= len(data)
        after = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    changed = entry[2] != before.st_size or (before.st_size, before.st_mtime_ns) != (
        after.st_size,
        after.st_mtime_ns,
    )
    times = {"mtime_ns": after.st_mtime_ns, "mode": stat.S_IMODE(after.st_mode)}
    _line({"sha256": digest.hexdigest(), "changed": changed, **times})
    heartbeat.resume()


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise GuestError(
            "conflict", f"{path} was removed while it was being fetched.", "vmctl fetch"
        ) from error


def _same_prefix(descriptor: int, offset: int, digest: Any, expected: str) -> bool:
    left = offset
    while left:
        data = os.read(descriptor, min(CHUNK_BYTES, left))
        if not data:
            return False
        digest.update(data)
        left -= len(data)
    return not offset or digest.hexdigest() == expected


def _line(record: dict[str, Any]) -> None:
    _write(json.dumps(record).encode() + b"\n")


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
