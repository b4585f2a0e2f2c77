"""The processes of an emulator's machines on this computer, and the memory that they use.

Memory is counted as PSS: pages that several processes share are shared out among them, so the
numbers of all machines add up to what this computer really gives.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process of this computer, as /proc tells it."""

    pid: int
    parent: int
    words: tuple[str, ...]

    @property
    def pss_mib(self) -> float:
        """Its share of the memory that it uses; 0 for one that has just ended."""
        try:
            rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        except OSError:
            return 0.0
        lines = [line for line in rollup.splitlines() if line.startswith("Pss:")]
        return int(lines[0].split()[1]) / 1024


def processes() -> dict[int, Process]:
    """Every process, by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):
            words = (entry / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            found[int(entry.name)] = Process(int(entry.name), parent, tuple(words))
    return found


def machines_of(emulator: int) -> list[list[Process]]:
    """The processes of each machine of an emulator: its sandbox with all in it, its network."""
    every = processes()

    def below(pid: int) -> list[Process]:
        children = [one for one in every.values() if one.parent == pid]
        return [*children, *(deeper for child in children for deeper in below(child.pid))]

    machines = []
    for box in (one for one in every.values() if one.parent == emulator):
        if not box.words[0].endswith("bwrap"):
            continue
        inside = below(box.pid)
        pids = {str(one.pid) for one in inside}
        network = [
            one
            for one in every.values()
            if one.parent == emulator
            and one.words[0].endswith("slirp4netns")
            and pids & set(one.words)
        ]
        machines.append([box, *inside, *network])
    return machines
