"""Stream a run's log from a byte offset until the run has ended and all of it was sent."""

from __future__ import annotations

import json
import os
import select
import sys
import time
from pathlib import Path

from ..paths import RUNS
from ..protocol import GuestError
from .runs import alive_runs, facts

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from ..messages import FollowRequest

STEP_S = 0.05
SESSION_STEP_S = 1.0


def follow(request: FollowRequest) -> None:
    """Log bytes on standard output; the run's last facts as one line on standard error.

    Ends, too, when standard input closes: then nobody listens any more.
    """
    directory = RUNS / Path(request["id"]).name
    if not directory.is_dir():
        raise GuestError("not_found", f"There is no run {request['id']}.", "vmctl ps")
    offset = int(request["offset"])
    alive = alive_runs()
    looked = time.monotonic()
    with (directory / "log").open("rb") as log:
        log.seek(offset)
        while True:
            # asked before reading: what the run wrote before its end is then all there
            ended = (directory / "exit").exists() or directory.name not in alive
            sent = _drain(log.fileno())
            if ended or not request["wait"]:
                break
            if not sent and _listener_left():
                return
            if time.monotonic() - looked > SESSION_STEP_S:
                alive = alive_runs()
                looked = time.monotonic()
        last = facts(directory, alive)
        if ended:
            job = last.get("slurm")
            errors = job.get("errors", "") if job else ""
            _append(errors, max(offset - os.fstat(log.fileno()).st_size, 0))
    sys.stderr.write(json.dumps({"run": last}) + "\n")


def _append(errors: str, skip: int) -> None:
    """After the log, what a script of the user's own wrote to a file for its errors."""
    try:
        text = Path(errors).read_bytes() if errors else b""
    except OSError:
        return
    if text:
        title = f"[vmctl] its standard error, {errors}:\n".encode("utf-8", "surrogateescape")
        _write((title + text)[skip:])


def _drain(descriptor: int) -> bool:
    sent = False
    while data := os.read(descriptor, 1 << 16):
        _write(data)
        sent = True
    return sent


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _listener_left() -> bool:
    """Wait a moment; True when standard input has been closed meanwhile."""
    ready, _, _ = select.select([0], [], [], STEP_S)
    return bool(ready) and not os.read(0, 4096)
