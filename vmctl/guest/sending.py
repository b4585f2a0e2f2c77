"""Send files from byte offsets, with the SHA-256 of each whole file computed on the way."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

CHUNK_BYTES = 1 << 20


def send(request: dict[str, Any]) -> None:
    """For each file: a header line, the bytes that are missing over there, a trailer line.

    `prefix_sha256` is the sum of the bytes that the other side has already; where it is not
    this file's, the whole file is sent from offset 0.
    """
    for number, wanted in enumerate(request["files"]):
        _send_one(number, wanted)


def _send_one(number: int, wanted: dict[str, Any]) -> None:
    with Path(wanted["path"]).open("rb") as file:
        before = os.fstat(file.fileno())
        digest = hashlib.sha256()
        offset = min(int(wanted["offset"]), before.st_size)
        if offset and not _same_prefix(file, offset, digest, wanted["prefix_sha256"]):
            offset = 0
            digest = hashlib.sha256()
            file.seek(0)
        left = before.st_size - offset
        _line({"number": number, "offset": offset, "bytes": left})
        while left:
            data = file.read(min(CHUNK_BYTES, left))
            if not data:  # it shrank: the promised length is kept, the trailer says so
                data = bytes(min(CHUNK_BYTES, left))
            digest.update(data)
            _write(data)
            left -= len(data)
        after = os.fstat(file.fileno())
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    _line({"sha256": digest.hexdigest(), "changed": changed})


def _same_prefix(file: Any, offset: int, digest: Any, expected: str) -> bool:
    left = offset
    while left:
        data = file.read(min(CHUNK_BYTES, left))
        if not data:
            return False
        digest.update(data)
        left -= len(data)
    same: bool = digest.hexdigest() == expected
    return same


def _line(record: dict[str, Any]) -> None:
    _write(json.dumps(record).encode() + b"\n")


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]
