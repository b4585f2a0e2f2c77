"""Train the U-Net of unet.py to colour gray photos, and colour photos with it.

Writes into --out_dir: unet.pth (the weights, after every epoch), checkpoint.pt (all that is needed
to go on, until the training ends; then it is called trained.pt), sample.png (gray, predicted and
true colours of photos the net never saw) and runs/UNet (for TensorBoard).
"""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

# Threads that wait for work by spinning make a training up to 40 times slower when another program
# shares the cores; asleep, they cost next to nothing. Read when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch
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
from data_utils import DataError, ImageFolderGrayColor
from dataset import PhotoDataset
from distributed import DistributedContext, init_distributed
from fitter import Fitter
from gallery import colour_folder, save_sample
from inference import Scores, autocast_dtype, colorize_batch, validate
from loader import PhotoLoader
from models import MODELS, create_net, get_side_multiple, load_net
from oom import get_memory_bytes, is_out_of_memory, suggest_batch_size
from options import TrainConfig, parse_arguments
from progress import LossMeter, progress_bar
from resume import Checkpoint, adopt, check_settings, find_checkpoint, restore
from steps import create_optimizer, train_step
from tensorboard_log import TensorBoardLog
from torch import nn
from torch.utils.tensorboard import SummaryWriter

GRID = 16  # pictures in each of TensorBoard's image grids
STEPS_PER_POINT = 10  # a point of the loss curve is the mean over this many steps
WARM_UP = 20  # steps in which the learning rate rises; half of all if those are few


def learning_rate(step: int, steps: int, highest: float) -> float:
    """The rate of a step in 0 … steps - 1: a short linear warm-up, then half a cosine to 0."""
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
    state: TrainState | None = None,
    scaler: torch.amp.GradScaler | None = None,
    after_step: Callable[[TrainState], None] = lambda state: None,
    score: Callable[[TrainState], Scores | None] = lambda state: None,
    after_epoch: Callable[[TrainState], None] = lambda state: None,
    quiet: bool = False,
) -> None:
    """Minimise the squared error over the loader's batches (gray, truth), in `epochs` epochs.

    Starts at `state` and keeps it up to date. The rate follows learning_rate if `highest_rate` is
    given. `after_step` and `score` may raise an exception to end the training: an epoch is complete
    once `score` has returned. Raises NonFiniteError when the training diverges.
    """
    device = next(net.parameters()).device
    dtype = autocast_dtype(device, precision)
    # Gradients in float16 underflow unless the loss is scaled up; other types need no scaling.
    scaler = scaler or torch.amp.GradScaler(device.type, enabled=dtype is torch.float16)
    state = state or TrainState()
    meter = LossMeter(device, STEPS_PER_POINT)

    net.train()
    while state.epoch < epochs:
        start, photos_before = time.perf_counter(), state.photos
        if hasattr(loader, "set_epoch"):
            loader.set_epoch(state.epoch + 1, state.step)
        loss_sum = torch.tensor(float(state.loss_sum), device=device)
        title = f"epoch {state.epoch + 1}/{epochs}"
        with progress_bar(loader, len(loader), title, state.step, quiet) as bar:
            for batch in bar:
                if highest_rate is not None:
                    rate = learning_rate(state.steps, epochs * len(loader), highest_rate)
                    set_rate(optimizer, rate)
                batch = to_device(batch, device)
                loss = train_step(net, optimizer, scaler, batch, dtype)
                state.step += 1
                state.steps += 1
                state.photos += len(batch[0])
                loss_sum += loss * len(batch[0])
                state.loss_sum = loss_sum  # stays on the device until it is saved
                report(meter.add(state.steps, loss), bar, writer)
                after_step(state)
            report(meter.flush(), bar, writer)
        speed = (state.photos - photos_before) / (time.perf_counter() - start)
        speed *= getattr(loader, "world_size", 1)  # each has about the same share of every batch
        scores = score(state)
        loss_mean = complete_epoch(state, scores)
        after_epoch(state)
        if not quiet:
            line = f"{title}: loss {loss_mean:.4f}, {speed:.1f} images/s"
            print(line if scores is None else f"{line}, {scores}", flush=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def report(points: list[tuple[int, float]], bar: Any, writer: SummaryWriter | None) -> None:
    """Show mean losses (step, loss) and log them; raises NonFiniteError for one that diverged."""
    for step, loss in points:
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss} at step {step}")
        bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
        if writer is not None:
            writer.add_scalar("training loss", loss, step)


