"""The workload compared with the course's own way (workload/baseline.py): ratios, and limits.

Runs under any Python that has torch; `scripts/bench training` finds the one of the machines' image.
Contestants take turns, each step in a process of its own. Processor time stands beside wall time:
on a busy computer only the former says something.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

STARTED = time.perf_counter()
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "workload"))
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch  # noqa: E402
from cache import open_cache  # noqa: E402
from data_utils import ImageFolderGrayColor, colorization_dataset  # noqa: E402
from fast_unet import FastUNet  # noqa: E402
from half_unet import HalfUNet  # noqa: E402
from inference import autocast_dtype, predict  # noqa: E402
from loader import PhotoLoader  # noqa: E402
from PIL import Image  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.data import default_collate  # noqa: E402
from unet import UNet  # noqa: E402

from scripts.benchmarks.quality import Curve, bench_quality, reached  # noqa: E402

SIDE = 224
FORWARD_AND_BACK = 48.641e9  # floating-point operations per photo of 224×224, counted
# Bytes that a step moves per photo in half precision if everything between two convolutions is
# computed while it is at hand: modelled by hand from the sizes of the tensors.
FUSED_TRAFFIC = 283e6
REACHED = (
    0.6  # of the bandwidth limit: what colorize.py is expected to reach where none is measured
)
# --model half moves and computes a quarter: the same layers at half the side. Its first and last
# layers, which are larger, and what it cannot fill of a GPU are why only half of that is counted.
HALF_IS_LESS = 2
PHOTOS = 3708  # of the data set, all decoded into a cold cache
T4_HOST_CORES = 1.3  # of this computer's: what an n1-standard-4's processors are taken for
# name in torch's words: (10^12 operations/s in fp32, in half precision, 10^9 bytes/s)
CARDS = {
    "T4": (8.1, 65, 320),
    "L4": (30.3, 121, 300),
    "A100": (19.5, 312, 1555),
    "H100": (67, 989, 3350),
    "H200": (67, 989, 4800),
}

# The step of each contestant: (net, channels_last, half precision)
STEPS = {
    "naive": (UNet, False, False),
    "channels_last": (UNet, True, False),
    "half precision": (UNet, False, True),
    "both": (UNet, True, True),
    "both, nothing joined (colorize.py)": (FastUNet, True, True),
    "colorize.py --model half": (HalfUNet, True, True),
}
OURS = "both, nothing joined (colorize.py)"


# --- one contestant's steps, in a process of its own


def child(name: str, batch_size: int, steps: int, compile_mode: str) -> None:
    """Take steps and print, as JSON, what they cost."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, channels_last, half = STEPS[name]
    dtype = autocast_dtype(device) if half else None
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = name != "naive"
    net = kind().to(device, memory_format=layout)
    runner = net
    if compile_mode != "off":
        runner = torch.compile(net, mode=compile_mode, dynamic=False)
    fused = "colorize.py" in name and device.type == "cuda"
    optimizer = torch.optim.Adam(net.parameters(), fused=fused)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    gray = torch.rand(batch_size, 1, SIDE, SIDE).to(device, memory_format=layout)
    truth = torch.rand(batch_size, 3, SIDE, SIDE).to(device, memory_format=layout)

    def step() -> None:
        loss = functional.mse_loss(predict(runner, gray, dtype), truth)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        if name == "naive":
            loss.item()

    step()
    wait(device)
    first = time.perf_counter() - STARTED
    for _ in range(2 if device.type == "cuda" else 0):
        step()
    costs = []
    for _ in range(steps):
        wait(device)
        wall, processor = time.perf_counter(), time.process_time()
        for _ in range(10 if device.type == "cuda" else 1):
            step()
        wait(device)
        scale = 10 if device.type == "cuda" else 1
        costs.append(
            ((time.perf_counter() - wall) / scale, (time.process_time() - processor) / scale)
        )
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    best = [min(column) / batch_size for column in zip(*costs, strict=True)]
    print(json.dumps({"wall": best[0], "processor": best[1], "first": first, "peak": peak}))


