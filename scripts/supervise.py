"""Run a command as the foster parent of all that it starts: bounded, counted, and cleaned up after.

    python -m scripts.supervise [--limit MINUTES] [--title WORDS] COMMAND...

Emulators and machines outlive what started them; on Linux they become children of this program
instead, so that

- it knows the processor time of the whole run, and prints it;
- after the limit it stops the run, with the names of the tests that were running;
- ended by Ctrl-C, SIGTERM, SIGHUP or the limit, it takes every process and folder of the run along.

Tests make their folders in VMCTL_TESTS_FOLDER and name there what they run (tests/conftest.py).
The exit code is the command's; 124 after the limit; 128 + N after signal N.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_PDEATHSIG = 1
POLITE_S = 20.0  # what the run may take to end by itself once it is asked to
GRACE_S = 3.0
POLL_S = 0.1  # a wait for any child has no limit of its own: so it is looked for
SHOWN = 20
EXIT_LIMIT = 124


class Stopped(Exception):
    """A signal asked for the end; its number is the first argument."""


def supervise(command: list[str], limit_s: float | None) -> int:
    """Run it and return its exit code, or the one that says why it was stopped."""
    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)
    folder = Path(tempfile.mkdtemp(prefix="vt-", dir="/var/tmp"))  # sockets need short paths
    folder.chmod(0o755)  # machines run under other users
    (folder / "running").mkdir()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    process = subprocess.Popen(
        command,
        env={**os.environ, "VMCTL_TESTS_FOLDER": str(folder)},
        process_group=0,  # Ctrl-C reaches it through us, once
        preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGTERM),
    )
    code = 0
    at_work: list[str] = []
    try:
        code = _wait(process, limit_s)
    except TimeoutError:
        code = EXIT_LIMIT
        at_work = sorted(running(folder))
    except Stopped as stop:
        code = 128 + int(stop.args[0])
    finally:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)  # a shell alone would wait for what it runs
            with contextlib.suppress(TimeoutError):
                _wait(process, POLITE_S)
        if left := end_all():
            print("Ended now, left running:", *left[:SHOWN], sep="\n  ")
        shutil.rmtree(folder, ignore_errors=True)
    if code == EXIT_LIMIT:
        print(f"\nStopped: the run's {(limit_s or 0) / 60:g} minutes are over. At work were:")
        print(*(f"  {name}" for name in at_work), sep="\n")
    return code if code >= 0 else 128 - code


def _wait(process: subprocess.Popen[bytes], limit_s: float | None) -> int:
    """The exit code of our command; what else ends meanwhile is not left as a zombie.

    Raises TimeoutError.
    """
    deadline = time.monotonic() + limit_s if limit_s else float("inf")
    while time.monotonic() < deadline:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == process.pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return process.returncode
        if pid == 0:
            time.sleep(POLL_S)
    raise TimeoutError


def running(folder: Path) -> list[str]:
    """The tests that have started and not ended."""
    names = []
    for file in (folder / "running").iterdir():
        with contextlib.suppress(OSError):
            names.append(file.read_text(encoding="utf-8"))
    return [name for name in names if name]


def end_all() -> list[str]:
    """End every process that descends from this one; their command lines."""
    ended: dict[int, str] = {}
    deadline = time.monotonic() + POLITE_S
    while descendants(os.getpid()) and time.monotonic() < deadline - POLITE_S + GRACE_S:
        _reap()  # what is about to end by itself may do so
        time.sleep(POLL_S)
    while found := descendants(os.getpid()):
        ended.update(found)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        _reap()
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_S)
    _reap()
    return list(ended.values())


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants(root: int) -> dict[int, str]:
    """The living processes below one, by pid, with their command lines."""
    parents: dict[int, int] = {}
    if not Path("/proc/self/stat").exists():
        return {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                if words[0] != "Z":
                    parents[int(entry.name)] = int(words[1])
    found: dict[int, str] = {}
    generation = {root}
    while generation := {pid for pid, parent in parents.items() if parent in generation}:
        for pid in generation:
            with contextlib.suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ")
                found[pid] = line.decode("utf-8", "replace").strip()[:150]
    return found


def _stop(number: int, _frame: object) -> None:
    raise Stopped(number)


def _prctl() -> Callable[[int, int], int]:
    try:
        prctl: Callable[[int, int], int] = ctypes.CDLL(None, use_errno=True).prctl
        return prctl
    except (OSError, AttributeError):  # no Linux: the run is neither counted whole nor cleaned up
        return lambda *_: 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--limit", type=float, help="minutes after which the run is stopped")
    parser.add_argument("--title", default="The run", help="what the last line calls it")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    began = time.monotonic()
    code = supervise(given.command, given.limit * 60 if given.limit else None)
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = spent.ru_utime + spent.ru_stime
    print(
        f"{given.title}: {seconds:.0f} s of processor time, "
        f"{(time.monotonic() - began) / 60:.1f} minutes"
    )
    return code


if __name__ == "__main__":
    sys.exit(main())
