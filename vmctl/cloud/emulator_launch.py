"""The embedded Compute Engine started as a program of its own, and stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vmctl.clock import Clock
from vmctl.cloud.emulator_process import (
    EmulatorProcess,
    check_none_of_old,
    find,
    is_alive,
)
from vmctl.domain.errors import InvalidInput, TimedOut, VmctlError

START_LIMIT_S = 60.0
POLL_S = 0.03
DEBIAN_PACKAGES = "openssh-server bubblewrap slirp4netns iproute2 rsync tmux"


def start(
    folder: Path, clock: Clock, time_kind: str | None = None, *, metadata_only: bool = False
) -> EmulatorProcess:
    """Start one as a program of its own and wait until it answers; one that runs is kept.

    `time_kind` is how its time passes: real (the default), scaled:RATE or stepped. With
    `metadata_only` its instances have no machines, as long as the folder has any instance.
    Raises InvalidInput when a program that it needs is missing, VmctlError with the end of its
    log when it ends, TimedOut.
    """
    running = find(folder)
    if running:
        return running
    check_none_of_old(folder)
    if not metadata_only and not _which("sshd"):
        raise InvalidInput(
            "The embedded Compute Engine needs OpenSSH's server, which is not installed.",
            hint=f"sudo apt-get install -y {DEBIAN_PACKAGES}",
        )
    words = ["--clock", time_kind] if time_kind else []
    child = _spawn(folder, [*words, "--metadata-only"] if metadata_only else words)
    try:
        return _wait_answer(child, folder, clock)
    except (KeyboardInterrupt, SystemExit):  # given up before it answers: nobody would end it
        child.terminate()
        child.wait(timeout=START_LIMIT_S)
        raise


def _wait_answer(child: subprocess.Popen[bytes], folder: Path, clock: Clock) -> EmulatorProcess:
    deadline = clock.monotonic() + START_LIMIT_S
    ended_at: float | None = None
    while clock.monotonic() < deadline:
        running = find(folder)
        if running:
            return running
        if child.poll() is not None:
            # Another command may have started one at the same moment: then this one ends.
            ended_at = ended_at or clock.monotonic()
            if clock.monotonic() - ended_at > 3 or child.returncode not in (0, 4):
                break
        clock.sleep(POLL_S)
    log = folder / "emulator.log"
    if child.poll() is None:
        raise TimedOut(
            f"The embedded Compute Engine did not answer within {START_LIMIT_S:g} s.",
            hint=f"Its log: {log}",
        )
    raise VmctlError(
        f"The embedded Compute Engine exited at startup: {_tail(log)}", hint=f"Its log: {log}"
    )


def stop(running: EmulatorProcess, folder: Path, clock: Clock, limit_s: float = 30.0) -> None:
    """Ask it to stop and wait until its process is gone; its machines' disks stay."""
    import signal

    try:
        os.kill(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise InvalidInput(
            f"The embedded Compute Engine in {folder} is run by another user.",
            hint="Stop it as that user.",
        ) from error
    deadline = clock.monotonic() + limit_s
    while clock.monotonic() < deadline:
        if not is_alive(running.pid):
            return
        clock.sleep(POLL_S)
    raise TimedOut(
        f"The embedded Compute Engine (process {running.pid}) did not stop in {limit_s:g} s.",
        hint=f"Its log: {folder / 'emulator.log'}",
    )


def _spawn(folder: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        _make_home(folder)
        log_file = os.open(
            folder / "emulator.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(log_file, "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(folder), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,  # neither the user's folder in use, nor a module of the user's found
                start_new_session=True,
            )
    except OSError as error:
        raise InvalidInput(
            f"The embedded Compute Engine cannot use {folder}: {error.strerror}.",
            hint="Set VMCTL_EMULATOR_HOME to a folder that you can write to.",
        ) from error


def _which(program: str) -> str | None:
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    return shutil.which(program, path=places)


def _make_home(folder: Path) -> None:
    """Whatever the umask: for the user alone, in folders that may be passed through."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
            parent.chmod(0o711)  # root's machines run under another uid, which has to get there
    if not folder.exists():
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "it left no log"
