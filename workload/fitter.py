"""Completes a TrainConfig so that the training fits its minutes, from steps measured just now."""

import time
from collections.abc import Callable
from dataclasses import replace

import torch
from budget import (
    END_S,
    PROBE_SIZE,
    EpochPlan,
    StepCost,
    choose_image_size,
    choose_length,
    choose_threads,
)
from data_utils import ImageFolderGrayColor
from dataset import PhotoDataset, count_validation
from distributed import DistributedContext
from options import TrainConfig
from steps import measure_step


class Fitter:
    """Chooses what `config` leaves open; its time runs from its creation.

    All processes measure at the same time and use the slowest one's figures, so that all of them
    choose the same.
    """

    def __init__(self, config: TrainConfig, context: DistributedContext) -> None:
        self.config, self.context = config, context
        self.start = time.monotonic()
        self.cost: StepCost | None = None  # at config.image_size, once it is chosen

    def left_s(self) -> float:
        """Seconds that are left for epochs."""
        elapsed = self.context.max(time.monotonic() - self.start)
        return 60 * (self.config.minutes or 0) - elapsed - END_S

    def measure(self, image_size: int, threads: int) -> StepCost:
        """Measure the slowest process's steps at an image size, with this many threads each."""
        config, context = self.config, self.context
        torch.set_num_threads(threads)
        share = -(-config.batch_size // context.world_size)
        context.barrier()
        cost = measure_step(config, context.device, share, image_size)
        return StepCost(context.max(cost.train_s), context.max(cost.validate_s))

    def plan(self, cost: StepCost, validation_photos: Callable[[int], int]) -> EpochPlan:
        """What an epoch costs whose steps cost this much."""
        return EpochPlan(cost, self.config.batch_size, validation_photos)

    def choose_size(self, folder: ImageFolderGrayColor) -> None:
        """Choose the number of threads and, if it is open, the image size."""
        config = self.config
        is_open = "image_size" in config.adjustable
        image_size = PROBE_SIZE if is_open else config.image_size
        candidates = {config.threads or torch.get_num_threads()}
        if config.threads is None and self.context.device.type == "cpu":
            candidates.add(1)
        costs = {threads: self.measure(image_size, threads) for threads in sorted(candidates)}
        threads = choose_threads(costs)
        torch.set_num_threads(threads)
        self.cost = costs[threads]
        if is_open:
            image_size = choose_image_size(
                self.plan(self.cost, count_validation),
                PROBE_SIZE,
                len(folder),
                self.left_s(),
                photos=None if "train_samples" in config.adjustable else config.train_samples,
                epochs=None if "epochs" in config.adjustable else config.epochs,
                crop=config.crop,
            )
            if image_size != PROBE_SIZE:
                self.cost = self.measure(image_size, threads)
        is_cpu = self.context.device.type == "cpu"
        self.config = replace(
            config, image_size=image_size, threads=threads if is_cpu else config.threads
        )

    def choose_length(self, dataset: PhotoDataset, done: int) -> None:
        """Choose the photos and the epochs after `done` epochs, if they are open; print it all."""
        config = self.config
        assert self.cost is not None, "choose_size comes first"
        available = dataset.available
        photos = None if "train_samples" in config.adjustable else config.train_samples or available
        epochs = None if "epochs" in config.adjustable else max(1, config.epochs - done)
        photos, epochs = choose_length(
            self.plan(self.cost, dataset.count_validation),
            available,
            self.left_s(),
            photos=photos and min(photos, available),
            epochs=epochs,
        )
        if "train_samples" in config.adjustable:
            config = replace(config, train_samples=photos)
        if "epochs" in config.adjustable:
            config = replace(config, epochs=done + epochs)
        dataset.select(config.train_samples, config.seed)
        self.config = config
        self.context.print(self.describe())

    def describe(self) -> str:
        """What was chosen, as the flags that say the same."""
        config = self.config
        assert self.cost is not None
        why = "" if self.context.device.type == "cuda" else "No CUDA GPU here, so "
        threads = "" if config.threads is None else f", {config.threads} threads"
        return (
            f"{why}about {config.minutes:g} minutes: --image_size {config.image_size}"
            f" --train_samples {config.train_samples or 'all'} --epochs {config.epochs}"
            f"{threads.removesuffix('s') if config.threads == 1 else threads},"
            f" {self.cost.train_s:.3f} s a step (--minutes, or these flags, for another choice)"
        )
