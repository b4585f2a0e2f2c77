"""A process with all that it started: listed, stopped and continued, from the computer's side."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

FREEZE_S = 10.0
STILL = "TtZX"  # states in /proc of what does not run: stopped, traced, ended


def list_tree(root: int) -> dict[int, str]:
    """Return a process and its descendants with their states, parents first."""
    children: dict[int, list[int]] = {}
    states: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                states[int(entry.name)] = fields[0]
    found = {root: states.get(root, "X")}
    todo = [root]
    while todo:
        for child in children.get(todo.pop(), []):
            found[child] = states[child]
            todo.append(child)
    return found


def freeze(root: int) -> list[int]:
    """Stop a process and its descendants; return those that ran, parents first.

    OSError if some of them still run after ten seconds."""
    frozen: dict[int, None] = {}
    deadline = time.monotonic() + FREEZE_S
    while running := [pid for pid, state in list_tree(root).items() if state not in STILL]:
        if time.monotonic() > deadline:
            thaw(list(frozen))
            raise OSError(f"{len(running)} processes do not stop")
        for pid in running:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
                frozen[pid] = None
        time.sleep(0.005)
    return list(frozen)


def thaw(frozen: list[int]) -> None:
    """Continue what `freeze` stopped: children first, so that no shell sees a stopped child."""
    for pid in reversed(frozen):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
