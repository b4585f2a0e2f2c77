"""One push of a project at a time: a later one ends an earlier one, it does not wait for it.

A push on a link that died may hang here for as long as sshd takes to notice.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import time

from .layout import STATE, Refusal, ensure

TYPE_CHECKING = False  # see pushing.py
if TYPE_CHECKING:
    from typing import Any

FLOCK = struct.Struct("hhqqi")  # struct flock on Linux
PATIENCE_S = 10.0
LATE_S = 900.0  # what started earlier can come so late; after that the other clock was set back


def take_over(request: dict[str, Any]) -> int:
    """The lock of a project's pushes; one that hangs on a dead link is ended, not waited for.

    The lock's file names who has it: what started later on the same computer wins.
    """
    path = STATE / "push" / f"{request['project']}.lock"
    ensure(path.parent)
    mine = [request["origin"], request["stamp"]]
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    signal.signal(signal.SIGTERM, _superseded)
    deadline = time.monotonic() + PATIENCE_S
    asked = 0
    while True:
        holder = 0
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = _holder(descriptor)
        else:
            _refuse_older(descriptor, mine)
            os.truncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(mine).encode(), 0)
            return descriptor
        _refuse_older(descriptor, mine)
        late = time.monotonic() > deadline
        if holder and (holder != asked or late):
            try:
                os.kill(holder, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                pass
            asked = holder
        time.sleep(0.01)


def _refuse_older(descriptor: int, mine: list[Any]) -> None:
    try:
        origin, stamp = json.loads(os.pread(descriptor, 1 << 16, 0))
    except (ValueError, TypeError):
        return
    age_s = abs(time.time() - os.fstat(descriptor).st_mtime)
    if origin == mine[0] and stamp > mine[1] and age_s < LATE_S:
        _superseded(0, None)


def _holder(descriptor: int) -> int:
    """The process that holds the lock, told by the kernel; 0 when nobody does."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _superseded(number: int, frame: object) -> None:
    raise Refusal("conflict", "Another push of this project began meanwhile.", "vmctl push")