def to_device(batch: Sequence[Any], device: torch.device) -> list[Any]:
    """Move the two tensors of a batch to the device, in channels_last."""
    gray, truth, *weight = batch
    return [
        tensor.to(device, non_blocking=True, memory_format=torch.channels_last)
        for tensor in (gray, truth)
    ] + weight


def complete_epoch(state: TrainState, scores: Scores | None) -> float:
    """Add the current epoch to the history; returns its mean loss."""
    loss = float(state.loss_sum) / max(1, state.photos)
    state.epoch += 1
    state.step, state.photos, state.loss_sum = 0, 0, 0.0
    state.history.append(
        {"epoch": state.epoch, "loss": loss} | (scores._asdict() if scores else {})
    )
    return loss


# --- the program


def train_net(config: TrainConfig, context: DistributedContext) -> int:
    """Train as the flags say; returns the exit code."""
    torch.backends.cudnn.benchmark = True  # every batch has one shape: find its best kernels
    fitter = Fitter(config, context)
    folder = open_folder(config, context)
    config.out_dir.mkdir(parents=True, exist_ok=True)
    checkpoint = find_checkpoint(config.out_dir, config.resume, context)
    fitter.config = config if checkpoint is None else adopt(config, checkpoint)
    if fitter.config.is_fitted:
        fitter.choose_size(folder)
    dataset = open_dataset(fitter.config, folder, context)
    if fitter.config.is_fitted:
        fitter.choose_length(dataset, first_epoch(config, checkpoint))
    trainer = Trainer(fitter.config, context, dataset, checkpoint)
    return trainer.run()


def open_folder(config: TrainConfig, context: DistributedContext) -> ImageFolderGrayColor:
    """List the photos; raises DataError if there are none."""
    context.print(f"Reading the photos in {config.data_path} ...")
    return ImageFolderGrayColor(config.data_path, check=False)


def open_dataset(
    config: TrainConfig, folder: ImageFolderGrayColor, context: DistributedContext
) -> PhotoDataset:
    """Decode the photos, or find them decoded, and choose those that the flags ask for."""
    dataset = PhotoDataset(
        folder,
        config.image_size,
        cache_dir=config.cache_dir,
        workers=config.num_workers,
        is_main=context.is_main,
    )
    dataset.select(config.train_samples, config.seed)
    return dataset


def first_epoch(config: TrainConfig, checkpoint: Checkpoint | None) -> int:
    """How many epochs count as done when the training starts."""
    if config.initial_epoch is not None:
        return config.initial_epoch
    return checkpoint.state().epoch if checkpoint else 0


