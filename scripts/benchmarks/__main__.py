"""The benches by name, their options, and what each needs of this computer.

scripts/bench [NAME…] [--runs N] [--quick] [--realtime] [--rows ROW,…]
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from scripts.benchmarks import capacity, growth, machines, starts, targets, wire
from scripts.benchmarks.cli import CommandBench, bench_cli, bench_up

PARTS: dict[str, Callable[[CommandBench], None]] = {"cli": bench_cli, "up": bench_up}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parts = [*PARTS, "wire", "capacity", "machines", "targets"]
    parser.add_argument(
        "parts", nargs="*", choices=[*parts, "start", "growth", []], help="default: all of them"
    )
    parser.add_argument(
        "--runs", type=int, default=CommandBench.runs, help="timed runs of each command"
    )
    parser.add_argument("--quick", action="store_true", help="3 runs, and smaller files to cut")
    parser.add_argument(
        "--realtime",
        action="store_true",
        help="run ahead of all else on this computer, so that its load does not count (root)",
    )
    parser.add_argument("--rows", default="", help="of wire: " + ",".join(wire.all_rows()))
    parser.add_argument("--most", type=int, default=100_000, help="of growth: the largest size")
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.runs = 3
    if wanted.realtime:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))  # what is started inherits it
    rows = [row for row in wanted.rows.split(",") if row]
    if unknown := set(rows) - set(wire.all_rows()):
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    if shutil.which("gcloud") is None:
        print("gcloud is not on this computer: its rows are left out")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {wanted.runs} runs, medians")
    for part in wanted.parts or parts:
        if part == "capacity":
            capacity.run()
            continue
        if part == "machines":
            machines.run(5 if wanted.quick else machines.COUNT)
            continue
        if part == "growth":
            growth.run(1_000 if wanted.quick else wanted.most, Path("growth.svg"))
            continue
        if part == "targets":
            targets.run(wanted.runs)
            continue
        if part in ("wire", "start"):
            wire.run(wanted.runs, rows or (starts.ROWS if part == "start" else ()))
            continue
        with CommandBench.opened("bench") as bench:
            bench.runs = wanted.runs
            PARTS[part](bench)


if __name__ == "__main__":
    main()
