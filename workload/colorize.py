"""Train the U-Net of unet.py to colour gray photos, and colour photos with it.

Writes into --out_dir: unet.pth (the weights, after every epoch), checkpoint.pt (all that is needed
to go on, until the training ends; then it is called trained.pt), sample.png (gray, predicted and
true colours of photos the net never saw) and runs/UNet (for TensorBoard).
"""

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

# Threads that wait for work by spinning slow a training 40-fold when another program shares the
# cores; asleep, they cost next to nothing. Read when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
import torch.nn.functional as F
from checkpoint import (
    CheckpointError,
    NonFiniteError,
    Stopped,
    StopRequest,
    TrainState,
    atomic_write,
    remove_temporary_files,
    save_checkpoint,
    save_weights,
)
from data_utils import DataError
from dataset import PhotoDataset
from distributed import DistributedContext, init_distributed
from gallery import colour_folder, save_sample
from inference import autocast_dtype, colorize_batch, predict, validate
from loader import PhotoLoader
from models import MODELS, create_net, get_side_multiple, load_net
from oom import get_memory_bytes, is_out_of_memory, suggest_batch_size
from options import CONFIGURATION, parse_arguments
from progress import LossMeter, progress_bar
from resume import find_checkpoint, restore
from tensorboard_log import TensorBoardLog
from torch import nn
from torch.utils.tensorboard import SummaryWriter

GRID = 16  # pictures in each of TensorBoard's image grids
STEPS_PER_POINT = 10  # a point of the loss curve is the mean of so many steps
WARM_UP = 20  # steps in which the rate rises to its highest; half of all if they are few


def learning_rate(step: int, steps: int, highest: float) -> float:
    """A short warm-up, then half a cosine down to 0 at the last of all steps."""
    warm_up = max(1, min(WARM_UP, steps // 2))
    if step < warm_up:
        return highest * (step + 1) / warm_up
    return highest * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))) / 2


def train(
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    loader: Any,
    epochs: int = 5,
    writer: SummaryWriter | None = None,
    *,
    highest_rate: float | None = None,
    precision: str = "auto",
    progress: TrainState | None = None,
    scaler: torch.amp.GradScaler | None = None,
    after_step: Callable[[TrainState], None] = lambda progress: None,
    after_epoch: Callable[[TrainState], str] = lambda progress: "",
    quiet: bool = False,
) -> None:
    """Minimise the squared error over the loader's batches (gray, truth), in `epochs` epochs.

    Starts where `progress` stands and keeps it up to date. The rate follows learning_rate if
    `highest_rate` is given. `after_step` may raise to end the training; `after_epoch` returns what
    else is to be said about the epoch. Raises NonFiniteError when the training diverges.
    """
    device = next(net.parameters()).device
    dtype = autocast_dtype(device, precision)
    # Gradients in float16 underflow unless the loss is scaled up; other types need no scaling.
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    progress = progress or TrainState()
    reader = LossMeter(device, STEPS_PER_POINT)

    def tell(points: list[tuple[int, float]]) -> None:
        for step, loss in points:
            if not math.isfinite(loss):
                raise NonFiniteError(f"the loss is {loss} at step {step}")
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            if writer is not None:
                writer.add_scalar("training loss", loss, step)

    net.train()
    while progress.epoch < epochs:
        start, photos_before = time.perf_counter(), progress.photos
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(progress.epoch + 1, progress.step)
        loss_sum = torch.tensor(float(progress.loss_sum), device=device)
        title = f"epoch {progress.epoch + 1}/{epochs}"
        with progress_bar(loader, len(loader), title, progress.step, quiet) as bar:
            for gray, truth, *weight in bar:
                gray = gray.to(device, non_blocking=True, memory_format=torch.channels_last)
                truth = truth.to(device, non_blocking=True, memory_format=torch.channels_last)
                if highest_rate is not None:
                    rate = learning_rate(progress.steps, epochs * len(loader), highest_rate)
                    for group in optimizer.param_groups:
                        group["lr"] = rate

                loss = F.mse_loss(predict(net, gray, dtype), truth)
                optimizer.zero_grad()
                scaler.scale(loss * weight[0] if weight else loss).backward()
                scaler.step(optimizer)
                scaler.update()

                progress.step += 1
                progress.steps += 1
                progress.photos += len(gray)
                loss_sum += loss.detach() * len(gray)
                progress.loss_sum = loss_sum  # stays on the device until somebody saves it
                tell(reader.add(progress.steps, loss.detach()))
                after_step(progress)
            tell(reader.flush())
        mean_loss = float(progress.loss_sum) / max(1, progress.photos)
        speed = (progress.photos - photos_before) / (time.perf_counter() - start)
        speed *= getattr(loader, "world_size", 1)  # each has about the same share of every batch
        progress.epoch, progress.step, progress.photos, progress.loss_sum = (
            progress.epoch + 1, 0, 0, 0.0,
        )  # fmt: skip
        progress.history.append({"epoch": progress.epoch, "loss": mean_loss})
        more = after_epoch(progress)
        if not quiet:
            print(f"{title}: loss {mean_loss:.4f}, {speed:.1f} images/s{more}", flush=True)


