"""What a training tells while it runs, without making the device wait."""

import io
import sys
from collections.abc import Iterable
from typing import Any

import torch
from tqdm import tqdm


class LossMeter:
    """Means of the loss over `window` steps, read from the device one window late.

    Reading a number from a GPU waits until all that was asked of it is done. So the mean is sent
    on its way when a window ends and read when the next one does: by then it has long arrived.
    """

    def __init__(self, device: torch.device, window: int) -> None:
        self.device, self.window = device, window
        self.losses: list[torch.Tensor] = []
        self.last_step = 0
        self.pending: list[tuple[int, torch.Tensor, Any]] = []

    def add(self, step: int, loss: torch.Tensor) -> list[tuple[int, float]]:
        """Note the loss of a step; returns the (step, mean) that have become known."""
        self.losses.append(loss)
        self.last_step = step
        if len(self.losses) < self.window:
            return []
        if self.device.type != "cuda":
            return self.flush()  # here nothing runs ahead, so nothing would have to wait
        known = self._collect()
        self._start_copy()
        return known

    def flush(self) -> list[tuple[int, float]]:
        """All that is not known yet; waits for it."""
        if self.losses:
            self._start_copy()
        return self._collect()

    def _start_copy(self) -> None:
        """Start the way of a window's mean to the CPU."""
        mean, event = torch.stack(self.losses).mean(), None
        if self.device.type == "cuda":
            mean = torch.empty((), pin_memory=True).copy_(mean, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self.pending.append((self.last_step, mean, event))
        self.losses.clear()

    def _collect(self) -> list[tuple[int, float]]:
        """What was sent earlier."""
        for *_, event in self.pending:
            if event is not None:
                event.synchronize()
        known = [(step, mean.item()) for step, mean, _ in self.pending]
        self.pending.clear()
        return known


class LineWriter(io.TextIOBase):
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
        things, title, total, initial=done, file=LineWriter(), leave=False, ascii=True, ncols=80,
        mininterval=5, miniters=1,
    )  # fmt: skip