def wait(device: torch.device) -> None:
    """Until the device has done all that it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Failed(SystemExit):
    """A contestant has ended without a result: its memory was full, or it cannot be compiled."""


def contest(
    names: Sequence[str],
    batch_size: int,
    rounds: int,
    steps: int,
    compile_mode: str = "off",
) -> dict[str, dict[str, float]]:
    """The best of several processes for each contestant, in turn."""
    best: dict[str, dict[str, float]] = {}
    for _ in range(rounds):
        for name in names:
            done = subprocess.run(
                [sys.executable, "-m", "scripts.benchmarks.training", "--child", name,
                 "--batch_size", str(batch_size), "--steps", str(steps), "--compile", compile_mode,
                 "--threads", str(torch.get_num_threads())],
                cwd=ROOT, check=False, capture_output=True, text=True,
            )  # fmt: skip
            if done.returncode:
                raise Failed(f"{name} failed:\n{done.stderr[-2000:]}")
            costs = json.loads(done.stdout.splitlines()[-1])
            before = best.get(name, costs)
            best[name] = {key: min(value, before[key]) for key, value in costs.items()}
    return best


def bench_steps(rounds: int, steps: int, cuda: bool) -> tuple[float, float]:
    """Training steps at 224×224; returns photos/s of the naive script and of colorize.py."""
    key = "wall" if cuda else "processor"
    print(f"\nA step at {SIDE}×{SIDE} (ratios by {key} time; best of {rounds} processes)")
    print(f"  {'':<37}{'ms/photo':>9}{'wall':>9}{'ratio':>7}{'peak GB':>9}{'1st step s':>11}")

    def row(title: str, cost: dict[str, float], naive: dict[str, float]) -> None:
        print(
            f"  {title:<37}{cost[key] * 1e3:9.2f}{cost['wall'] * 1e3:9.2f}"
            f"{naive[key] / cost[key]:6.2f}x{cost['peak'] / 1e9:9.2f}{cost['first']:11.1f}",
            flush=True,
        )

    found = contest(list(STEPS), 32 if cuda else 4, rounds, steps)
    for name, cost in found.items():
        row(name, cost, found["naive"])
    ours = found[OURS]
    if cuda:
        for batch_size in (64, 128, 256):
            for mode in ("off", "default", "reduce-overhead"):
                title = f"colorize.py, {batch_size}, compile {mode}"
                try:
                    cost = contest([OURS], batch_size, 1, steps, mode)[OURS]
                except Failed as failed:  # a T4 has not the memory for the largest
                    print(f"  {title:<37} {str(failed).splitlines()[-1][:80]}", flush=True)
                    continue
                row(title, cost, found["naive"])
                ours = min(ours, cost, key=lambda c: c["wall"])
    print(f"  reach: {10 if cuda else 4}x; here {found['naive'][key] / ours[key]:.2f}x")
    return 1 / found["naive"][key], 1 / ours[key]


# --- loading


def per_photo(count: int, work: Callable[[], object], rounds: int) -> float:
    """Processor seconds of this process for each of `count` photos, at best."""
    costs = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        costs.append((time.process_time() - start) / count)
    return min(costs)


def bench_loader(data: Path, base: Path, rounds: int) -> float:
    """What a photo costs until the net can read it; returns seconds to decode one, once."""
    files = [path for path, _ in ImageFolderGrayColor(data, check=False).samples][:512]
    torch.set_num_threads(1)
    dataset = colorization_dataset(data, SIDE)
    few = range(min(128, len(dataset)))

    def naive() -> None:
        for start in range(0, len(few), 32):
            default_collate([dataset[index] for index in few[start : start + 32]])

    start = time.process_time()
    pixels, _ = open_cache(files, SIDE, base / "cache", workers=1)
    decoding = (time.process_time() - start) / len(files)
    batches = PhotoLoader(pixels, range(len(files)), 32, shuffle=True)
    order = torch.randperm(len(files)).split(32)

    def gather() -> None:
        for step, rows in enumerate(order):
            batches.gather(step, rows)

    def whole() -> None:
        for _ in batches:
            pass

    gather()  # the file's pages are in memory from the second epoch on
    costs = {
        "naive: decode, resize twice, to float": per_photo(len(few), naive, rounds),
        "cache: gather; the rest is the device's": per_photo(len(files), gather, rounds),
        "cache: all of it on the processor": per_photo(len(files), whole, rounds),
    }
    print(f"\nLoading a photo at {SIDE}×{SIDE} (processor time of one thread)")
    first = next(iter(costs.values()))
    for name, cost in costs.items():
        print(f"  {name:<42}{cost * 1e3:9.3f} ms{first / cost:8.1f}x")
    print(f"  {'once: decode and resize into the cache':<42}{decoding * 1e3:9.3f} ms")
    print("  reach: 15x for the first of the two rows of the cache")
    return decoding


# --- limits


def show_limits(speeds: tuple[float, float], device: str | None) -> None:
    """What the cards allow, and how near the measured one comes."""
    work = f"{FORWARD_AND_BACK / 1e9:.1f} G operations"
    print(f"\nLimits at {SIDE}×{SIDE}, photos/s: a photo takes {work} and moves, in half precision")
    print(f"and fused, {FUSED_TRAFFIC / 1e6:.0f} MB")
    for card, (fp32, half, bandwidth) in CARDS.items():
        by_fp32 = fp32 * 1e12 / FORWARD_AND_BACK
        by_operations = half * 1e12 / FORWARD_AND_BACK
        by_bandwidth = bandwidth * 1e9 / FUSED_TRAFFIC
        binding = "bandwidth" if by_bandwidth < by_operations else "operations"
        line = f"  {card:<5} fp32 {by_fp32:6.0f}; half {by_operations:6.0f} by operations,"
        line += f" {by_bandwidth:6.0f} by bandwidth: {binding} binds"
        if device and re.search(rf"\b{card}\b", device):  # an L40S is no L4
            share = speeds[1] / min(by_bandwidth, by_operations)
            line += f"; here {speeds[1]:.0f}, {share:.0%} (reach: 60 %)"
        print(line)
    price = cheapest("nvidia-tesla-t4")
    print("Estimate for a T4 from these limits, not measured: ten epochs of 3,337 photos")
    for name, speed in t4_speeds().items():
        seconds = 33370 / speed
        print(
            f"  {name:<26}{speed:5.0f} photos/s: {seconds:4.0f} s,"
            f" {seconds / 3600 * price:.3f} USD at {price:.2f} USD/h"
        )


def t4_speeds() -> dict[str, float]:
    """Photos/s that a T4's limits leave to be expected: an estimate, nothing of it is measured."""
    fp32, _, bandwidth = CARDS["T4"]
    unet = REACHED * bandwidth * 1e9 / FUSED_TRAFFIC
    return {"naive": fp32 * 1e12 / FORWARD_AND_BACK, "unet": unet, "half": unet * HALF_IS_LESS}


