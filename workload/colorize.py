"""Train the U-Net of unet.py to colour gray photos.

Writes into --out_dir: unet.pth (the weights, after every epoch), sample.png (gray, predicted and
true colours of photos the net never saw) and runs/UNet (for TensorBoard).
"""

import io
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Threads that wait for work by spinning slow a training 40-fold when another program shares the
# cores; asleep, they cost next to nothing. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F
from checkpoint import (
    NonFinite,
    Stopped,
    StopRequest,
    ignore_ctrl_c,
    load_weights,
    save_weights,
    write_whole,
)
from data_utils import DataError, ImageFolderGrayColor, colorization_dataset, split_by_photo, take
from options import parse_arguments
from pictures import draw_sample, gray_copy, psnr, write_graph, write_images
from torch import nn
from torch.utils.data import DataLoader, Subset
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm
from unet import UNet

GRID = 16  # pictures in each of TensorBoard's image grids
SAMPLE_ROWS = 5
STEPS_PER_POINT = 10  # the loss is read from the device this often: each reading waits for it


def save_sample(dataset: ImageFolderGrayColor, indices: list[int], weights: Path) -> None:
    """Draw sample.png beside `weights`: what that very file makes of some photos."""
    net = UNet()
    load_weights(net, weights)
    by_class = {dataset.targets[index]: index for index in reversed(indices)}
    chosen = [by_class[label] for label in sorted(by_class)][:SAMPLE_ROWS]
    gray, truth = stack([dataset[index] for index in chosen])
    names = [dataset.classes[dataset.targets[index]] for index in chosen]
    picture = io.BytesIO()
    draw_sample(gray, show(net, gray), truth, names).save(picture, "PNG")
    write_whole(weights.with_name("sample.png"), picture.getvalue())


# --- training


def autocast_dtype(device: torch.device) -> torch.dtype | None:
    """The fastest type that this device multiplies natively; None means plain float32.

    CPUs get bfloat16 only with AMX: on AVX-512 alone it was measured slower than float32.
    """
    if device.type == "cuda":
        has_bfloat16 = torch.cuda.get_device_capability(device) >= (8, 0)  # a T4 is (7, 5)
        return torch.bfloat16 if has_bfloat16 else torch.float16
    cpuinfo = Path("/proc/cpuinfo")
    has_amx = cpuinfo.exists() and "amx_bf16" in cpuinfo.read_text()
    return torch.bfloat16 if has_amx else None


