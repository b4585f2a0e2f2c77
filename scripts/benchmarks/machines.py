"""Many machines at once on this computer: all answer at the same time, and what each one weighs.

Memory is counted as PSS: pages that several processes share are shared out among them, so the
numbers of all machines add up to what this computer really gives.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from scripts.benchmarks.cloud import VMCTL, BenchCloud, output_of
from tests.harness.machine_processes import machines_of, processes

COUNT = 20
ABREAST = 4  # commands that bring machines up side by side


class Room(BenchCloud):
    """As many projects as one likes, each with its machine."""

    @property
    def emulator(self) -> int:
        """The emulator's process id."""
        return int(self.endpoint.about["pid"])

    def fill(self, names: Sequence[str]) -> None:
        """A machine for each of the names, a few commands side by side."""
        with ThreadPoolExecutor(ABREAST) as hands:
            list(hands.map(lambda n: self.vmctl("-n", n, "up", "--gpu", "none", "--yes"), names))

    def ask_all(self, names: Sequence[str], *command: str) -> list[str]:
        """What a command prints on every machine, run on all of them at the same time."""
        asked = [self.start_program(VMCTL, "-n", name, "exec", "--", *command) for name in names]
        return [output_of(one).strip() for one in asked]


def run(count: int = COUNT) -> None:
    """Print what these machines use, each and together."""
    names = [f"m{number:02d}" for number in range(count)]
    with Room.opened("bench") as room:
        itself = processes()[room.emulator]
        empty_mib = itself.pss_mib
        began = time.perf_counter()
        room.fill(names)
        booted_s = time.perf_counter() - began
        began = time.perf_counter()
        names_seen = room.ask_all(names, "hostname")
        asked_s = time.perf_counter() - began
        right = sum(names_seen[i] == f"bench-{name}" for i, name in enumerate(names))
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