# --- the program


def photos_of(arguments: argparse.Namespace, team: DistributedContext) -> PhotoDataset:
    """The photos that the flags name."""
    return PhotoDataset(
        arguments.data_path,
        arguments.image_size,
        train_samples=arguments.train_samples,
        seed=arguments.seed,
        cache_dir=arguments.cache_dir,
        workers=arguments.num_workers,
        is_main=team.is_main,
    )


def train_net(arguments: argparse.Namespace, team: DistributedContext) -> int:
    """Train as the flags say; returns the exit code."""
    device, out_dir = team.device, arguments.out_dir
    dtype = autocast_dtype(device, arguments.precision)
    precision = str(dtype or torch.float32).removeprefix("torch.")
    photos = photos_of(arguments, team)
    settings = {"photos": photos.fingerprint(), "precision": precision}
    settings |= {name: getattr(arguments, name) for name in CONFIGURATION}
    out_dir.mkdir(parents=True, exist_ok=True)
    found, source = find_checkpoint(out_dir, arguments.resume, settings, team)

    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True  # every batch has the same shape: find its best kernels
    net = create_net(arguments.model)
    net.to(device, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(
        net.parameters(),
        arguments.lr,
        (arguments.momentum, 0.999),
        weight_decay=arguments.weight_decay,
        fused=device.type == "cuda",
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    progress = restore(found, source, net, optimizer, scaler)
    progress.run = progress.run or time.strftime("runs/UNet/%Y-%m-%d_%H-%M-%S")

    batches = PhotoLoader(
        photos.pixels, photos.training, arguments.batch_size, device,
        shuffle=True, crop=arguments.crop, seed=arguments.seed,
        rank=team.rank, world_size=team.world_size,
    )  # fmt: skip
    held_out = PhotoLoader(photos.pixels, photos.validation, arguments.batch_size, device)
    if arguments.initial_epoch is not None:
        progress.epoch, progress.step = arguments.initial_epoch, 0
        progress.steps = progress.epoch * len(batches)
    team.print(
        f"{len(photos.training)} photos to train on, {len(photos.validation)} to validate on,"
        f" {arguments.image_size}×{arguments.image_size} pixels, {device.type}, {precision}"
    )
    if progress.steps:
        team.print(f"Going on from {source}: epoch {progress.epoch + 1}, step {progress.step + 1}")

    started_at = progress.epoch
    runner = team.parallelize(net)
    if arguments.compile != "off":
        # An epoch's last, small batch gets code of its own. Left to itself, PyTorch would compile
        # the net for any size when that batch comes, and use this slower code for all from then on.
        runner = torch.compile(runner, mode=arguments.compile, dynamic=False)
    weights, checkpoint = out_dir / "unet.pth", out_dir / "checkpoint.pt"
    gray, truth = photos.batch(photos.validation[:GRID])
    early = {1, len(batches) // 4, len(batches) // 2}  # steps of the first epoch with pictures

    def save() -> None:
        if team.is_main:
            save_checkpoint(checkpoint, settings, progress, net, optimizer, scaler)
            save_weights(net, weights)
            history = json.dumps(progress.history, indent=1)
            atomic_write(out_dir / "history.json", history.encode())

    def after_step(progress: TrainState) -> None:
        if board is not None and progress.steps in early:
            board.pictures(gray, colorize_batch(net, gray, dtype), truth, progress.steps)
        # processes must ask each other at the same step, and GPUs should not do so at each
        if device.type == "cpu" or progress.steps % STEPS_PER_POINT == 0:
            stop.check(team.any)

    def after_epoch(progress: TrainState) -> str:
        scores = None
        if board is not None:
            check = stop.check if team.world_size == 1 else lambda: None  # the others are not here
            scores = validate(net, held_out, dtype, check)
            progress.history[-1] |= scores._asdict()
            board.scores(scores, progress.steps)
            board.pictures(gray, colorize_batch(net, gray, dtype), truth, progress.steps)
            if arguments.histograms:
                board.histograms(net, progress.steps)
        save()
        return f", {scores}"

    with StopRequest() as stop, ExitStack() as stack:
        board = None
        if team.is_main:
            remove_temporary_files(out_dir)
            run = out_dir / progress.run
            graph_class = MODELS[arguments.model].graph_class
            board = stack.enter_context(
                TensorBoardLog(run, progress.steps, arguments.image_size, graph_class)
            )
        try:
            train(
                runner,
                optimizer,
                batches,
                arguments.epochs,
                board and board.train,
                highest_rate=arguments.lr,
                precision=arguments.precision,
                progress=progress,
                scaler=scaler,
                after_step=after_step,
                after_epoch=after_epoch,
                quiet=not team.is_main,
            )
        except Stopped as stopped:
            save()
            if team.is_main:
                save_sample(photos, weights, dtype)
            team.print(
                f"Stopped by {stopped}: the weights so far are in {weights}; the same command"
                " goes on from here"
            )
            return 128 + stopped.signum
        if progress.epoch == started_at:  # nothing was left to do, but files of it may be missing
            save()
    if team.is_main:
        save_sample(photos, weights, dtype)
        checkpoint.replace(out_dir / "trained.pt")  # from here on the same command begins anew
    team.print(f"Saved {weights} and {weights.with_name('sample.png')}")
    return 0


def test_net(arguments: argparse.Namespace, team: DistributedContext) -> int:
    """Try a net as the flags say; returns the exit code."""
    try:
        net = load_net(arguments.test_net)
    except FileNotFoundError:
        raise CheckpointError(f"--test_net: there is no file {arguments.test_net}") from None
    net.to(team.device, memory_format=torch.channels_last)
    dtype = autocast_dtype(team.device, arguments.precision)
    if arguments.images is not None:
        arguments.out_dir.mkdir(parents=True, exist_ok=True)
        history = arguments.test_net.with_name("history.json")
        print(colour_folder(net, arguments.images, arguments.out_dir, dtype, history))
        return 0
    if arguments.image_size % (sides := get_side_multiple(net)):
        raise CheckpointError(
            f"--image_size: the net in {arguments.test_net} needs a multiple of {sides}"
        )
    photos = photos_of(arguments, team)
    held_out = PhotoLoader(photos.pixels, photos.validation, arguments.batch_size, team.device)
    print(f"{len(photos.validation)} photos: {validate(net, held_out, dtype)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Do as the flags say; returns the exit code."""
    arguments = parse_arguments(argv, __doc__, cuda=torch.cuda.is_available())
    with init_distributed() as team:
        if arguments.shrunk and not arguments.test_net:
            flags = " ".join(arguments.shrunk)
            team.print(f"No CUDA GPU here, so a small training: {flags} (each can be overridden)")
        weights = arguments.out_dir / "unet.pth"
        try:
            code = (test_net if arguments.test_net else train_net)(arguments, team)
            team.barrier()
            return code
        except NonFiniteError as error:
            kept = f"; {weights} keeps the last good weights" if weights.exists() else ""
            complain(f"Training diverged: {error}{kept}. Try --resume none with a smaller --lr")
            return 1
        except (DataError, CheckpointError) as error:
            complain(f"colorize.py: {error}")
            return 2
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                if arguments.compile == "off":
                    raise
                why = str(error).strip().partition("\n")[0]
                complain(f"torch.compile failed ({why}): try without --compile")
                return 1
            fitting = suggest_batch_size(
                arguments.batch_size,
                arguments.image_size,
                autocast_dtype(team.device, arguments.precision),
                get_memory_bytes(team.device),
                MODELS[arguments.model].memory,
            )
            complain(f"The memory of this {team.device.type} is full: try --batch_size {fitting}")
            return 1
        except OSError as error:  # the disk is full, a folder cannot be written
            complain(f"colorize.py: {error}")
            return 1


def complain(text: str) -> None:
    """Print an error's one line where errors go."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be no text
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        complain("colorize.py: stopped, nothing more was saved")
        sys.exit(130)
