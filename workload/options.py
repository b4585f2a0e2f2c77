"""The flags of colorize.py."""

import argparse
import math
import os
from pathlib import Path

# What the course trains with. On two CPU cores that would take hours, so without a GPU the second
# column holds: a few minutes, and colours that one can recognise.
DEFAULTS = {
    # flag: (with CUDA, without)
    "image_size": (224, 80),
    "train_samples": (None, 1024),  # None: all
    "epochs": (10, 6),
    "batch_size": (32, 8),
}


def positive(text: str) -> int:
    """A whole number from 1."""
    if (number := int(text)) < 1:
        raise ValueError
    return number


def multiple_of_8(text: str) -> int:
    """A side that the net can halve three times."""
    if (number := positive(text)) % 8:
        raise argparse.ArgumentTypeError(f"{number} is not a multiple of 8")
    return number


def positive_float(text: str) -> float:
    """A finite number above 0."""
    if not 0 < (number := float(text)) < math.inf:
        raise ValueError
    return number


def parse_arguments(argv: list[str] | None, description: str, cuda: bool) -> argparse.Namespace:
    """The flags, with the defaults that suit this machine; announces them if they are small."""
    parser = argparse.ArgumentParser(
        description=description,
        epilog="one small iteration first: python colorize.py --train_samples 64 --epochs 1",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )

    def sized(flag: str) -> str:
        with_cuda, without = (value or "all" for value in DEFAULTS[flag])
        return f"(default: {with_cuda} with a CUDA GPU, {without} without)"

    add = parser.add_argument
    add(
        "--data_path",
        type=Path,
        default=Path("data/landscapes"),
        metavar="DIR",
        help="photos in class folders (default: data/landscapes)",
    )
    add(
        "--out_dir",
        type=Path,
        default=Path(),
        metavar="DIR",
        help="where unet.pth, sample.png and runs/ go (default: here)",
    )
    add("--epochs", type=positive, help=f"passes over the photos {sized('epochs')}")
    add("--batch_size", type=positive, help=f"photos per step {sized('batch_size')}")
    add("--lr", type=positive_float, default=1e-3, help="Adam's learning rate (default: 1e-3)")
    add(
        "--train_samples",
        type=positive,
        metavar="N",
        help=f"train on N photos at most {sized('train_samples')}",
    )
    add(
        "--image_size",
        type=multiple_of_8,
        metavar="PIXELS",
        help=f"sides of the resized photos, a multiple of 8 {sized('image_size')}",
    )
    add(
        "--num_workers",
        type=int,
        choices=range(65),
        metavar="N",
        help="processes that load photos (default: one per core, 8 at most; without CUDA 0)",
    )
    add("--seed", type=int, default=0, help="of weights, order and choice of photos (default: 0)")
    arguments = parser.parse_args(argv)

    shrunk = []
    for flag, (with_cuda, without) in DEFAULTS.items():
        if getattr(arguments, flag) is None:
            setattr(arguments, flag, with_cuda if cuda else without)
            shrunk.append(f"--{flag} {without}")
    if shrunk and not cuda:
        print(f"No CUDA GPU here, so a small training: {' '.join(shrunk)} (each can be overridden)")
    if arguments.num_workers is None:
        arguments.num_workers = min(8, os.cpu_count() or 1) if cuda else 0
    return arguments
