"""One push of a project at a time: a later one ends an earlier one, it does not wait for it.

A push on a link that died may hang here for as long as sshd takes to notice, and what it had sent
may arrive when another has long replaced it. So each push draws a number here before it hears
anything: a higher one began later, whatever any clock says.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import time

from ..paths import STATE, ensure
from ..protocol import GuestError

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from ..messages import PushRequest

FLOCK = struct.Struct("hhqqi")  # struct flock on Linux
PATIENCE_S = 10.0
NAMED_S = 1.0  # an older vmctl's helper does not name itself
TURNS = ".turns"


def draw_number() -> int:
    """A number that is higher than those of all pushes begun on this machine."""
    folder = ensure(STATE / "push")
    descriptor = os.open(folder / TURNS, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            last = int(os.pread(descriptor, 32, 0))
        except ValueError:  # the first of all, or somebody has tidied up
            held = [_parsed(path.read_bytes()) for path in folder.glob("*.lock")]
            last = max((holder.turn for holder in held), default=0)
        os.pwrite(descriptor, b"%020d" % (last + 1), 0)
        return last + 1
    finally:
        os.close(descriptor)


def acquire(request: PushRequest) -> int:
    """The lock of a project's pushes; one that hangs on a dead link is ended, not waited for.

    The lock's file names who has it: of two from the same folder the one that drew later wins.
    """
    path = STATE / "push" / f"{request['project']}.lock"
    ensure(path.parent)
    mine = Holder(request["origin"], request["turn"], os.getpid())
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    signal.signal(signal.SIGTERM, _on_superseded)
    began = time.monotonic()
    asked = 0
    while True:
        holder, is_mine = 0, True
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder, is_mine = _holder(descriptor), False
        known = _parsed(os.pread(descriptor, 1 << 16, 0))
        if known.origin == mine.origin and known.turn > mine.turn:
            _on_superseded(0, None)
        if is_mine:
            record = json.dumps(vars(mine)).encode()
            os.pwrite(descriptor, record, 0)
            os.truncate(descriptor, len(record))
            return descriptor
        waited = time.monotonic() - began
        late = waited > PATIENCE_S
        # one that has just taken the lock is about to say who it is: it may be the later one
        is_named = known.pid == holder or waited > NAMED_S
        if holder and is_named and (holder != asked or late):
            try:
                os.kill(holder, signal.SIGKILL if late else signal.SIGTERM)
            except ProcessLookupError:
                pass
            asked = holder
        time.sleep(0.01)


class Holder:
    """Who has a project's lock, or had it last."""

    def __init__(self, origin: str = "", turn: int = 0, pid: int = 0) -> None:
        self.origin = origin
        self.turn = turn
        self.pid = pid


def _parsed(record: bytes) -> Holder:
    """An older vmctl's record tells nothing that counts."""
    try:
        found = json.loads(record)
        return Holder(str(found["origin"]), int(found["turn"]), int(found["pid"]))
    except (ValueError, TypeError, KeyError):
        return Holder()


def _holder(descriptor: int) -> int:
    """The process that holds the lock, by the kernel; 0 if none."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    return 0 if kind == fcntl.F_UNLCK else int(pid)


def _on_superseded(number: int, frame: object) -> None:
    raise GuestError(
        "conflict", "Another push of this project has started in the meantime.", "vmctl push"
    )
