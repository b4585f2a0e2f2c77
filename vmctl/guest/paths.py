"""Where things are on the VM, and how records are read and written there."""

from __future__ import annotations

import fcntl
import json
import os
import re
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from typing import Any

HOME = Path.home()
STATE = HOME / ".vmctl"
RUNS = STATE / "runs"
TMUX = ("tmux", "-u", "-L", "vmctl", "-f", "/dev/null")


class GuestError(Exception):
    """A request that cannot be met; `kind` names the class of error on the other side."""

    def __init__(self, kind: str, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.hint = hint


def ensure(folder: Path) -> Path:
    """The folder, made when missing, readable by the login user alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def workspace(project: str) -> Path:
    """The folder that holds a project's pushed tree."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", project):
        raise GuestError("invalid", f"'{project}' is no project name.")
    return HOME / "Workspace" / project


def read_json(path: Path) -> dict[str, Any] | None:
    """The record in a file; None when there is none or it is not whole."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_json(path: Path, record: object) -> None:
    """Replace a record at once: a reader sees the old one or the new one, never a half."""
    write_bytes(path, json.dumps(record).encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file at once, with mode 0600."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that dies with its holder."""
    ensure(path.parent)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def tmux(*words: str) -> subprocess.CompletedProcess[str]:
    """Talk to vmctl's own tmux server, never to the user's."""
    import subprocess

    environment = {name: value for name, value in os.environ.items() if name != "TMUX"}
    try:
        return subprocess.run(
            [*TMUX, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise GuestError("conflict", "tmux is not installed on the VM.", "vmctl up") from error


def sessions() -> set[str]:
    """The names of the tmux sessions that are alive; none when no server runs."""
    try:
        found = tmux("list-sessions", "-F", "#{session_name}")
    except GuestError:
        return set()
    return set(found.stdout.split()) if found.returncode == 0 else set()


def start_session(name: str, *words: str) -> None:
    """Run this program again with other words, in a tmux session of its own."""
    import sys

    program = (sys.executable or "/usr/bin/python3", "-ISB", sys.path[0], *words)
    started = tmux("new-session", "-d", "-s", name, "-x", "200", "-y", "50", *program)
    if started.returncode != 0:
        raise GuestError("conflict", f"tmux did not start: {started.stderr.strip()[-300:]}")


def python_path() -> str:
    """PATH for jobs and services: `python` is the interpreter that set-up found."""
    machine = read_json(STATE / "machine.json") or {}
    interpreter = str(machine.get("python") or "")
    found = [str(STATE / "bin")]
    if interpreter:
        found.append(str(Path(interpreter).parent))
    found.append(str(HOME / ".local/bin"))
    found.append(str(machine.get("login_path") or os.environ.get("PATH") or os.defpath))
    return ":".join(found)
