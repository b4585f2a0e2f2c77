"""Many machines at once on this computer: all answer at the same time, and what each one weighs.

Memory is counted as PSS: pages that several processes share are shared out among them, so the
numbers of all machines add up to what this computer really gives.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from scripts.own_emulator import VMCTL, OwnEmulator, finished

COUNT = 20
ABREAST = 4  # commands that bring machines up side by side


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


class Room(OwnEmulator):
    """As many projects as one likes, each with its machine."""

    @property
    def emulator(self) -> int:
        """The emulator's process id."""
        return int(self.record["pid"])

    def fill(self, names: Sequence[str]) -> None:
        """A machine for each of the names, a few commands side by side."""
        with ThreadPoolExecutor(ABREAST) as hands:
            list(hands.map(lambda n: self.vmctl("-n", n, "up", "--gpu", "none", "--yes"), names))

    def ask_all(self, names: Sequence[str], *command: str) -> list[str]:
        """What a command prints on every machine, run on all of them at the same time."""
        asked = [self.start(VMCTL, "-n", name, "exec", "--", *command) for name in names]
        return [finished(one).strip() for one in asked]


def run(count: int = COUNT) -> None:
    """Print what so many machines weigh, each and together."""
    names = [f"m{number:02d}" for number in range(count)]
    with Room.opened() as room:
        itself = processes()[room.emulator]
        empty_mib = itself.pss_mib
        began = time.perf_counter()
        room.fill(names)
        booted_s = time.perf_counter() - began
        began = time.perf_counter()
        said = room.ask_all(names, "hostname")
        asked_s = time.perf_counter() - began
        right = sum(said[i] == f"bench-{name}" for i, name in enumerate(names))
        machines = machines_of(room.emulator)
        weights = sorted(sum(one.pss_mib for one in inside) for inside in machines)
        full_mib = itself.pss_mib
        disks_mib = sum(
            path.stat().st_blocks * 512
            for path in (room.base / "emulator").rglob("*")
            if path.is_file() and not path.is_symlink()
        ) / (2**20 * count)
    print(f"\n{count} machines at once (no torch), memory as PSS")
    print(f"  up, {ABREAST} side by side            {booted_s:8.1f} s")
    print(f"  `hostname` on all at once       {asked_s:8.1f} s, {right} of {count} right")
    print(f"  one machine: median             {statistics.median(weights):8.1f} MiB")
    print(f"  one machine: least, most        {weights[0]:8.1f} MiB {weights[-1]:.1f} MiB")
    print(f"  the emulator: empty, full       {empty_mib:8.1f} MiB {full_mib:.1f} MiB")
    print(f"  all together                    {sum(weights) + full_mib:8.1f} MiB")
    print(f"  disk of one machine             {disks_mib:8.1f} MiB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=COUNT)
    run(parser.parse_args().count)
