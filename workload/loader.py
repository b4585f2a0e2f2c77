"""Batches of cached photos on the device, in an order that is known from (seed, epoch) alone.

A training that was interrupted goes on at any step without a word about the past being stored:
order and augmentation of a step are computed from the seed, the epoch and the step.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from colours import to_batch

Batch = tuple[torch.Tensor, torch.Tensor, float]


class Batches:
    """Pairs (gray, colour) and the weight of their mean loss, made where the net computes.

    With `shuffle` the order changes with each epoch and half of the photos are mirrored. The photos
    move to the GPU once if they take at most `resident_share` of its free memory; otherwise a
    thread gathers the next batch while this one is computed.

    Of several processes each takes its share of every batch; the weight makes the mean over the
    processes the mean over the batch, also where a last, small batch is shared unevenly.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        rows: Sequence[int],
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        shuffle: bool = False,
        crop: int = 0,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
        resident_share: float = 0.4,
    ) -> None:
        self.device = torch.device(device)
        self.rows = torch.tensor(rows, dtype=torch.int64)
        self.batch_size, self.shuffle, self.crop, self.seed = batch_size, shuffle, crop, seed
        self.rank, self.processes = rank, processes
        self.epoch, self.first_step = 1, 0
        self.pixels = pixels
        self.resident = self.device.type == "cuda" and (
            len(rows) * pixels[0].numel() <= resident_share * torch.cuda.mem_get_info(device)[0]
        )
        if self.resident:
            self.pixels = pixels[self.rows].to(self.device)
            self.rows = torch.arange(len(self.rows))

    def __len__(self) -> int:
        """Steps in an epoch."""
        return math.ceil(len(self.rows) / self.batch_size)

    @property
    def photos(self) -> int:
        """Photos in an epoch."""
        return len(self.rows)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Which epoch comes next, and how many of its steps have been taken already."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[Batch]:
        order = self.rows
        if self.shuffle:
            generator = torch.Generator().manual_seed(number_of(self.seed, self.epoch))
            order = order[torch.randperm(len(order), generator=generator)]
        batches = order.split(self.batch_size)
        steps = range(self.first_step, len(batches))
        if self.device.type == "cpu" or self.resident:
            for step in steps:
                yield self.finish(step, *self.gather(step, batches[step]))
            return
        with ThreadPoolExecutor(1) as pool:
            coming = [pool.submit(self.gather, step, batches[step]) for step in steps[:2]]
            for step in steps:
                ready = coming.pop(0).result()
                if step + 2 < len(batches):
                    coming.append(pool.submit(self.gather, step + 2, batches[step + 2]))
                yield self.finish(step, *ready)

    def gather(self, step: int, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        """This process's photos of a step, still bytes; where each of them lies; their weight."""
        count = len(rows)
        places = torch.arange(count)[self.rank :: self.processes]
        weight = len(places) * self.processes / count
        if not len(places):  # it must take part in the step, but its photo counts for nothing
            places = torch.zeros(1, dtype=torch.int64)
        chosen = rows[places]
        if self.resident:
            return self.pixels[moved(chosen, self.device)], places, weight
        photos = self.pixels[chosen]
        return (photos.pin_memory() if self.device.type == "cuda" else photos), places, weight

    def finish(self, step: int, photos: torch.Tensor, places: torch.Tensor, weight: float) -> Batch:
        """Bytes on their way to the device, mirrored and cropped there, as what the net reads."""
        photos = photos.to(self.device, non_blocking=True)
        if self.shuffle:
            # drawn for the whole batch: a photo's fate must not depend on how many share the work
            generator = torch.Generator().manual_seed(number_of(self.seed, self.epoch, step))
            mirrored = torch.rand(self.batch_size, generator=generator)[places] < 0.5
            shifts = torch.randint(
                -self.crop, self.crop + 1, (self.batch_size, 2), generator=generator
            )[places]
            photos = augment(photos, mirrored, shifts if self.crop else None)
        return *to_batch(photos), weight


def number_of(*parts: int) -> int:
    """A seed that differs for each epoch and step, within the 63 bits that a generator takes."""
    number = 0
    for part in parts:
        number = (number * 1_000_003 + part) % (1 << 63)
    return number


def moved(small: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A small tensor on the device, without waiting for what the device is doing."""
    if device.type != "cuda":
        return small.to(device)
    return small.pin_memory().to(device, non_blocking=True)


def augment(
    photos: torch.Tensor, mirrored: torch.Tensor, shifts: torch.Tensor | None
) -> torch.Tensor:
    """Mirror some photos (N, S, S, 3), and move each by its (down, right) pixels if `shifts`.

    A moved photo is a crop of the same size: what would come from outside is the photo mirrored at
    its edge. Bytes are only moved, so nothing is rounded.
    """
    mirrored = moved(mirrored, photos.device)
    if shifts is None:
        return torch.where(mirrored.view(-1, 1, 1, 1), photos.flip(2), photos)
    side = photos.shape[1]
    shifts = moved(shifts, photos.device)
    line = torch.arange(side, device=photos.device)
    down, right = (reflected(line + shift.unsqueeze(1), side) for shift in shifts.unbind(1))
    right = torch.where(mirrored.unsqueeze(1), right.flip(1), right)
    number = torch.arange(len(photos), device=photos.device)
    return photos[number[:, None, None], down[:, :, None], right[:, None, :]]


def reflected(places: torch.Tensor, side: int) -> torch.Tensor:
    """Places outside of 0..side-1 mirrored back inside, at most one side away."""
    places = places.abs()
    return torch.where(places < side, places, 2 * (side - 1) - places)
