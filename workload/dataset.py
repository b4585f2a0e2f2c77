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


def count_validation(train_photos: int) -> int:
    """How many photos are validated on when this many are trained on, if there are enough."""
    return max(MIN_VALIDATION, train_photos // 4)


class PhotoDataset:
    """Photos as bytes in memory, and the indices of those for training and for validation.

    `pixels` has the shape (N, S, S, 3) and the type uint8; the other attributes are indices into
    it. Raises DataError if too few photos can be read. `is_main` is False in all but one of several
    processes: only that one prints.
    """

    def __init__(
        self,
        folder: ImageFolderGrayColor,
        image_size: int,
        *,
        cache_dir: Path | None = None,
        workers: int = 0,
        is_main: bool = True,
    ) -> None:
        def say(text: str) -> None:
            if is_main:
                print(text, flush=True)

        self.files = [path for path, _ in folder.samples]
        self.classes = [folder.classes[label] for label in folder.targets]
        self.pixels, unreadable = open_cache(
            self.files,
            image_size,
            cache_dir or default_folder(),
            workers=workers,
            progress=lambda photos, total: progress_bar(
                photos, total, "decoding", quiet=not is_main
            ),
            say=say,
        )
        split = split_by_photo(folder)
        folder.leave_out(unreadable)
        if unreadable:
            named = [
                f"{to_printable(os.path.relpath(self.files[index], folder.root))} ({why})"
                for index, why in unreadable.items()
            ]
            first = ", ".join(named[:3]) + (", ..." if len(named) > 3 else "")
            say(f"Left out {len(named)} unreadable: {first}")
        self._train_candidates, self._val_candidates = (
            [index for index in indices if index not in unreadable] for indices in split
        )
        if not self._train_candidates or not self._val_candidates:
            raise DataError(
                f"too few pictures in {folder.root} can be read: {len(self._train_candidates)} to"
                f" train on, {len(self._val_candidates)} to validate on"
            )
        self.select(None, 0)

    @property
    def available(self) -> int:
        """The number of photos that can be trained on."""
        return len(self._train_candidates)

    def count_validation(self, train_photos: int) -> int:
        """How many photos are validated on when this many are trained on."""
        return min(len(self._val_candidates), count_validation(train_photos))

    def select(self, train_samples: int | None, seed: int) -> None:
        """Train on this many photos, drawn at random by `seed`; on all of them if it is None."""
        self.train_indices = take(self._train_candidates, train_samples, seed)
        self.val_indices = self._val_candidates[: self.count_validation(len(self.train_indices))]

    def fingerprint(self) -> str:
        """What is trained on: how many photos, and a digest of their names and sizes."""
        files = [self.files[index] for index in self.train_indices]
        facts = sorted(f"{Path(file).name} {Path(file).stat().st_size}" for file in files)
        text = "\n".join(facts).encode(errors="surrogatepass")
        return f"{len(files)} photos ({hashlib.sha256(text).hexdigest()[:12]})"

    def batch(self, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Some photos as one batch on the CPU: gray (N, 1, S, S) and colour (N, 3, S, S)."""
        return to_batch(self.pixels[torch.tensor(indices)])

    def one_of_each_class(self) -> dict[str, int]:
        """The index of the first validation photo of each class, by the class's name."""
        first = {self.classes[index]: index for index in reversed(self.val_indices)}
        return dict(sorted(first.items()))
