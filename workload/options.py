"""The flags of colorize.py, and what they amount to: a TrainConfig."""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MODELS

# The course's training. On two CPU cores it would take hours, so without a GPU the second column
# holds, and a training is fitted to MINUTES instead (see budget.py).
DEFAULTS: dict[str, tuple[int | None, int]] = {
    # flag: (with CUDA, without)
    "image_size": (224, 80),
    "train_samples": (None, 1024),  # None: all
    "epochs": (10, 6),
    "batch_size": (32, 8),
}
MINUTES = 2.0  # that a training takes without CUDA if no other time is asked for
FITTED = ("image_size", "train_samples", "epochs")  # what is chosen to fit a time

# Flags that decide what a training computes: it is resumed only if all of them are the same.
CONFIGURATION = (
    "batch_size",
    "crop",
    "epochs",
    "image_size",
    "lr",
    "minutes",
    "model",
    "momentum",
    "seed",
    "threads",
    "train_samples",
    "weight_decay",
)

EPILOG = """\
examples:
  python colorize.py --train_samples 64 --epochs 1         one small iteration first
  python colorize.py --minutes 10                          a training of about ten minutes
  python colorize.py --epochs 20                           go on after Ctrl-C: the same again
  python colorize.py --resume trained.pt --epochs 30       ten epochs more
  python colorize.py --test_net unet.pth                   scores on the validation photos
  python colorize.py --test_net unet.pth --images photos   pictures, and colorized.html
  torchrun --standalone --nproc_per_node=2 colorize.py     two GPUs (without GPUs: two processes)

exit codes: 0 done, 1 diverged or out of memory or disk, 2 bad flags, data or checkpoint,
130 Ctrl-C, 143 SIGTERM (both save first).
"""


@dataclass(frozen=True)
class TrainConfig:
    """The flags of one call, checked, with the defaults for this machine filled in.

    `adjustable` names the fields that the user left open: a checkpoint that is resumed fills them
    in, and otherwise those of FITTED are chosen to fit `minutes`, if that is not None. `threads` is
    no flag: it is chosen with them, and None leaves PyTorch's own number.
    """

    data_path: Path
    image_size: int  # pixels: height and width
    train_samples: int | None  # photos; None: all
    crop: int  # pixels
    num_workers: int  # threads that decode; 0: as many as there are cores
    cache_dir: Path | None
    minutes: float | None
    epochs: int
    batch_size: int  # photos per step, of all processes together
    model: str  # a key of MODELS
    lr: float  # the highest learning rate
    momentum: float
    weight_decay: float
    seed: int
    precision: str  # auto, fp32, bf16 or fp16
    compile: str  # torch.compile's mode, or off
    histograms: bool
    out_dir: Path
    resume: str  # auto, none or a file
    initial_epoch: int | None
    test_net: Path | None
    images: Path | None
    adjustable: frozenset[str]
    threads: int | None = None

    @property
    def is_fitted(self) -> bool:
        """True if a size, a number of photos or of epochs is to be chosen to fit the time."""
        return self.minutes is not None and not self.adjustable.isdisjoint(FITTED)

    def settings(self) -> dict[str, Any]:
        """The part of it that decides what a training computes, for its checkpoint."""
        return {name: getattr(self, name) for name in CONFIGURATION}


def positive(text: str) -> int:
    """Parse a whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def not_negative(text: str) -> int:
    """Parse a whole number from 0."""
    if (number := int(text)) < 0:
        raise ValueError
    return number


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def not_negative_float(text: str) -> float:
    """Parse a finite number from 0."""
    if not 0 <= (number := float(text)) < math.inf:
        raise ValueError
    return number


def fraction(text: str) -> float:
    """Parse a number from 0, below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise ValueError
    return number


