"""Photos in class folders as pairs: the gray picture goes in, the colour picture is the target."""

import hashlib
import os
import random
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from image_files import find_photos, is_photo, load_rgb, why_unreadable
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

# Crops of one photo are named NAME_a, NAME_b, NAME_c: they overlap.
CROP_SUFFIX = re.compile(r"_[abc]$")


class DataError(Exception):
    """The data set cannot be used; the message says why and what to do."""


class ImageFolderGrayColor(ImageFolder):
    """An ImageFolder of pairs (gray, colour): both come from the same photo.

    `transform` makes the input, `target_transform` the target; without one the PIL photo itself is
    returned. Files that cannot be decoded are left out and listed in `unreadable`, unless
    `check` is False: then nothing has been decoded yet.
    """

    samples: list[tuple[str, int]]

    def __init__(
        self,
        root: str | Path,
        transform: Callable[[Image.Image], Any] | None = None,
        target_transform: Callable[[Image.Image], Any] | None = None,
        check: bool = True,
    ) -> None:
        root = Path(root)
        try:
            super().__init__(
                str(root), transform, target_transform, load_rgb, is_valid_file=is_photo
            )
        except (FileNotFoundError, NotADirectoryError):  # no folder, or no class folder in it
            raise DataError(missing_data(root)) from None
        except OSError as error:
            raise DataError(f"{root} cannot be read ({error.strerror})") from None

        self.unreadable: list[str] = []
        if check:
            with ThreadPoolExecutor() as pool:
                problems = list(pool.map(why_unreadable, (path for path, _ in self.samples)))
            self.leave_out({index for index, problem in enumerate(problems) if problem})

    def leave_out(self, indices: Collection[int]) -> None:
        """Drop the samples of unreadable files; raises DataError if none would be left."""
        dropped = set(indices)
        if len(dropped) == len(self.samples):
            raise DataError(f"none of the {len(dropped)} pictures in {self.root} can be read")
        self.unreadable += [self.samples[index][0] for index in sorted(dropped)]
        self.samples = [kept for index, kept in enumerate(self.samples) if index not in dropped]
        self.imgs = self.samples
        self.targets = [label for _, label in self.samples]

    def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
        """The classes are the folders that hold photos, without `__MACOSX` and hidden ones."""
        classes = sorted(
            folder.name
            for folder in Path(directory).iterdir()
            if folder.is_dir()
            and folder.name != "__MACOSX"
            and not folder.name.startswith(".")
            and any(find_photos(folder))
        )
        if not classes:
            raise FileNotFoundError(directory)
        return classes, {name: label for label, name in enumerate(classes)}

    @staticmethod
    def make_dataset(
        directory: str | Path, class_to_idx: Mapping[str, int], *_: Any, **__: Any
    ) -> list[tuple[str, int]]:
        """The photos of all classes; torchvision's own walk never ends if links form a cycle."""
        return [
            (path, label)
            for name, label in class_to_idx.items()
            for path in sorted(find_photos(Path(directory, name)), key=os.path.split)
        ]

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        path, _ = self.samples[index]
        photo = self.loader(path)
        sample = photo if self.transform is None else self.transform(photo)
        target = photo if self.target_transform is None else self.target_transform(photo)
        return sample, target


def missing_data(root: Path) -> str:
    """The message for a folder without photos."""
    problem = "holds no photos in class folders" if root.is_dir() else "is not a folder"
    return (
        f"{root} {problem}: run scripts/download_landscapes.sh, which fills data/landscapes at the"
        " project's root, and name that folder with --data_path"
    )


def colorization_dataset(path: str | Path, image_size: int = 224) -> ImageFolderGrayColor:
    """Pairs of tensors: gray (1, S, S) in [-1, 1] and colour (3, S, S) in [0, 1]."""
    resize = transforms.Resize((image_size, image_size))
    return ImageFolderGrayColor(
        path,
        transform=transforms.Compose(
            [
                resize,
                transforms.Grayscale(),
                transforms.ToTensor(),
                transforms.Normalize(mean=[0.5], std=[0.5]),
            ]
        ),
        target_transform=transforms.Compose([resize, transforms.ToTensor()]),
    )


def get_colorized_dataset_loader(
    path: str | Path, image_size: int = 224, **kwargs: Any
) -> DataLoader[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of (gray, colour) from every photo in `path`; `kwargs` are the DataLoader's."""
    return DataLoader(colorization_dataset(path, image_size), **kwargs)


def split_by_photo(
    dataset: ImageFolderGrayColor, validation_fraction: float = 0.1
) -> tuple[list[int], list[int]]:
    """Indices for training and for validation, in a shuffled order that depends on names alone.

    All crops of one photo are on the same side: a net must not be validated on a part of a photo
    that it was trained on. The same files give the same split on every machine, whatever the seed.
    """
    photos: dict[str, list[int]] = defaultdict(list)
    for index, (file, label) in enumerate(dataset.samples):
        photos[f"{dataset.classes[label]}/{CROP_SUFFIX.sub('', Path(file).stem)}"].append(index)
    if len(photos) < 2:
        raise DataError(f"{dataset.root} holds one photo, but validation needs another one")
    names = sorted(
        photos, key=lambda name: hashlib.sha256(name.encode(errors="surrogateescape")).digest()
    )
    held_out = max(1, round(validation_fraction * len(names)))
    validation = [index for name in names[:held_out] for index in photos[name]]
    training = [index for name in names[held_out:] for index in photos[name]]
    return training, validation


def take(indices: list[int], count: int | None, seed: int) -> list[int]:
    """`count` of the indices, drawn at random by `seed`; all of them if `count` is None."""
    if count is None or count >= len(indices):
        return indices
    return random.Random(seed).sample(indices, count)
