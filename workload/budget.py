"""How large and how long a training is that fits a given time: decisions, from measured steps.

The number of photos that the net sees comes first: below WANTED_PHOTOS it has hardly learnt any
colour. More time goes into larger pictures, then into more photos and epochs.
"""

import statistics
import time
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass

IMAGE_SIZES = (48, 64, 80, 96, 112, 128, 160, 192, 224)  # pixels; each suits every net
PROBE_SIZE = 64  # pixels: where steps are measured before the size is chosen
WANTED_PHOTOS = 6000  # shown to the net in a whole training, counting each epoch
MIN_PHOTOS = 256  # different ones; fewer epochs are better than fewer photos
MIN_EPOCHS, MAX_EPOCHS = 6, 50  # that are aimed at; with more, a net learns few photos by heart
SAVE_S = 0.5  # seconds after each epoch for the checkpoint and the pictures
END_S = 2.0  # seconds at the end for sample.png and the last files
MEASURED_S = 0.5  # seconds of steps that are enough to know their time


@dataclass(frozen=True)
class StepCost:
    """Seconds for a batch of the training's size: for a training step, and for validation."""

    train_s: float
    validate_s: float

    def at_size(self, measured: int, image_size: int) -> "StepCost":
        """The cost expected at another image size; it grows with the number of pixels."""
        ratio = (image_size / measured) ** 2
        return StepCost(self.train_s * ratio, self.validate_s * ratio)


@dataclass(frozen=True)
class EpochPlan:
    """All that an epoch's time depends on but the number of its training photos."""

    cost: StepCost
    batch_size: int
    validation_photos: Callable[[int], int]  # from the number of training photos

    def epoch_s(self, photos: int) -> float:
        """Seconds for an epoch of this many training photos."""
        steps = -(-photos // self.batch_size)
        validation_steps = -(-self.validation_photos(photos) // self.batch_size)
        return steps * self.cost.train_s + validation_steps * self.cost.validate_s + SAVE_S

    def most_photos(self, available: int, epochs: int, left_s: float) -> int:
        """The largest number of photos, at least a batch, with which the epochs fit the time."""
        counts = range(self.batch_size, available, self.batch_size)
        fitting = bisect_right(counts, left_s / epochs, key=self.epoch_s)
        if fitting == len(counts) and self.epoch_s(available) <= left_s / epochs:
            return available
        return counts[max(0, fitting - 1)] if counts else available


def time_step(
    step: Callable[[], object],
    wait: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """The median seconds of a step, after a first one that does not count.

    `wait` returns when the device has finished what it was asked to do.
    """
    step()
    wait()
    seconds: list[float] = []
    while len(seconds) < 2 or sum(seconds) < MEASURED_S:
        start = clock()
        step()
        wait()
        seconds.append(clock() - start)
    return statistics.median(seconds)


def choose_threads(costs: Mapping[int, StepCost]) -> int:
    """The number of threads with the fastest training step."""
    return min(costs, key=lambda threads: costs[threads].train_s)


def choose_image_size(
    plan: EpochPlan,
    measured: int,
    available: int,
    left_s: float,
    *,
    photos: int | None = None,
    epochs: int | None = None,
    crop: int = 0,
) -> int:
    """The largest image size at which the training that is wanted fits the time.

    `plan` holds the cost at the size `measured`; `available` photos can be trained on. `photos` and
    `epochs` are what the user asked for, or None. The size is larger than `crop` pixels.
    """
    if photos is None:
        enough = WANTED_PHOTOS // (epochs or MIN_EPOCHS)
        photos = min(available, max(enough, MIN_PHOTOS))
    if epochs is None:
        epochs = min(MAX_EPOCHS, max(MIN_EPOCHS, -(-WANTED_PHOTOS // photos)))
    sizes = [size for size in IMAGE_SIZES if size > crop]
    best = sizes[0]
    for image_size in sizes:
        cost = plan.cost.at_size(measured, image_size)
        scaled = EpochPlan(cost, plan.batch_size, plan.validation_photos)
        if scaled.epoch_s(photos) * epochs <= left_s:
            best = image_size
    return best


def choose_length(
    plan: EpochPlan,
    available: int,
    left_s: float,
    *,
    photos: int | None = None,
    epochs: int | None = None,
) -> tuple[int, int]:
    """The numbers of photos and of epochs that fill the time; those given stay as they are."""
    if photos is None:
        if epochs is not None:
            photos = plan.most_photos(available, epochs, left_s)
        else:
            few = min(available, MIN_PHOTOS)
            photos = max(few, plan.most_photos(available, MIN_EPOCHS, left_s))
            if plan.epoch_s(photos) > left_s:
                photos = plan.most_photos(available, 1, left_s)
    if epochs is None:
        epochs = min(MAX_EPOCHS, max(1, int(left_s / plan.epoch_s(photos))))
    return photos, epochs