def show_t4(curves: dict[str, Curve], decoding: float) -> None:
    """Time and price on a T4 until the PSNR that the course's net has reached at the end."""
    target = curves["unet"][-1][2]
    price = cheapest("nvidia-tesla-t4")
    cold = PHOTOS * decoding / T4_HOST_CORES
    print(f"Estimate for a T4 until {target:.2f} dB at {SIDE}×{SIDE}, not measured")
    print(f"  photos needed: measured above; speed: from the limits; decoding {cold:.1f} s first")
    for model, curve in curves.items():
        if not (found := reached(curve, target)):
            print(f"  --model {model}: not reached in {curve[-1][0]} photos")
            continue
        seconds = cold + found[0] / t4_speeds()[model]
        print(
            f"  --model {model}: {found[0]} photos, {seconds:.0f} s,"
            f" {seconds / 3600 * price:.4f} USD at {price:.2f} USD/h"
        )


def cheapest(accelerator: str) -> float:
    """Dollars per hour of the smallest machine with 4 processors and one such card, on demand."""
    with (ROOT / "vmctl/data/gpu_catalog.csv").open(encoding="utf-8", newline="") as file:
        rows: Iterator[dict[str, Any]] = csv.DictReader(file)
        return min(
            float(row["price_ondemand_usd_h"])
            for row in rows
            if row["accelerator"] == accelerator
            and row["gpu_count"] == "1"
            and row["machine_type"] == "n1-standard-4"
            and row["price_ondemand_usd_h"]
        )


def made_photos(folder: Path, count: int = 128) -> Path:
    """JPEGs of 150 pixels with soft shapes and grain: they cost about what real photos do."""
    torch.manual_seed(0)
    for number in range(count):
        shapes = functional.interpolate(torch.rand(1, 3, 7, 7), (150, 150), mode="bicubic")[0]
        picture = (shapes + 0.06 * torch.randn(3, 150, 150)).clamp(0, 1).mul(255).byte()
        target = folder / ("field", "ocean")[number % 2]
        target.mkdir(parents=True, exist_ok=True)
        photo = Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())
        photo.save(target / f"{number}.jpg", quality=85)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, and a short training")
    parser.add_argument("--data_path", type=Path, help="photos (default: data/landscapes, if any)")
    parser.add_argument(
        "--full_steps",
        type=int,
        metavar="N",
        help=f"also train N steps of 32 photos at {SIDE}×{SIDE} (default: 1000 with a GPU, else"
        " none: 104, an epoch, take minutes on two cores)",
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--batch_size", type=int, default=4, help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, default=3, help=argparse.SUPPRESS)
    parser.add_argument("--compile", default="off", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1, help="of a step on the processor")
    wanted = parser.parse_args()
    torch.set_num_threads(wanted.threads)
    if wanted.child:
        child(wanted.child, wanted.batch_size, wanted.steps, wanted.compile)
        return
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else None
    rounds = 1 if wanted.quick else 3
    print(
        f"{device or 'no GPU'}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f},"
        f" torch {torch.__version__},"
        f" {autocast_dtype(torch.device('cuda' if cuda else 'cpu')) or 'float32'}"
    )
    with tempfile.TemporaryDirectory() as base:
        own = ROOT / "data" / "landscapes"
        data = wanted.data_path or (own if own.is_dir() else made_photos(Path(base) / "photos"))
        speeds = bench_steps(rounds, 3, cuda)
        decoding = bench_loader(data, Path(base), max(2, rounds))
        curves: dict[str, Curve] = {}
        torch.set_num_threads(wanted.threads)
        if wanted.data_path or own.is_dir():
            bench_quality(data, Path(base), 60 if wanted.quick else 300, 64, 16)
            steps = wanted.full_steps if wanted.full_steps is not None else 1000 if cuda else 0
            if steps:
                curves = bench_quality(data, Path(base), steps, SIDE, 32, naive=cuda)
        else:
            print("\nQuality needs real photos: scripts/download_landscapes.sh, or --data_path")
        show_limits(speeds, device)
        if curves:
            show_t4(curves, decoding)


if __name__ == "__main__":
    main()
