"""How records are read, replaced and locked on the VM."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any


def read_json(path: Path) -> dict[str, Any] | None:
    """The record in a file; None when there is none or it is not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, record: object, *, sync: bool = True) -> None:
    """Replace a record at once: a reader sees the old one or the new one, never a half."""
    write_bytes(path, json.dumps(record).encode(), sync=sync)


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600, sync: bool = True) -> None:
    """Replace a file at once; with `sync` it is on the disk afterwards."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold a lock that dies with all who hold its descriptor, which is not inherited."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)
