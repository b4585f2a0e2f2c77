"""What colorize.py trains and validates on: the cached photos, split without leaking."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from cache import default_folder, open_cache
from colours import to_batch
from data_utils import DataError, ImageFolderGrayColor, split_by_photo, take
from plain_files import to_printable
from progress import progress_bar

MIN_VALIDATION = 16  # photos: one of TensorBoard's image grids


class PhotoDataset:
    """Photos as bytes in memory, and the indices of those for training and for validation.

    Raises DataError if there is nothing to train or to validate with. `is_main` is False in all but
    one of several processes: only that one prints.
    """

    def __init__(
        self,
        folder: Path,
        image_size: int,
        *,
        train_samples: int | None = None,
        seed: int = 0,
        cache_dir: Path | None = None,
        workers: int = 0,
        is_main: bool = True,
    ) -> None:
        def say(text: str) -> None:
            if is_main:
                print(text, flush=True)

        say(f"Reading the photos in {folder} ...")
        found = ImageFolderGrayColor(folder, check=False)
        self.files = [path for path, _ in found.samples]
        self.classes = [found.classes[label] for label in found.targets]
        self.pixels, unreadable = open_cache(
            self.files,
            image_size,
            cache_dir or default_folder(),
            workers=workers,
            progress=lambda things, total: progress_bar(
                things, total, "decoding", quiet=not is_main
            ),
            say=say,
        )
        training, validation = split_by_photo(found)
        found.leave_out(unreadable)
        if unreadable:
            named = [
                f"{to_printable(os.path.relpath(self.files[index], folder))} ({why})"
                for index, why in unreadable.items()
            ]
            first = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            say(f"Left out {len(named)} unreadable: {first}")
        training = [index for index in training if index not in unreadable]
        validation = [index for index in validation if index not in unreadable]
        if not training or not validation:
            raise DataError(
                f"too few pictures in {folder} can be read: {len(training)} to train on,"
                f" {len(validation)} to validate on"
            )
        self.training = take(training, train_samples, seed)
        self.validation = validation[: max(MIN_VALIDATION, len(self.training) // 4)]

    def fingerprint(self) -> str:
        """What is trained on: how many photos, and a digest of their names and sizes."""
        files = [self.files[index] for index in self.training]
        facts = sorted(f"{Path(file).name} {Path(file).stat().st_size}" for file in files)
        text = "\n".join(facts).encode(errors="surrogatepass")
        return f"{len(files)} photos ({hashlib.sha256(text).hexdigest()[:12]})"

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some photos as one batch (gray, colour) on the CPU."""
        return to_batch(self.pixels[torch.tensor(indices)])

    def one_of_each_class(self) -> dict[str, int]:
        """The first validation photo of each class."""
        first = {self.classes[index]: index for index in reversed(self.validation)}
        return dict(sorted(first.items()))
