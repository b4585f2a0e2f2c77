"""What a training tells while it runs, without making the device wait."""

import io
import sys
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm


class LossReader:
    """Means of the loss over `window` steps, read from the device one window late.

    Reading a number from a GPU waits until all that was asked of it is done. So the mean is sent
    on its way when a window ends and read when the next one does: by then it has long arrived.
    """

    def __init__(self, device: torch.device, window: int) -> None:
        self.device, self.window = device, window
        self.losses: list[torch.Tensor] = []
        self.last_step = 0
        self.coming: list[tuple[int, torch.Tensor, Any]] = []

    def add(self, step: int, loss: torch.Tensor) -> list[tuple[int, float]]:
        """Note the loss of a step; returns the (step, mean) that have become known."""
        self.losses.append(loss)
        self.last_step = step
        if len(self.losses) < self.window:
            return []
        if self.device.type != "cuda":
            return self.rest()  # here nothing runs ahead, so nothing would have to wait
        known = self.arrived()
        self.send()
        return known

    def rest(self) -> list[tuple[int, float]]:
        """All that is not known yet; waits for it."""
        if self.losses:
            self.send()
        return self.arrived()

    def send(self) -> None:
        """Start the way of a window's mean to the CPU."""
        mean, event = torch.stack(self.losses).mean(), None
        if self.device.type == "cuda":
            mean = torch.empty((), pin_memory=True).copy_(mean, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.coming.append((self.last_step, mean, event))
        self.losses.clear()

    def arrived(self) -> list[tuple[int, float]]:
        """What was sent earlier."""
        for *_, event in self.coming:
            if event is not None:
                event.synchronize()
        known = [(step, mean.item()) for step, mean, _ in self.coming]
        self.coming.clear()
        return known


class Lines(io.TextIOBase):
    """Where a progress bar writes when nobody watches a terminal: each state on its own line."""

    def write(self, text: str) -> int:
        if line := text.strip("\r\n "):
            print(line, flush=True)
        return len(text)


def progress_bar(
    things: Iterable[Any], total: int, title: str, done: int = 0, quiet: bool = False
) -> "tqdm[Any]":
    """A bar over things: redrawn in a terminal, a new line now and then in a log."""
    if quiet or sys.stdout.isatty():
        return tqdm(
            things, title, total, initial=done, disable=quiet, file=sys.stdout, leave=False,
            dynamic_ncols=True,
        )  # fmt: skip
    return tqdm(
        things, title, total, initial=done, file=Lines(), leave=False, ascii=True, ncols=80,
        mininterval=5, miniters=1,
    )  # fmt: skip
