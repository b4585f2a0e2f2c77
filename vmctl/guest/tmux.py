"""vmctl's own tmux server on the VM, in which runs and services go on without a connection."""

from __future__ import annotations

import os
import sys

from .protocol import TMUX, WORKSPACES_VARIABLE, GuestError

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    import subprocess


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
    """The names of the tmux sessions that are alive; none when no server runs."""
    try:
        found = call("list-sessions", "-F", "#{session_name}")
    except GuestError:
        return set()
    return set(found.stdout.split()) if found.returncode == 0 else set()


def start_session(name: str, *words: str) -> None:
    """Run this program again with other words, in a tmux session of its own."""
    program = (sys.executable or "/usr/bin/python3", "-ISB", sys.path[0], *words)
    elsewhere = os.environ.get(WORKSPACES_VARIABLE)
    if elsewhere:  # tmux gives a session its server's environment, not ours
        program = ("env", f"{WORKSPACES_VARIABLE}={elsewhere}", *program)
    started = call("new-session", "-d", "-s", name, "-x", "200", "-y", "50", *program)
    if started.returncode != 0:
        raise GuestError("conflict", f"tmux did not start: {started.stderr.strip()[-300:]}")
