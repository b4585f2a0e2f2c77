"""Which device is worth it: the seconds of a + b for 1 to 2²⁷ numbers on a CPU and a GPU.

Each size is warmed up, timed until the clock can be trusted, and waited for, because a GPU answers
before it has finished. Copying to the GPU is timed apart. Without a GPU the CPU is measured against
itself, in float32, float64 and bfloat16. Leaves a table and a picture of the ratio over the size.
"""

import argparse
import csv
import io
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from checkpoint import atomic_write
from fit_sine import choose_device
from PIL import Image, ImageDraw

SIZE = (900, 600)  # of the picture, pixels
MARGIN = 60
LARGEST = 27  # power of two: three float32 vectors take 1.6 GB
TRUSTED_S = 0.01  # of one measurement
COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Contestant:
    """A device, and the numbers that it adds there."""

    name: str
    device: torch.device
    dtype: torch.dtype


@dataclass(frozen=True)
class Series:
    """Seconds of one contestant by the power of two; NaN where its memory did not suffice."""

    name: str
    seconds: dict[int, float]


def parse_arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags; argparse ends with exit code 2 where one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--device", default="auto", help="cuda, cuda:1, cpu …; auto: a GPU if any")
    parser.add_argument("--largest", type=power, default=LARGEST, help="2 to this many numbers")
    parser.add_argument("--out_dir", type=Path, default=Path(), help="for devices.csv and .png")
    return parser.parse_args(words)


def power(text: str) -> int:
    """A whole number from 0 to 30."""
    number = int(text)
    if not 0 <= number <= 30:
        raise ValueError
    return number


def describe(device: torch.device) -> str:
    """What a device is: cores or multiprocessors, memory, capability."""
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        return (
            f"{found.name}: {found.multi_processor_count} SMs, "
            f"{found.total_memory / 2**30:.1f} GiB, capability {found.major}.{found.minor}"
        )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    kind = platform.processor() or platform.machine()
    threads = torch.get_num_threads()
    return f"CPU ({kind}): {os.cpu_count()} cores, {threads} threads, {memory:.1f} GiB"


def seconds_of(work: Callable[[], object], wait: Callable[[], object]) -> float:
    """The least seconds of `work`, which is done once `wait` returns; of three measurements.

    Each repeats it until TRUSTED_S have passed: one addition may be quicker than the clock.
    """
    repeats = 1
    work()
    wait()  # warm: memory is there, kernels are loaded
    while True:
        took = min(_time(work, wait, repeats) for _ in range(2))  # one may have been interrupted
        if took >= TRUSTED_S or repeats >= 1 << 20:
            break
        repeats = max(repeats * 2, math.ceil(repeats * 1.2 * TRUSTED_S / max(took, 1e-9)))
        repeats = min(repeats, 1 << 20)
    return min(took, _time(work, wait, repeats)) / repeats


