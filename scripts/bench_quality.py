"""Equal steps of the naive script and of colorize.py: how good the colours are, and how soon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import torch
from batches import Batches
from cache import open_cache
from colorize import learning_rate
from colours import to_batch
from data_utils import ImageFolderGrayColor, split_by_photo
from fast_unet import FastUNet
from metrics import psnr
from predict import autocast_dtype, predict, validate
from start import start_from_gray
from torch import nn
from torch.nn import functional
from unet import UNet


def bench_quality(data: Path, base: Path, steps: int, side: int = 64, size: int = 16) -> None:
    """Equal steps of the naive script and of colorize.py, and when the latter is as good."""
    found = ImageFolderGrayColor(data, check=False)
    files = [path for path, _ in found.samples]
    start = time.process_time()
    pixels, bad = open_cache(files, side, base / "cache")
    decoding = time.process_time() - start
    training, validation = ([i for i in part if i not in bad] for part in split_by_photo(found))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    held_out = Batches(pixels, validation[:256], 64, device)

    def trained(ours: bool) -> Iterator[tuple[int, float, nn.Module]]:
        """(steps, processor seconds, net) every twelfth part of the training."""
        torch.manual_seed(0)
        net: nn.Module = FastUNet() if ours else UNet()
        if ours:
            start_from_gray(net)
            net.to(device, memory_format=torch.channels_last)
        net.to(device)
        optimizer = torch.optim.Adam(net.parameters(), 1e-3)
        dtype = autocast_dtype(device) if ours else None
        scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
        batches = Batches(pixels, training, size, device, shuffle=True)
        clock = time.perf_counter if device.type == "cuda" else time.process_time
        spent, start, done = (decoding if ours else 0.0), clock(), 0
        for epoch in range(1, steps):
            batches.set_epoch(epoch)
            for gray, truth, _ in batches if ours else unmirrored(pixels, training, size, epoch):
                if ours:
                    optimizer.param_groups[0]["lr"] = learning_rate(done, steps, 1e-3)
                else:
                    gray, truth = gray.to(device).contiguous(), truth.to(device).contiguous()
                loss = functional.mse_loss(predict(net, gray, dtype), truth)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                done += 1
                if done % max(1, steps // 12) == 0 or done == steps:
                    if device.type == "cuda":
                        torch.cuda.synchronize()
                    spent += clock() - start
                    yield done, spent, net
                    start = clock()
                if done == steps:
                    return

    print(f"\nQuality after {steps} steps of {size} at {side}×{side}, {len(training)} photos")
    *_, (_, naive_seconds, net) = trained(ours=False)
    scores = validate(net, held_out, None)
    alone = psnr_alone(net, held_out)
    row = "  {:<38}{:9.2f} dB  SSIM {:.3f}  colourfulness {:4.1f}"
    print(row.format("gray copy", scores.gray_psnr, scores.gray_ssim, 0))
    print(f"  {'naive: its output as it is':<38}{alone:9.2f} dB")
    print(row.format("naive, given the photo's brightness", *scores[:3]))
    reached = None
    for taken, seconds, net in trained(ours=True):
        ours = validate(net, held_out, autocast_dtype(device))
        if reached is None and ours.psnr >= alone:
            reached = taken, seconds
    ours_alone = psnr_alone(net, held_out)
    print(f"  {'colorize.py: unet.pth as it is':<38}{ours_alone:9.2f} dB")
    print(row.format("colorize.py", *ours[:3]) + f" (truth {ours.true_colourfulness:.1f})")
    print(f"  reach: 1 dB above the naive script; here {ours.psnr - alone:+.2f} dB")
    if reached:
        print(
            f"  as good as the naive script after {reached[0]} steps and {reached[1]:.1f} s,"
            f" decoding of all photos included ({naive_seconds:.1f} s without its loading:"
            f" {naive_seconds / reached[1]:.1f}x)"
        )


def unmirrored(
    pixels: torch.Tensor, rows: list[int], size: int, epoch: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor, float]]:
    """Shuffled batches as the course's loader makes them, but from the cache."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(epoch))
    for chosen in torch.tensor(rows)[order].split(size):
        yield *to_batch(pixels[chosen]), 1.0


def psnr_alone(net: nn.Module, held_out: Batches) -> float:
    """The PSNR of the net's output as it is: what the course's own code would show."""
    with torch.inference_mode():
        scores = [psnr(net(gray).float(), truth) for gray, truth, _ in held_out]
    return float(torch.cat(scores).mean())