def predict(net: nn.Module, gray: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The net's colours in float32, computed in `dtype` where that is safe."""
    with torch.autocast(gray.device.type, dtype=dtype, enabled=dtype is not None):
        return net(gray).float()


@torch.inference_mode()
def show(net: nn.Module, gray: torch.Tensor) -> torch.Tensor:
    """The net's colours for pictures on the CPU, back on the CPU."""
    device = next(net.parameters()).device
    training = net.training
    colour = predict(net.eval(), gray.to(device), autocast_dtype(device)).cpu()
    net.train(training)
    return colour


def stack(pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs of tensors as a pair of batches."""
    gray, truth = zip(*pairs, strict=True)
    return torch.stack(gray), torch.stack(truth)


def validate(
    net: nn.Module, loader: DataLoader[Any], check_stop: Callable[[], None] = lambda: None
) -> tuple[float, float]:
    """Mean PSNR in dB of the net's pictures, and of the gray ones: what it has to beat."""
    ours, baseline = [], []
    for gray, truth in loader:
        ours.append(psnr(show(net, gray), truth))
        baseline.append(psnr(gray_copy(gray), truth))
        check_stop()
    return torch.cat(ours).mean().item(), torch.cat(baseline).mean().item()


class Lines(io.TextIOBase):
    """Where a progress bar writes when nobody watches a terminal: each state on its own line."""

    def write(self, text: str) -> int:
        if line := text.strip("\r\n "):
            print(line, flush=True)
        return len(text)


def progress(loader: DataLoader[Any], title: str) -> "tqdm[Any]":
    """A bar over the batches: redrawn in a terminal, a new line now and then in a log."""
    if sys.stdout.isatty():
        return tqdm(loader, title, file=sys.stdout, leave=False, dynamic_ncols=True)
    return tqdm(
        loader, title, file=Lines(), leave=False, ascii=True, ncols=80, mininterval=5, miniters=1
    )


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: DataLoader[Any],
    epochs: int = 5,
    writer: SummaryWriter | None = None,
    *,
    validation_loader: DataLoader[Any] | None = None,
    after_epoch: Callable[[], None] = lambda: None,
    check_stop: Callable[[], None] = lambda: None,
) -> None:
    """Minimise the squared error between the net's colours and the true ones.

    `after_epoch` is called when an epoch has ended well, `check_stop` after every step: it may
    raise to end the training there. Raises NonFinite when the training diverges.
    """
    device = next(net.parameters()).device
    dtype = autocast_dtype(device)
    # Gradients in float16 underflow unless the loss is scaled up; other types need no scaling.
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    shown = loader.dataset if validation_loader is None else validation_loader.dataset
    grid = stack([shown[index] for index in range(min(GRID, len(shown)))])
    early = {1, len(loader) // 4, len(loader) // 2}  # steps of the first epoch with pictures
    step = 0
    net.train()
    for epoch in range(1, epochs + 1):
        start = time.perf_counter()
        epoch_loss = torch.zeros((), device=device)
        losses = []
        with progress(loader, f"epoch {epoch}/{epochs}") as bar:
            for gray, truth in bar:
                gray = gray.to(device, non_blocking=True, memory_format=torch.channels_last)
                truth = truth.to(device, non_blocking=True, memory_format=torch.channels_last)

                loss = F.mse_loss(predict(net, gray, dtype), truth)
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

                step += 1
                losses.append(loss.detach())
                epoch_loss += loss.detach() * len(gray)
                if len(losses) == STEPS_PER_POINT or step % len(loader) in (0, 1):
                    mean_loss = torch.stack(losses).mean().item()
                    losses.clear()
                    if not math.isfinite(mean_loss):
                        raise NonFinite(f"the loss is {mean_loss} at step {step}")
                    bar.set_postfix(loss=f"{mean_loss:.4f}", refresh=False)
                    if writer is not None:
                        writer.add_scalar("training loss", mean_loss, step)
                if writer is not None and step in early:
                    write_images(writer, grid[0], show(net, grid[0]), grid[1], step)
                check_stop()
        count = len(loader.dataset)
        report = f"epoch {epoch}/{epochs}: loss {epoch_loss.item() / count:.4f}"
        report += f", {count / (time.perf_counter() - start):.1f} images/s"
        if validation_loader is not None:
            ours, baseline = validate(net, validation_loader, check_stop)
            report += f", validation PSNR {ours:.2f} dB (gray copy {baseline:.2f} dB)"
            if writer is not None:
                writer.add_scalar("validation PSNR", ours, step)
                writer.add_scalar("validation PSNR, gray copy", baseline, step)
        if writer is not None:
            write_images(writer, grid[0], show(net, grid[0]), grid[1], step)
        after_epoch()
        print(report, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Train as the flags say; returns the exit code."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    arguments = parse_arguments(argv, __doc__, cuda=device.type == "cuda")
    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape: find its best kernels

    print(f"Reading the photos in {arguments.data_path} ...", flush=True)
    dataset = colorization_dataset(arguments.data_path, arguments.image_size)
    if dataset.unreadable:
        print(f"Left out {len(dataset.unreadable)} unreadable: {dataset.unreadable[0]} ...")
    training, validation = split_by_photo(dataset)
    training = take(training, arguments.train_samples, arguments.seed)
    validation = validation[: max(GRID, len(training) // 4)]

    def loader(indices: list[int], shuffle: bool) -> DataLoader[Any]:
        return DataLoader(
            Subset(dataset, indices),
            batch_size=arguments.batch_size,
            shuffle=shuffle,
            num_workers=arguments.num_workers,
            persistent_workers=arguments.num_workers > 0,
            worker_init_fn=ignore_ctrl_c,
            pin_memory=device.type == "cuda",
        )

    net = UNet().to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), arguments.lr, fused=device.type == "cuda")
    precision = str(autocast_dtype(device) or torch.float32).removeprefix("torch.")
    print(
        f"{len(training)} photos to train on, {len(validation)} to validate on,"
        f" {arguments.image_size}×{arguments.image_size} pixels, {device.type}, {precision}",
        flush=True,
    )

    arguments.out_dir.mkdir(parents=True, exist_ok=True)
    weights = arguments.out_dir / "unet.pth"
    run = arguments.out_dir / "runs" / "UNet" / time.strftime("%Y-%m-%d_%H-%M-%S")
    with StopRequest() as stop, SummaryWriter(run, flush_secs=10) as writer:
        write_graph(writer, net, arguments.image_size)
        try:
            train(
                net,
                optimizer,
                loader(training, shuffle=True),
                arguments.epochs,
                writer,
                validation_loader=loader(validation, shuffle=False),
                after_epoch=lambda: save_weights(net, weights),
                check_stop=stop.check,
            )
        except Stopped as stopped:
            save_weights(net, weights)
            save_sample(dataset, validation, weights)
            print(f"Stopped by {stopped}: the weights so far are in {weights}", flush=True)
            return 128 + stopped.signum
        except NonFinite as error:
            kept = f"; {weights} keeps the last good weights" if weights.exists() else ""
            print(f"Training diverged: {error}{kept}. Try a smaller --lr.", file=sys.stderr)
            return 1
        except torch.cuda.OutOfMemoryError:
            smaller = max(1, arguments.batch_size // 2)
            print(f"The GPU's memory is full: try --batch_size {smaller}", file=sys.stderr)
            return 1
        save_sample(dataset, validation, weights)
    print(f"Saved {weights} and {weights.with_name('sample.png')}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DataError as error:
        print(f"colorize.py: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # the disk is full, a folder cannot be written
        print(f"colorize.py: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("colorize.py: stopped, nothing more was saved", file=sys.stderr)
        sys.exit(130)
