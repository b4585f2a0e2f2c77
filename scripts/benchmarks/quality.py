"""Equal steps of the naive script and of colorize.py: how good the colours are, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from cache import open_cache
from colorize import learning_rate
from colours import to_batch
from data_utils import ImageFolderGrayColor, split_by_photo
from inference import autocast_dtype, predict, validate
from loader import Batch, PhotoLoader
from metrics import psnr
from models import create_net
from torch import nn
from torch.nn import functional
from unet import UNet

POINTS = 12  # of each curve
ROW = "  {:<38}{:9.2f} dB  SSIM {:.3f}  colourfulness {:4.1f}"


class EqualTraining:
    """Photos of one size, and nets that are trained on them for equally many steps."""

    def __init__(self, data: Path, base: Path, steps: int, side: int, size: int) -> None:
        found = ImageFolderGrayColor(data, check=False)
        files = [path for path, _ in found.samples]
        start = time.process_time()
        self.pixels, bad = open_cache(files, side, base / "cache")
        self.decoding = time.process_time() - start
        self.indices, validation = (
            [index for index in part if index not in bad] for part in split_by_photo(found)
        )
        self.steps, self.side, self.size = steps, side, size
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.held_out = PhotoLoader(self.pixels, validation[:256], 64, self.device)

    def train(self, model: str | None) -> Iterator[tuple[int, float, nn.Module]]:
        """(steps, seconds, net) now and then; of the naive script's net if `model` is None.

        Seconds are the processor's without a GPU, and hold the decoding of all photos.
        """
        ours = model is not None
        torch.manual_seed(0)
        net = create_net(model) if model else UNet()
        net.to(self.device, memory_format=torch.channels_last if ours else torch.contiguous_format)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        dtype = autocast_dtype(self.device) if ours else None
        scaler = torch.amp.GradScaler(self.device.type, enabled=dtype is torch.float16)
        clock = time.perf_counter if self.device.type == "cuda" else time.process_time
        spent, start = (self.decoding if ours else 0.0), clock()
        for done, (gray, truth, _) in enumerate(self.photos(ours), 1):
            if ours:
                optimizer.param_groups[0]["lr"] = learning_rate(done - 1, self.steps, 1e-3)
            loss = functional.mse_loss(predict(net, gray, dtype), truth)
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            if done % max(1, self.steps // POINTS) == 0 or done == self.steps:
                if self.device.type == "cuda":
                    torch.cuda.synchronize()
                spent += clock() - start
                yield done, spent, net
                start = clock()
            if done == self.steps:
                return

    def photos(self, ours: bool) -> Iterator[Batch]:
        """Batches without end: mirrored at times, or as the course's loader makes them."""
        batches = PhotoLoader(self.pixels, self.indices, self.size, self.device, shuffle=True)
        for epoch in range(1, self.steps + 1):
            batches.set_epoch(epoch)
            if ours:
                yield from batches
                continue
            order = torch.randperm(
                len(self.indices), generator=torch.Generator().manual_seed(epoch)
            )
            for rows in torch.tensor(self.indices)[order].split(self.size):
                gray, truth = to_batch(self.pixels[rows])
                yield gray.to(self.device).contiguous(), truth.to(self.device).contiguous(), 1.0


# Of a trained net: (photos seen, seconds, validation PSNR in dB) now and then.
Curve = list[tuple[int, float, float]]


def bench_quality(
    data: Path, base: Path, steps: int, side: int, size: int, *, naive: bool = True
) -> dict[str, Curve]:
    """Train each net for equally many steps; returns their curves."""
    training = EqualTraining(data, base, steps, side, size)
    print(
        f"\nQuality after {steps} steps of {size} at {side}×{side},"
        f" {len(training.indices)} photos, seed 0",
        flush=True,
    )
    alone, naive_seconds = float("nan"), 0.0
    if naive:
        *_, (_, naive_seconds, net) = training.train(None)
        scores = validate(net, training.held_out, None)
        alone = psnr_alone(net, training.held_out)
        print(ROW.format("gray copy", scores.gray_psnr, scores.gray_ssim, 0))
        print(f"  {'naive: its output as it is':<38}{alone:9.2f} dB")
        print(ROW.format("naive, given the photo's brightness", *scores[:3]), flush=True)
    curves: dict[str, Curve] = {}
    for model in ("unet", "half"):
        curves[model] = []
        for taken, seconds, net in training.train(model):
            scores = validate(net, training.held_out, autocast_dtype(training.device))
            curves[model].append((taken * size, seconds, scores.psnr))
        if model == "unet":
            if not naive:
                print(ROW.format("gray copy", scores.gray_psnr, scores.gray_ssim, 0))
            as_it_is = psnr_alone(net, training.held_out)
            print(f"  {'colorize.py: unet.pth as it is':<38}{as_it_is:9.2f} dB")
        print(
            ROW.format(f"colorize.py --model {model}", *scores[:3])
            + f" (truth {scores.true_colourfulness:.1f}); {seconds:.0f} s",
            flush=True,
        )
        points = ", ".join(f"{photos}: {found:.2f}" for photos, _, found in curves[model])
        print(f"    after this number of photos: {points} dB", flush=True)
        if model == "unet" and naive:
            print(f"  reach: 1 dB above the naive script; here {scores.psnr - alone:+.2f} dB")
        soon = reached(curves[model], alone)
        if soon:
            print(
                f"  as good as the naive script after {soon[0]} photos and {soon[1]:.1f} s,"
                f" decoding of all photos included ({naive_seconds:.1f} s without its loading:"
                f" {naive_seconds / soon[1]:.1f}x)"
            )
    return curves


def reached(curve: Curve, target: float) -> tuple[int, float] | None:
    """After how many photos and seconds a curve is at `target` dB; None if it never is."""
    return next(((photos, spent) for photos, spent, found in curve if found >= target), None)


def psnr_alone(net: nn.Module, held_out: PhotoLoader) -> float:
    """The PSNR of the net's output as it is: what the course's own code would show."""
    with torch.inference_mode():
        scores = [psnr(net(gray).float(), truth) for gray, truth, _ in held_out]
    return float(torch.cat(scores).mean())
