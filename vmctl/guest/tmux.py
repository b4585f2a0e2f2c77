"""vmctl's own tmux server on the VM, in which runs and services go on without a connection."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from .paths import STATE, ensure
from .protocol import TMUX, WORKSPACES_VARIABLE, GuestError
from .records import read_json, write_json

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    import subprocess

DETACHED = STATE / "detached"  # notes of the sessions that go on without tmux


def call(*words: str) -> subprocess.CompletedProcess[str]:
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
    """The names of the sessions that are alive: of tmux, and those that go on without it."""
    try:
        found = call("list-sessions", "-F", "#{session_name}")
    except GuestError:
        return _detached()
    return (set(found.stdout.split()) if found.returncode == 0 else set()) | _detached()


def processes(name: str) -> list[int]:
    """The first process of each of a session's panes."""
    pid = _detached_process(name)
    if pid:
        return [pid]
    try:
        panes = call("list-panes", "-s", "-t", f"={name}", "-F", "#{pane_pid}").stdout.split()
    except GuestError:  # without tmux, and it has ended just now
        return []
    return [int(pane) for pane in panes]


def end_session(name: str) -> None:
    """End a session and what runs in it."""
    pid = _detached_process(name)
    try:
        if pid:
            os.killpg(pid, signal.SIGKILL)
        else:
            call("kill-session", "-t", f"={name}")
    except (GuestError, ProcessLookupError):  # it has ended just now
        pass


def start_session(name: str, *words: str) -> None:
    """Run this program again with other words, in a tmux session of its own."""
    program = (sys.executable or "/usr/bin/python3", "-ISB", sys.path[0], *words)
    elsewhere = os.environ.get(WORKSPACES_VARIABLE)
    if elsewhere:  # tmux gives a session its server's environment, not ours
        program = ("env", f"{WORKSPACES_VARIABLE}={elsewhere}", *program)
    try:
        started = call("new-session", "-d", "-s", name, "-x", "200", "-y", "50", *program)
    except GuestError:  # there is none
        _start_detached(name, program)
        return
    if started.returncode != 0:
        raise GuestError("conflict", f"tmux did not start: {started.stderr.strip()[-300:]}")


# -- without tmux, which a server may lack ------------------------------------------------------


def _start_detached(name: str, program: tuple[str, ...]) -> None:
    import subprocess

    with Path(os.devnull).open("r+b") as nothing:
        process = subprocess.Popen(
            program,
            cwd=Path.home(),
            stdin=nothing,
            stdout=nothing,
            stderr=nothing,
            start_new_session=True,
        )
    write_json(ensure(DETACHED) / name, {"pid": process.pid, "began": _began(process.pid)})


def _detached() -> set[str]:
    """Those that are alive; notes of this computer's that have ended are removed."""
    alive = set()
    for note in DETACHED.iterdir() if DETACHED.is_dir() else ():
        if _detached_process(note.name):
            alive.add(note.name)
        elif str((read_json(note) or {}).get("began", "")).startswith(f"{os.uname().nodename} "):
            note.unlink(missing_ok=True)
    return alive


def _detached_process(name: str) -> int:
    """The process of a session without tmux; 0 where there is none, or it has ended."""
    note = read_json(DETACHED / name) or {}
    pid = int(note.get("pid") or 0)
    return pid if pid and note.get("began") == _began(pid) else 0


def _began(pid: int) -> str:
    """What tells a process from a later one of the same number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = stat.rpartition(")")[2].split()
    # 0 is the state, 19 the start in ticks since the boot
    return f"{os.uname().nodename} {fields[19]}" if fields[0] != "Z" else ""