def _time(work: Callable[[], object], wait: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    wait()
    return time.perf_counter() - start


def waiter(device: torch.device) -> Callable[[], object]:
    """What returns when a device has done what it was told."""
    if device.type == "cuda":
        return lambda: torch.cuda.synchronize(device)
    return lambda: None


def measure(contestant: Contestant, largest: int) -> Series:
    """Seconds of a + b, from 2⁰ to 2^largest numbers."""
    found: dict[int, float] = {}
    for exponent in range(largest + 1):
        try:
            shape = {"device": contestant.device, "dtype": contestant.dtype}
            a, b = (torch.rand(1 << exponent, **shape) for _ in range(2))
            out = torch.empty_like(a)
            work = lambda a=a, b=b, out=out: torch.add(a, b, out=out)  # noqa: E731
            found[exponent] = seconds_of(work, waiter(contestant.device))
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if "memory" not in str(error).lower():
                raise
            found[exponent] = math.nan
    return Series(contestant.name, found)


def measure_copies(device: torch.device, largest: int) -> Series:
    """Seconds of copying 2⁰ to 2^largest float32 numbers from this computer's memory."""
    found: dict[int, float] = {}
    for exponent in range(largest + 1):
        here = torch.rand(1 << exponent)
        there = torch.empty_like(here, device=device)
        work = lambda here=here, there=there: there.copy_(here)  # noqa: E731
        found[exponent] = seconds_of(work, waiter(device))
    return Series("copy to the GPU", found)


def choose_contestants(device: torch.device) -> list[Contestant]:
    """The CPU first, which the others are compared with."""
    cpu = torch.device("cpu")
    first = Contestant("CPU float32", cpu, torch.float32)
    if device.type == "cuda":
        return [first, Contestant("GPU float32", device, torch.float32)]
    others = [Contestant(f"CPU {name}", cpu, dtype) for name, dtype in DTYPES.items()]
    return [first, *others[1:]]


def crossover(slow: Series, fast: Series) -> int | None:
    """The power of two from which on `fast` stays the faster one; None if it never does."""
    best = None
    for exponent in sorted(slow.seconds, reverse=True):
        if not fast.seconds[exponent] < slow.seconds[exponent]:
            break
        best = exponent
    return best


def table(series: Sequence[Series]) -> str:
    """CSV: numbers, then the seconds of each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["numbers", *(one.name for one in series)])
    for exponent in sorted(series[0].seconds):
        row = [f"{one.seconds[exponent]:.3e}" for one in series]
        writer.writerow([1 << exponent, *row])
    return text.getvalue()


def draw(series: Sequence[Series]) -> bytes:
    """A PNG: how many times as quick as the first each is, over the size, both in powers of two."""
    picture = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(picture)
    base, *others = series
    exponents = sorted(base.seconds)
    points = {
        one.name: {
            e: math.log2(base.seconds[e] / one.seconds[e])
            for e in exponents
            if one.seconds[e] > 0 and not math.isnan(one.seconds[e] + base.seconds[e])
        }
        for one in others
    }
    heights = [0.0, *(value for line in points.values() for value in line.values())]
    low, high = math.floor(min(heights)) - 1, math.ceil(max(heights)) + 1
    width, height = SIZE[0] - 2 * MARGIN, SIZE[1] - 2 * MARGIN

    def place(exponent: float, value: float) -> tuple[float, float]:
        across = exponent / max(exponents[-1], 1)
        return MARGIN + across * width, MARGIN + (high - value) / (high - low) * height

    for value in range(low, high + 1):
        ends = [place(0, value), place(exponents[-1], value)]
        pen.line(ends, fill="#000000" if value == 0 else "#e0e0e0")
        pen.text((8, ends[0][1] - 6), f"2^{value} x", fill="black")
    for exponent in exponents[::3]:
        pen.text((place(exponent, low)[0] - 8, SIZE[1] - MARGIN + 8), f"2^{exponent}", fill="black")
    for number, one in enumerate(others):
        colour = COLOURS[number % len(COLOURS)]
        line = [place(e, value) for e, value in points[one.name].items()]
        if len(line) > 1:
            pen.line(line, fill=colour, width=3)
        pen.text((MARGIN + 10, 10 + 16 * number), f"{base.name} / {one.name}", fill=colour)
        met = crossover(base, one)
        if met is not None:
            x = place(met, 0)[0]
            pen.line([(x, MARGIN), (x, SIZE[1] - MARGIN)], fill=colour)
            left = min(x + 4, SIZE[0] - MARGIN - 50)
            pen.text((left, SIZE[1] - MARGIN - 16), f"quicker from 2^{met}", fill=colour)
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, draw; the exit code."""
    config = parse_arguments(words)
    try:
        device = choose_device(config.device)
    except (RuntimeError, ValueError, AssertionError) as error:
        print(f"error: {str(error).splitlines()[0]}", file=sys.stderr)
        return 1
    print(describe(torch.device("cpu")), flush=True)
    if device.type == "cuda":
        print(describe(device), flush=True)
    else:
        print("There is no GPU here: the CPU is measured against itself.", flush=True)
    series = []
    for contestant in choose_contestants(device):
        series.append(measure(contestant, config.largest))
        print(f"{contestant.name}: measured", flush=True)
    if device.type == "cuda":
        series.append(measure_copies(device, config.largest))
    text = table(series)
    print(text, end="")
    for one in series[1:]:
        met = crossover(series[0], one)
        said = "never stays quicker" if met is None else f"is quicker from 2^{met} numbers on"
        print(f"{one.name} {said} than {series[0].name}")
    try:
        atomic_write(config.out_dir / "devices.csv", text.encode())
        atomic_write(config.out_dir / "devices.png", draw(series))
    except OSError as error:
        print(f"error: {config.out_dir} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    print(f"The table and the picture: {config.out_dir / 'devices.csv'}, devices.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
