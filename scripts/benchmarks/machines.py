"""Many machines at once on this computer: all answer at the same time, and what each one weighs.

Then a thousand that are metadata only: how long lists of them take the emulator.

Memory is counted as PSS: pages that several processes share are shared out among them, so the
numbers of all machines add up to what this computer really gives.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scripts.benchmarks.cloud import VMCTL, BenchCloud, output_of
from tests.harness.machine_processes import machines_of, processes

COUNT = 20
ZONES, EACH = ("europe-west1-b", "europe-west4-a", "us-central1-a", "europe-west2-a"), 250
REQUESTS = 20  # of each list
LISTS = {
    "list of 100": f"zones/{ZONES[0]}/instances?maxResults=100",
    "filtered list of 100": f"zones/{ZONES[0]}/instances?maxResults=100&filter=status%3DRUNNING",
    "aggregatedList of 500": "aggregated/instances",
}
IMAGE = "projects/debian-cloud/global/images/family/debian-12"
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


class Catalogue(Room):
    """VMs without machines."""

    def start(self) -> None:
        self.vmctl("emulator", "start", "--metadata-only")

    def make(self, zone: str) -> None:
        """EACH of them in a zone; they run when this returns."""
        disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}
        properties = {"machineType": "e2-small", "disks": [disk], "networkInterfaces": [{}]}
        body = {"count": EACH, "namePattern": "vm-###", "instanceProperties": properties}
        operation = self.api("POST", f"zones/{zone}/instances/bulkInsert", body)
        self.api("POST", f"zones/{zone}/operations/{operation['name']}/wait")

    def busy_s(self) -> float:
        """The emulator's processor time until now."""
        fields = Path(f"/proc/{self.emulator}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_lists() -> None:
    """Print how long the emulator takes to make and to list VMs that are metadata only."""
    with Catalogue.opened("bench") as catalogue:
        busy, began = catalogue.busy_s(), time.perf_counter()
        for zone in ZONES:
            catalogue.make(zone)
        made_s, busy_s = time.perf_counter() - began, catalogue.busy_s() - busy
        rows = []
        for name, path in LISTS.items():
            busy, times = catalogue.busy_s(), []
            for _ in range(REQUESTS):
                began = time.perf_counter()
                catalogue.api("GET", path)
                times.append(1000 * (time.perf_counter() - began))
            each_ms = 1000 * (catalogue.busy_s() - busy) / REQUESTS
            rows.append((name, min(times), statistics.median(times), each_ms))
    print(f"\n{len(ZONES) * EACH} VMs that are metadata only, over TLS")
    print(f"  made in {len(ZONES)} zones                {made_s:8.1f} s, {busy_s:.1f} of processor")
    for name, least, median, each in rows:
        print(f"  {name:<32}{least:8.1f} ms least, {median:.1f} median, {each:.1f} of processor")


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
    run_lists()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("count", nargs="?", type=int, default=COUNT)
    run(parser.parse_args().count)
