"""What a training prints while it runs, without making the device wait."""

import io
import sys
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm


class LossMeter:
    """Means of the loss over `window` steps, read from the device one window late.

    Reading a number from a GPU waits until all its pending work is done. So the copy of a mean to
    the CPU starts when its window ends, and it is read when the next one ends, long after that.
    """

    def __init__(self, device: torch.device, window: int) -> None:
        self.device, self.window = device, window
        self.losses: list[torch.Tensor] = []
        self.last_step = 0
        self.pending: list[tuple[int, torch.Tensor, Any]] = []

    def add(self, step: int, loss: torch.Tensor) -> list[tuple[int, float]]:
        """Add the loss of a step, a scalar; returns the (step, mean) that are known by now."""
        self.losses.append(loss)
        self.last_step = step
        if len(self.losses) < self.window:
            return []
        if self.device.type != "cuda":
            return self.flush()  # a CPU computes at once: there is nothing to wait for
        known = self._collect()
        self._start_copy()
        return known

    def flush(self) -> list[tuple[int, float]]:
        """Wait for all that is pending, and return it."""
        if self.losses:
            self._start_copy()
        return self._collect()

    def _start_copy(self) -> None:
        """Start to copy a window's mean to the CPU."""
        mean, event = torch.stack(self.losses).mean(), None
        if self.device.type == "cuda":
            mean = torch.empty((), pin_memory=True).copy_(mean, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((self.last_step, mean, event))
        self.losses.clear()

    def _collect(self) -> list[tuple[int, float]]:
        """Wait for the copies that were started, and return their (step, mean)."""
        for *_, event in self.pending:
            if event is not None:
                event.synchronize()
        known = [(step, mean.item()) for step, mean, _ in self.pending]
        self.pending.clear()
        return known


class LineWriter(io.TextIOBase):
    """A stream for a progress bar without a terminal: each state is printed as a line."""

    def write(self, text: str) -> int:
        if line := text.strip("\r\n "):
            print(line, flush=True)
        return len(text)


def progress_bar(
    items: Iterable[Any], total: int, title: str, done: int = 0, quiet: bool = False
) -> "tqdm[Any]":
    """Iterate with a progress bar: redrawn in a terminal, a line every few seconds in a log."""
    if quiet or sys.stdout.isatty():
        return tqdm(
            items, title, total, initial=done, disable=quiet, file=sys.stdout, leave=False,
            dynamic_ncols=True,
        )  # fmt: skip
    return tqdm(
        items, title, total, initial=done, file=LineWriter(), leave=False, ascii=True, ncols=80,
        mininterval=5, miniters=1,
    )  # fmt: skip