class Trainer:
    """One training: what is trained, on which photos, where it stands, and its files.

    Raises CheckpointError if `checkpoint` is of another configuration.
    """

    def __init__(
        self,
        config: TrainConfig,
        context: DistributedContext,
        dataset: PhotoDataset,
        checkpoint: Checkpoint | None,
    ) -> None:
        self.config, self.context, self.dataset = config, context, dataset
        self.device = device = context.device
        self.dtype = autocast_dtype(device, config.precision)
        self.precision = str(self.dtype or torch.float32).removeprefix("torch.")
        self.settings = config.settings() | {
            "photos": dataset.fingerprint(),
            "precision": self.precision,
        }
        if checkpoint is not None:
            check_settings(checkpoint, self.settings)
        self.weights_file = config.out_dir / "unet.pth"
        self.checkpoint_file = config.out_dir / "checkpoint.pt"

        if config.threads is not None:
            torch.set_num_threads(config.threads)
        torch.manual_seed(config.seed)
        self.net = create_net(config.model).to(device, memory_format=torch.channels_last)
        self.optimizer = create_optimizer(self.net, config)
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.dtype is torch.float16)
        self.loader = PhotoLoader(
            dataset.pixels, dataset.train_indices, config.batch_size, device,
            shuffle=True, crop=config.crop, seed=config.seed,
            rank=context.rank, world_size=context.world_size,
        )  # fmt: skip
        self.val_loader = PhotoLoader(
            dataset.pixels, dataset.val_indices, config.batch_size, device
        )
        self.shown = dataset.batch(dataset.val_indices[:GRID])  # in TensorBoard's grids
        # steps of the first epoch after which these pictures are logged, too
        self.early_steps = {1, len(self.loader) // 4, len(self.loader) // 2}

        self.resumed_from = checkpoint and checkpoint.path
        self.state = restore(checkpoint, self.net, self.optimizer, self.scaler)
        self.state.run = self.state.run or time.strftime("runs/UNet/%Y-%m-%d_%H-%M-%S")
        if config.initial_epoch is not None:
            self.state.epoch, self.state.step = config.initial_epoch, 0
            self.state.steps = self.state.epoch * len(self.loader)
        self.log: TensorBoardLog | None = None  # in the main process

    def run(self) -> int:
        """Train from where the state stands; returns the exit code."""
        self.announce()
        started_at = self.state.epoch
        with StopRequest() as self.stop, ExitStack() as stack:
            if self.context.is_main:
                remove_temporary_files(self.config.out_dir)
                self.log = stack.enter_context(self.open_log())
            try:
                self.train()
            except Stopped as stopped:
                return self.end_early(stopped)
            if self.state.epoch == started_at:  # nothing was left to do, but a file may be missing
                self.save()
        if self.context.is_main:
            save_sample(self.dataset, self.weights_file, self.dtype)
            # from here on the same command starts over
            self.checkpoint_file.replace(self.config.out_dir / "trained.pt")
        self.context.print(
            f"Saved {self.weights_file} and {self.weights_file.with_name('sample.png')}"
        )
        return 0

    def announce(self) -> None:
        """Print what is trained, and from where it is resumed."""
        size = self.config.image_size
        self.context.print(
            f"{len(self.dataset.train_indices)} photos to train on,"
            f" {len(self.dataset.val_indices)} to validate on,"
            f" {size}×{size} pixels, {self.device.type}, {self.precision}"
        )
        if self.state.steps:
            step = min(self.state.step + 1, len(self.loader))
            self.context.print(
                f"Going on from {self.resumed_from}: epoch {self.state.epoch + 1}, step {step}"
            )

    def open_log(self) -> TensorBoardLog:
        """Open TensorBoard's files of this training."""
        return TensorBoardLog(
            self.config.out_dir / self.state.run,
            self.state.steps,
            self.config.image_size,
            MODELS[self.config.model].graph_class,
        )

    def train(self) -> None:
        """Train the epochs that are left; raises Stopped after Ctrl-C and SIGTERM."""
        net = self.context.parallelize(self.net)
        if self.config.compile != "off":
            # An epoch's last, small batch gets code of its own. By default, PyTorch would compile
            # the net for any size when that batch comes, and use this slower code from then on.
            net = torch.compile(net, mode=self.config.compile, dynamic=False)
        train(
            net,
            self.optimizer,
            self.loader,
            self.config.epochs,
            self.log.train if self.log else None,
            highest_rate=self.config.lr,
            precision=self.config.precision,
            state=self.state,
            scaler=self.scaler,
            after_step=self.after_step,
            score=self.score,
            after_epoch=lambda state: self.save(),
            quiet=not self.context.is_main,
        )

    def after_step(self, state: TrainState) -> None:
        """Log early pictures, and stop if a signal has come."""
        if state.steps in self.early_steps:
            self.log_images()
        # processes must ask each other at the same step, and GPUs should not do so at each
        if self.device.type == "cpu" or state.steps % STEPS_PER_POINT == 0:
            self.stop.check(self.context.any)

    def score(self, state: TrainState) -> Scores | None:
        """Validate the net and log the scores; a signal stops it, and the epoch stays open."""
        if self.log is None:
            return None
        # one of several processes cannot stop alone: the others wait in their next step
        check = self.stop.check if self.context.world_size == 1 else lambda: None
        scores: Scores = validate(self.net, self.val_loader, self.dtype, check)
        self.log.log_scores(scores, state.steps)
        self.log_images()
        if self.config.histograms:
            self.log.log_histograms(self.net, state.steps)
        return scores

    def log_images(self) -> None:
        """Log what the net makes of some validation photos by now."""
        if self.log is not None:
            gray, truth = self.shown
            predicted = colorize_batch(self.net, gray, self.dtype)
            self.log.log_images(gray, predicted, truth, self.state.steps)

    def save(self) -> None:
        """Save the checkpoint, the weights and the history; raises NonFiniteError."""
        if self.context.is_main:
            save_checkpoint(
                self.checkpoint_file,
                self.settings,
                self.state,
                self.net,
                self.optimizer,
                self.scaler,
            )
            save_weights(self.net, self.weights_file)
            history = json.dumps(self.state.history, indent=1)
            atomic_write(self.config.out_dir / "history.json", history.encode())

    def end_early(self, stopped: Stopped) -> int:
        """Save everything after a signal; returns the exit code."""
        self.save()
        if self.context.is_main:
            save_sample(self.dataset, self.weights_file, self.dtype)
        self.context.print(
            f"Stopped by {stopped}: the weights so far are in {self.weights_file}; the same command"
            " goes on from here"
        )
        return 128 + stopped.signum


def test_net(config: TrainConfig, context: DistributedContext) -> int:
    """Try a net as the flags say; returns the exit code."""
    file = config.test_net
    assert file is not None
    try:
        net = load_net(file)
    except FileNotFoundError:
        raise CheckpointError(f"--test_net: there is no file {file}") from None
    net.to(context.device, memory_format=torch.channels_last)
    dtype = autocast_dtype(context.device, config.precision)
    if config.images is not None:
        config.out_dir.mkdir(parents=True, exist_ok=True)
        history = file.with_name("history.json")
        print(colour_folder(net, config.images, config.out_dir, dtype, history))
        return 0
    if config.image_size % (multiple := get_side_multiple(net)):
        raise CheckpointError(f"--image_size: the net in {file} needs a multiple of {multiple}")
    dataset = open_dataset(config, open_folder(config, context), context)
    loader = PhotoLoader(dataset.pixels, dataset.val_indices, config.batch_size, context.device)
    print(f"{len(dataset.val_indices)} photos: {validate(net, loader, dtype)}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Do what the flags ask for; returns the exit code."""
    config = parse_arguments(argv, __doc__, cuda=torch.cuda.is_available())
    with init_distributed() as context:
        try:
            code = (test_net if config.test_net else train_net)(config, context)
            context.barrier()
            return code
        except Exception as error:
            if (failure := explain(error, config, context.device)) is None:
                raise
        code, message = failure
        print(message, file=sys.stderr, flush=True)
        return code


def explain(error: Exception, config: TrainConfig, device: torch.device) -> tuple[int, str] | None:
    """The exit code for an error and one line for the user; None for a bug."""
    if isinstance(error, NonFiniteError):
        weights = config.out_dir / "unet.pth"
        kept = f"; {weights} keeps the last good weights" if weights.exists() else ""
        return 1, f"Training diverged: {error}{kept}. Try --resume none with a smaller --lr"
    if isinstance(error, DataError | CheckpointError):
        return 2, f"colorize.py: {error}"
    if is_out_of_memory(error):
        fitting = suggest_batch_size(
            config.batch_size,
            config.image_size,
            autocast_dtype(device, config.precision),
            get_memory_bytes(device),
            MODELS[config.model].memory,
        )
        return 1, f"The memory of this {device.type} is full: try --batch_size {fitting}"
    if isinstance(error, RuntimeError) and config.compile != "off":
        why = str(error).strip().partition("\n")[0]
        return 1, f"torch.compile failed ({why}): try without --compile"
    if isinstance(error, OSError):  # the disk is full, a folder cannot be written
        return 1, f"colorize.py: {error}"
    return None


if __name__ == "__main__":
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may not be valid text
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("colorize.py: stopped, nothing more was saved", file=sys.stderr, flush=True)
        sys.exit(130)
