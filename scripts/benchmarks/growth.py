"""What commands cost as things grow: files of a project, VMs of an owner, past runs of a machine.

Each size is asked a few times; the least processor time and wall time count, and the most memory
of any process. The exponent is fitted over the upper half of the sizes, where what is the same for
every size (Python's start) weighs least: 1 is linear.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks.cloud import VMCTL, BenchCloud
from scripts.benchmarks.machines import IMAGE

FILES = (100, 1_000, 10_000, 100_000)
VMS = (1, 10, 50, 200)
RUNS = (10, 100, 1_000)
ZONE = "europe-west1-b"
FOLDER_FILES = 100
GIT = "status, by git"
COMMIT = """set -e
g() { command git -c user.name=bench -c user.email=bench@localhost "$@"; }
g init -q; g add -A; g commit -qm bench
"""
# a copy of a past run for each number, beside it
COPIES = """
cd ~/.vmctl/runs && one=$(ls -d true-* | head -1)
i=$(ls -d true-* | wc -l); while [ "$i" -lt {count} ]; do cp -a "$one" "$one-$i"; i=$((i+1)); done
"""


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds, seconds of processor time, and MB of its largest process."""

    wall_s: float
    busy_s: float
    memory_mb: float


@dataclass
class Growth:
    """One command over the sizes."""

    name: str
    costs: dict[int, Cost] = field(default_factory=dict)

    def exponent(self) -> float:
        """Of the processor time over the upper half of the sizes, by least squares."""
        points = [(math.log(n), math.log(c.busy_s)) for n, c in sorted(self.costs.items())]
        points = points[-max(2, (len(points) + 1) // 2) :]
        if len(points) < 2:
            return math.nan
        x, y = (sum(axis) / len(points) for axis in zip(*points, strict=True))
        rise = sum((a - x) * (b - y) for a, b in points)
        return float(rise / sum((a - x) ** 2 for a, _ in points))


class GrowthBench(BenchCloud):
    """A cloud, and what is measured in it."""

    tries = 3

    def cost(self, *argv: str) -> Cost:
        """The least of a few tries; raises RuntimeError where the command fails."""
        found = []
        for _ in range(self.tries):
            began = time.perf_counter()
            process = subprocess.Popen(
                argv, cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            _, status, used = os.wait4(process.pid, 0)
            wall_s = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise RuntimeError(f"{' '.join(argv)} ended with {process.returncode}")
            found.append(Cost(wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))
        return Cost(
            min(one.wall_s for one in found),
            min(one.busy_s for one in found),
            max(one.memory_mb for one in found),
        )

    def fill(self, count: int) -> None:
        """So many small files, tracked by git, in folders of FOLDER_FILES."""
        for number in range(count):
            place = self.folder / f"d{number // (FOLDER_FILES * 10)}" / f"e{number // FOLDER_FILES}"
            if number % FOLDER_FILES == 0:
                place.mkdir(parents=True, exist_ok=True)
            (place / f"f{number}.txt").write_text(f"{number}\n")
        subprocess.run(["sh", "-c", COMMIT], cwd=self.folder, env=self.environ, check=True)


def over_files(sizes: Sequence[int]) -> Iterator[tuple[int, str, Cost]]:
    """Pushes and a listing, and git's own look at the same files."""
    with GrowthBench.opened("growth") as bench:
        bench.vmctl("up", "--gpu", "none")
        for size in sizes:
            shutil.rmtree(bench.folder / ".git", ignore_errors=True)
            bench.fill(size)
            bench.tries = 1
            yield size, "push, first of most", bench.cost(VMCTL, "push")
            bench.tries = 3
            yield size, "push, nothing changed", bench.cost(VMCTL, "push")
            changed = bench.folder / "d0" / "e0" / "f0.txt"

            def push_one(changed: Path = changed) -> Cost:
                changed.write_text(f"{time.perf_counter()}\n")
                bench.tries = 1
                return bench.cost(VMCTL, "push")

            costs = [push_one() for _ in range(3)]
            bench.tries = 3
            yield size, "push, one file", min(costs, key=lambda cost: cost.busy_s)
            fetch = ("fetch", "d*", "--to", str(bench.base / "fetched"))
            bench.vmctl(*fetch)  # from then on all files are listed and compared, and none comes
            yield size, "fetch, listing all", bench.cost(VMCTL, *fetch)
            yield size, GIT, bench.cost("sh", "-c", "exec git status --porcelain")


def over_vms(sizes: Sequence[int]) -> Iterator[tuple[int, str, Cost]]:
    """VMs without machines, of one owner in one Google project."""

    class Catalogue(GrowthBench):
        def start(self) -> None:
            self.vmctl("emulator", "start", "--metadata-only")

    with Catalogue.opened("growth") as bench:
        made = 0
        for size in sizes:
            while made < size:
                name = "bench" if made == 0 else f"vm{made}"
                bench.api("POST", f"zones/{ZONE}/instances", body(name))
                made += 1
            yield size, "ls", bench.cost(VMCTL, "ls")
            yield size, "status", bench.cost(VMCTL, "status")


def body(name: str) -> dict[str, object]:
    """A VM as vmctl labels it."""
    return {
        "name": f"bench-{name}",
        "machineType": f"zones/{ZONE}/machineTypes/e2-small",
        "labels": {"vmctl-owner": "bench", "vmctl-name": name},
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
        "networkInterfaces": [{"accessConfigs": [{}]}],
    }


def over_runs(sizes: Sequence[int]) -> Iterator[tuple[int, str, Cost]]:
    """Past runs of one machine: one that ran, and copies of what it left."""
    with GrowthBench.opened("growth") as bench:
        (bench.folder / "vmctl.toml").write_text(
            f'[vm]\nimage = "{bench.image}"\n[jobs.true]\ncommand = "true"\n'
        )
        bench.vmctl("up", "--gpu", "none", "--push")
        bench.vmctl("run", "true")
        for size in sizes:
            bench.vmctl("exec", "--", "sh", "-c", COPIES.format(count=size))
            yield size, "ps", bench.cost(VMCTL, "ps")


AXES: dict[str, tuple[Callable[[Sequence[int]], Iterator[tuple[int, str, Cost]]], Sequence[int]]]
AXES = {"files": (over_files, FILES), "VMs": (over_vms, VMS), "past runs": (over_runs, RUNS)}


def run(most: int, picture: Path) -> None:
    """Print a line as soon as it is measured, then the exponents; write the picture."""
    growths: dict[tuple[str, str], Growth] = {}
    for axis, (measure, all_sizes) in AXES.items():
        sizes = [size for size in all_sizes if size <= most] or list(all_sizes[:1])
        print(f"\n{axis:>10}  command                  processor     wall   memory")
        for size, name, cost in measure(sizes):
            growths.setdefault((axis, name), Growth(name)).costs[size] = cost
            print(
                f"{size:>10,}  {name:<22}{cost.busy_s:9.2f} s{cost.wall_s:8.2f} s"
                f"{cost.memory_mb:6.0f} MB",
                flush=True,
            )
    print("\nexponent of the processor time over the upper sizes (1 is linear)")
    for (axis, name), growth in growths.items():
        print(f"  {name} over {axis}: {growth.exponent():.2f}")
    ours = growths["files", "push, nothing changed"].costs
    size, git = max(ours), growths["files", GIT].costs
    ratio = ours[size].wall_s / git[size].wall_s
    pushes = (one for (_, name), one in growths.items() if name.startswith("push"))
    memory = max(cost.memory_mb for one in pushes for cost in one.costs.values())
    print(f"  a push of nothing over {size:,} files: {ratio:.1f} x `git status` (reach: 1.5)")
    print(f"  most memory of a push: {memory:.0f} MB (reach: 300)")
    picture.write_text(draw(growths), encoding="utf-8")
    print(f"\nIts picture: {picture}")


def draw(growths: dict[tuple[str, str], Growth]) -> str:
    """Processor time over size, both logarithmic, as an SVG with a line for each command."""
    points = [(n, cost.busy_s) for one in growths.values() for n, cost in one.costs.items()]
    left, right = (math.log10(f(n for n, _ in points)) for f in (min, max))
    low, high = (math.log10(f(s for _, s in points)) for f in (min, max))

    def place(size: int, seconds: float) -> str:
        x = 60 + 520 * (math.log10(size) - left) / max(right - left, 1e-9)
        y = 360 - 330 * (math.log10(seconds) - low) / max(high - low, 1e-9)
        return f"{x:.0f},{y:.0f}"

    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 400" font-size="12">']
    for number, ((axis, name), one) in enumerate(growths.items()):
        colour = f"hsl({number * 360 // len(growths)} 70% 40%)"
        line = " ".join(place(n, cost.busy_s) for n, cost in sorted(one.costs.items()))
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        told = f"{name} over {axis}: exponent {one.exponent():.2f}"
        parts.append(f'<text x="600" y="{30 + 18 * number}" fill="{colour}">{told}</text>')
    sizes, seconds = (f"{10**left:,.0f} to {10**right:,.0f}", f"{10**low:.2f} to {10**high:.2f} s")
    parts.append(f'<text x="60" y="390">size {sizes}, processor time {seconds}</text></svg>\n')
    return "\n".join(parts)
