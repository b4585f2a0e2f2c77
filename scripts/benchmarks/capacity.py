"""Attempts until success in a stocked-out region: Google's hint against the blind order.

Each row leaves one zone of a region with capacity, every other dry, on an emulator of its own;
then the installed `vmctl up` looks for a machine twice: once where the stockout names the zones
that have capacity (Google's ..._WITH_DETAILS form), once where it names none (the plain form),
which is all that a client which does not read the hint ever has. Attempts are counted by the
emulator: creations that were asked for.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

from scripts.benchmarks.cloud import BenchCloud

REGIONS = ("europe-west1", "europe-west4", "us-central1")
GPU, ACCELERATOR = "t4", "nvidia-tesla-t4"


class Market(BenchCloud):
    """Zones that are dry on request."""

    def zones(self, region: str) -> list[str]:
        """The zones of a region that have the GPU, in the order in which they are tried."""
        offers = json.loads(self.vmctl("gpus", "--gpu", GPU, "--region", region, "--json"))
        return sorted(offer["zone"] for offer in offers["offers"])

    def creations(self) -> int:
        found = self.api("GET", "aggregated/operations")
        operations = [op for scope in found["items"].values() for op in scope.get("operations", [])]
        return sum(
            op["operationType"] == "insert" and "/instances/" in op["targetLink"]
            for op in operations
        )

    def search(self, region: str, dry: Sequence[str], *, hint: bool) -> tuple[int, float]:
        """Attempts and seconds of one `up` while these zones are dry."""
        for zone in dry:
            self.fault(kind="stockout", zone=zone, gpu=ACCELERATOR, plain=not hint)
        before, began = self.creations(), time.perf_counter()
        self.vmctl("up", "--gpu", GPU, "--region", region, "--yes")
        took, attempts = time.perf_counter() - began, self.creations() - before
        self.no_faults()
        self.vmctl("down", "--delete", "--yes")
        return attempts, took


def run(regions: Sequence[str] = REGIONS) -> None:
    """Print one row per zone that alone has capacity, and the means."""
    print(f"\nAttempts until a {GPU} is created, one zone of the region with capacity")
    print(f"  {'the zone that has it':<22} {'blind order':>12} {'with the hint':>14}")
    blind, hinted = [], []
    with Market.opened("bench") as market:
        for region in regions:
            zones = market.zones(region)
            for lucky in zones:
                dry = [zone for zone in zones if zone != lucky]
                without = market.search(region, dry, hint=False)
                with_it = market.search(region, dry, hint=True)
                blind.append(without)
                hinted.append(with_it)
                print(f"  {lucky:<22} {without[0]:>12} {with_it[0]:>14}", flush=True)
    tries = [statistics.mean(attempts for attempts, _ in rows) for rows in (blind, hinted)]
    seconds = [statistics.median(took for _, took in rows) for rows in (blind, hinted)]
    most = [max(attempts for attempts, _ in rows) for rows in (blind, hinted)]
    print(f"  {'mean':<22} {tries[0]:>12.2f} {tries[1]:>14.2f}   {tries[0] / tries[1]:.2f} x fewer")
    print(f"  {'most':<22} {most[0]:>12} {most[1]:>14}")
    print(f"  {'median seconds of up':<22} {seconds[0]:>12.2f} {seconds[1]:>14.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("regions", nargs="*", default=REGIONS, help=", ".join(REGIONS))
    run(parser.parse_args().regions)