def parse_arguments(argv: list[str] | None, description: str | None, cuda: bool) -> TrainConfig:
    """Parse the flags and fill in the defaults for a machine with or without CUDA.

    Raises SystemExit with code 2 for flags that make no sense.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_data_flags(parser)
    add_training_flags(parser)
    add_file_flags(parser)
    config = fill_in(parser.parse_args(argv), cuda)
    if config.images and not config.test_net:
        parser.error("--images needs --test_net CHECKPOINT: the net that is to colour them")
    if config.minutes is not None and not config.is_fitted:
        given = ", ".join(f"--{name}" for name in FITTED)
        parser.error(f"--minutes: nothing is left to choose; leave out one of {given}")
    if problem := find_size_problem(config):
        parser.error(problem)
    return config


def describe_default(flag: str) -> str:
    """What `--help` says about a default that depends on the machine."""
    with_cuda = DEFAULTS[flag][0] or "all"
    without = "what fits --minutes" if flag in FITTED else DEFAULTS[flag][1]
    return f"(default: {with_cuda} with a CUDA GPU, {without} without)"


def add_data_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say what to train on."""
    add = parser.add_argument_group("data").add_argument
    add(
        "--data_path",
        type=Path,
        default=Path("data/landscapes"),
        metavar="DIR",
        help="photos in class folders (default: data/landscapes)",
    )
    add(
        "--image_size",
        type=positive,
        metavar="PIXELS",
        help="side of the resized photos, a multiple of 8 (--model half: of 16)"
        f" {describe_default('image_size')}",
    )
    add(
        "--train_samples",
        type=positive,
        metavar="N",
        help=f"train on N photos at most {describe_default('train_samples')}",
    )
    add(
        "--crop",
        type=not_negative,
        default=0,
        metavar="PIXELS",
        help="shift each photo at random by up to this many pixels (default: 0)",
    )
    add(
        "--num_workers",
        type=int,
        choices=range(65),
        default=0,
        metavar="N",
        help="threads that decode the photos, once (default: 0, as many as pay here)",
    )
    add(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where decoded photos are kept (default: ~/.cache/colorize)",
    )


def add_training_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how to train."""
    add = parser.add_argument_group("training").add_argument
    add(
        "--minutes",
        type=positive_float,
        metavar="N",
        help="train for about N minutes: steps are measured, and --image_size, --train_samples and"
        f" --epochs are chosen to fit, unless given (default: none with a CUDA GPU, {MINUTES:g}"
        " without)",
    )
    add("--epochs", type=positive, help=f"passes over the photos {describe_default('epochs')}")
    add(
        "--batch_size",
        type=positive,
        help=f"photos per step, of all GPUs {describe_default('batch_size')}",
    )
    add(
        "--model",
        choices=MODELS,
        default="unet",
        help="unet: the course's; half: colours found at half the size, as good and several times"
        " faster, with other weights (default: unet)",
    )
    add("--lr", type=positive_float, default=1e-3, help="Adam's highest rate (default: 1e-3)")
    add("--momentum", type=fraction, default=0.9, help="Adam's first beta (default: 0.9)")
    add(
        "--weight_decay",
        type=not_negative_float,
        default=0.0,
        help="of the weights, apart from the gradient as in AdamW (default: 0)",
    )
    add("--seed", type=not_negative, default=0, help="of weights, order and choice (default: 0)")
    add(
        "--precision",
        choices=("auto", "fp32", "bf16", "fp16"),
        default="auto",
        help="of convolutions (default: the fastest that the device has natively)",
    )
    add(
        "--compile",
        choices=("off", "default", "reduce-overhead", "max-autotune"),
        default="off",
        help="torch.compile's mode; reduce-overhead uses CUDA graphs (default: off)",
    )
    add("--histograms", action="store_true", help="of all weights, after every epoch")


def add_file_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which files to write and to start from."""
    add = parser.add_argument_group("files").add_argument
    add(
        "--out_dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where unet.pth, sample.png, checkpoints and runs/ go (default: here)",
    )
    add(
        "--resume",
        default="auto",
        metavar="CHECKPOINT",
        help="go on from this file; unet.pth gives the weights alone (default: auto, from"
        " checkpoint.pt in --out_dir if a training was interrupted there; none: start over)",
    )
    add(
        "--initial_epoch",
        type=not_negative,
        metavar="N",
        help="count epochs from N (default: as the checkpoint says, else 0)",
    )
    add("--test_net", type=Path, metavar="CHECKPOINT", help="do not train: try this net")
    add("--images", type=Path, metavar="DIR", help="with --test_net: colour the pictures in DIR")


def fill_in(arguments: argparse.Namespace, cuda: bool) -> TrainConfig:
    """Complete the parsed flags with the defaults for this machine."""
    flags = vars(arguments)
    adjustable = {name for name in ("minutes", *FITTED) if flags[name] is None}
    if flags["minutes"] is None and not cuda and not adjustable.isdisjoint(FITTED):
        flags["minutes"] = MINUTES
    if flags["minutes"] is None:  # nothing is chosen: the defaults count as if they were given
        adjustable -= set(FITTED)
    for flag, (with_cuda, without) in DEFAULTS.items():
        if flags[flag] is None:
            flags[flag] = with_cuda if cuda else without
    return TrainConfig(**flags, adjustable=frozenset(adjustable))


def find_size_problem(config: TrainConfig) -> str | None:
    """Why the net cannot be trained at this image size; None if it can."""
    if config.image_size % (multiple := MODELS[config.model].side_multiple):
        return f"--image_size: --model {config.model} needs a multiple of {multiple}"
    if config.crop >= config.image_size:
        return f"--crop: fewer pixels than --image_size {config.image_size} are needed"
    return None
