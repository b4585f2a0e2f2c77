"""The flags of colorize.py."""

import argparse
import math
from pathlib import Path

from models import MODELS

# What the course trains with. On two CPU cores that would take hours, so without a GPU the second
# column holds: a few minutes, and colours that one can recognise.
DEFAULTS = {
    # flag: (with CUDA, without)
    "image_size": (224, 80),
    "train_samples": (None, 1024),  # None: all
    "epochs": (10, 6),
    "batch_size": (32, 8),
}

# Flags that decide what a training computes: it goes on only where all of them are the same.
CONFIGURATION = (
    "batch_size",
    "crop",
    "epochs",
    "image_size",
    "lr",
    "model",
    "momentum",
    "seed",
    "train_samples",
    "weight_decay",
)

EPILOG = """\
examples:
  python colorize.py --train_samples 64 --epochs 1         one small iteration first
  python colorize.py --epochs 20                           go on after Ctrl-C: the same again
  python colorize.py --resume trained.pt --epochs 30       ten epochs more
  python colorize.py --test_net unet.pth                   scores on the validation photos
  python colorize.py --test_net unet.pth --images photos   pictures, and colorized.html
  torchrun --standalone --nproc_per_node=2 colorize.py     two GPUs (without GPUs: two processes)

exit codes: 0 done, 1 diverged or out of memory or disk, 2 bad flags, data or checkpoint,
130 Ctrl-C, 143 SIGTERM (both save first).
"""


def positive(text: str) -> int:
    """A whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def not_negative(text: str) -> int:
    """A whole number from 0."""
    if (number := int(text)) < 0:
        raise ValueError
    return number


def positive_float(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def fraction(text: str) -> float:
    """A number from 0, below 1."""
    if not 0 <= (number := float(text)) < 1:
        raise ValueError
    return number


def parse_arguments(argv: list[str] | None, description: str, cuda: bool) -> argparse.Namespace:
    """The flags, with the defaults that suit this machine; `shrunk` says which of them are small.

    Raises SystemExit with code 2 for flags that make no sense.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def sized(flag: str) -> str:
        with_cuda, without = (value or "all" for value in DEFAULTS[flag])
        return f"(default: {with_cuda} with a CUDA GPU, {without} without)"

    data = parser.add_argument_group("data")
    data.add_argument(
        "--data_path",
        type=Path,
        default=Path("data/landscapes"),
        metavar="DIR",
        help="photos in class folders (default: data/landscapes)",
    )
    data.add_argument(
        "--image_size",
        type=positive,
        metavar="PIXELS",
        help="sides of the resized photos, a multiple of 8 (--model half: of 16)"
        f" {sized('image_size')}",
    )
    data.add_argument(
        "--train_samples",
        type=positive,
        metavar="N",
        help=f"train on N photos at most {sized('train_samples')}",
    )
    data.add_argument(
        "--crop",
        type=not_negative,
        default=0,
        metavar="PIXELS",
        help="move each photo by up to so many pixels before a step (default: 0)",
    )
    data.add_argument(
        "--num_workers",
        type=int,
        choices=range(65),
        default=0,
        metavar="N",
        help="threads that decode the photos, once (default: 0, as many as pay here)",
    )
    data.add_argument(
        "--cache_dir",
        type=Path,
        metavar="DIR",
        help="where decoded photos are kept (default: ~/.cache/colorize)",
    )

    training = parser.add_argument_group("training")
    add = training.add_argument
    add("--epochs", type=positive, help=f"passes over the photos {sized('epochs')}")
    add("--batch_size", type=positive, help=f"photos per step, of all GPUs {sized('batch_size')}")
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
        type=float,
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

    files = parser.add_argument_group("files")
    files.add_argument(
        "--out_dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where unet.pth, sample.png, checkpoints and runs/ go (default: here)",
    )
    files.add_argument(
        "--resume",
        default="auto",
        metavar="CHECKPOINT",
        help="go on from this file; unet.pth gives the weights alone (default: auto, from"
        " checkpoint.pt in --out_dir if a training was interrupted there; none: begin anew)",
    )
    files.add_argument(
        "--initial_epoch",
        type=not_negative,
        metavar="N",
        help="count epochs from N (default: as the checkpoint says, else 0)",
    )
    files.add_argument(
        "--test_net", type=Path, metavar="CHECKPOINT", help="do not train: try this net"
    )
    files.add_argument(
        "--images", type=Path, metavar="DIR", help="with --test_net: colour the pictures in DIR"
    )
    arguments = parser.parse_args(argv)
    if arguments.images and not arguments.test_net:
        parser.error("--images needs --test_net CHECKPOINT: the net that is to colour them")
    if not 0 <= arguments.weight_decay < math.inf:
        parser.error("--weight_decay: a number from 0 is needed")

    arguments.shrunk = []
    for flag, (with_cuda, without) in DEFAULTS.items():
        if getattr(arguments, flag) is None:
            setattr(arguments, flag, with_cuda if cuda else without)
            if not cuda:
                arguments.shrunk.append(f"--{flag} {without}")
    if arguments.image_size % (sides := MODELS[arguments.model].side_multiple):
        parser.error(f"--image_size: --model {arguments.model} needs a multiple of {sides}")
    if arguments.crop >= arguments.image_size:
        parser.error(f"--crop: fewer pixels than --image_size {arguments.image_size} are needed")
    return arguments
