"""Folders that machines can enter, and the processes that a test must not leave behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

ENDING_S = 20.0


def public_folder(name: str) -> Path:
    """A new folder that other users of this computer can enter, as machines' disks need."""
    base = os.environ.get("VMCTL_TESTS_FOLDER")  # of a run that clears up after itself
    folder = (
        Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        if base
        else Path(tempfile.mkdtemp(prefix=f"vmctl-{name}-", dir="/var/tmp"))
    )
    folder.chmod(0o755)
    return folder


def processes_of(marker: str) -> list[str]:
    """The processes on this computer whose command line or environment names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or entry.name == str(os.getpid()):
            continue
        try:
            words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in words:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            found.append(f"{entry.name}: {line}")
    return found


def commands_of(folder: Path) -> list[int]:
    """The processes on this computer whose command line names a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if str(folder).encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def remove(base: Path) -> None:
    """Remove a test's folder; what goes on running in it is ended and is the test's failure."""
    deadline = time.monotonic() + ENDING_S
    while left := [line for line in processes_of(str(base)) if "pytest" not in line]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)  # gcloud, say, takes a second to notice that its ssh has ended
    for line in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(line.split(":")[0]), signal.SIGKILL)
    shutil.rmtree(base, ignore_errors=True)
    assert not left, f"left running: {left}"
