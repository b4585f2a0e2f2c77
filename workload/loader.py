"""Batches of cached photos on the device, in an order that follows from (seed, epoch) alone.

A training can be resumed at any step without a stored state of the loader: order and augmentation
are computed from the seed, the epoch and the step.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from colours import to_batch

Batch = tuple[torch.Tensor, torch.Tensor, float]


class PhotoLoader:
    """Yields (gray, colour, weight of their mean loss), made on the device.

    `pixels` (N, S, S, 3) are bytes, and `indices` say which of the photos are loaded. With
    `shuffle`, the order changes with each epoch and half of the photos are mirrored. The photos are
    copied to the GPU once if they take at most `resident_share` of its free memory; otherwise a
    thread gathers the next batch while the current one is computed.

    Each of `world_size` processes takes its share of every batch. With the weights, the mean over
    the processes is the mean over the batch, even if a last, small batch is shared unevenly.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        indices: Sequence[int],
        batch_size: int,
        device: torch.device | str = "cpu",
        *,
        shuffle: bool = False,
        crop: int = 0,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        resident_share: float = 0.4,
    ) -> None:
        self.device = torch.device(device)
        self.indices = torch.tensor(indices, dtype=torch.int64)
        self.batch_size, self.shuffle, self.crop, self.seed = batch_size, shuffle, crop, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.first_step = 1, 0
        self.pixels = pixels
        self.is_resident = self.device.type == "cuda" and (
            len(indices) * pixels[0].numel() <= resident_share * torch.cuda.mem_get_info(device)[0]
        )
        if self.is_resident:
            self.pixels = pixels[self.indices].to(self.device)
            self.indices = torch.arange(len(self.indices))

    def __len__(self) -> int:
        """The number of steps in an epoch."""
        return math.ceil(len(self.indices) / self.batch_size)

    @property
    def photos(self) -> int:
        """The number of photos in an epoch."""
        return len(self.indices)

    def set_epoch(self, epoch: int, first_step: int = 0) -> None:
        """Set the next epoch, from 1, and how many of its steps have been taken already."""
        self.epoch, self.first_step = epoch, first_step

    def __iter__(self) -> Iterator[Batch]:
        order = self.indices
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch))
            order = order[torch.randperm(len(order), generator=generator)]
        batches = order.split(self.batch_size)
        steps = range(self.first_step, len(batches))
        if self.device.type == "cpu" or self.is_resident:
            for step in steps:
                yield self.to_device(step, *self.gather(step, batches[step]))
            return
        with ThreadPoolExecutor(1) as pool:
            pending = [pool.submit(self.gather, step, batches[step]) for step in steps[:2]]
            for step in steps:
                ready = pending.pop(0).result()
                if step + 2 < len(batches):
                    pending.append(pool.submit(self.gather, step + 2, batches[step + 2]))
                yield self.to_device(step, *ready)

    def gather(self, step: int, indices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float]:
        """This process's photos of a step as bytes, their positions in the batch, their weight."""
        count = len(indices)
        places = torch.arange(count)[self.rank :: self.world_size]
        weight = len(places) * self.world_size / count
        if not len(places):  # it must take part in the step, with a weight of 0
            places = torch.zeros(1, dtype=torch.int64)
        chosen = indices[places]
        if self.is_resident:
            return self.pixels[copy_to(chosen, self.device)], places, weight
        photos = self.pixels[chosen]
        return (photos.pin_memory() if self.device.type == "cuda" else photos), places, weight

    def to_device(
        self, step: int, photos: torch.Tensor, places: torch.Tensor, weight: float
    ) -> Batch:
        """Copy the bytes to the device, augment them, and convert them to what the net reads."""
        photos = photos.to(self.device, non_blocking=True)
        if self.shuffle:
            # drawn for the whole batch: augmentation must not depend on the number of processes
            generator = torch.Generator().manual_seed(derive_seed(self.seed, self.epoch, step))
            mirrored = torch.rand(self.batch_size, generator=generator)[places] < 0.5
            shifts = torch.randint(
                -self.crop, self.crop + 1, (self.batch_size, 2), generator=generator
            )[places]
            photos = augment(photos, mirrored, shifts if self.crop else None)
        return *to_batch(photos), weight


def derive_seed(*parts: int) -> int:
    """Combine numbers into a seed of the 63 bits that a generator takes."""
    number = 0
    for part in parts:
        number = (number * 1_000_003 + part) % (1 << 63)
    return number


def copy_to(small: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a small tensor to the device without waiting for its pending work."""
    if device.type != "cuda":
        return small.to(device)
    return small.pin_memory().to(device, non_blocking=True)


def augment(
    photos: torch.Tensor, mirrored: torch.Tensor, shifts: torch.Tensor | None
) -> torch.Tensor:
    """Mirror some photos (N, S, S, 3), and move each by its (down, right) pixels if `shifts`.

    A moved photo is a crop of the same size, padded by reflection at the edges. Bytes are only
    moved, so nothing is rounded.
    """
    mirrored = copy_to(mirrored, photos.device)
    if shifts is None:
        return torch.where(mirrored.view(-1, 1, 1, 1), photos.flip(2), photos)
    side = photos.shape[1]
    shifts = copy_to(shifts, photos.device)
    line = torch.arange(side, device=photos.device)
    down, right = (reflect(line + shift.unsqueeze(1), side) for shift in shifts.unbind(1))
    right = torch.where(mirrored.unsqueeze(1), right.flip(1), right)
    number = torch.arange(len(photos), device=photos.device)
    return photos[number[:, None, None], down[:, :, None], right[:, None, :]]


def reflect(places: torch.Tensor, side: int) -> torch.Tensor:
    """Reflect positions outside of 0 … side-1 back inside; they are at most one side away."""
    places = places.abs()
    return torch.where(places < side, places, 2 * (side - 1) - places)
