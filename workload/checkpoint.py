"""What makes a training safe to interrupt: whole files, and signals answered between two steps."""

import io
import os
import signal
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn


class NonFinite(Exception):
    """The training has diverged: its loss or its weights are not finite any more."""


class Stopped(Exception):
    """A signal asked the training to end; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Notes Ctrl-C and SIGTERM while it is entered, so that training ends between two steps.

    A second Ctrl-C does not wait for the step to end.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _note(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.signum is not None:
            raise Stopped(self.signum)


def ignore_ctrl_c(_worker: int) -> None:
    """A terminal sends Ctrl-C to the loader's processes too, but only the training answers it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: whoever reads `path` sees the old content or all of the new."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with unfinished.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # content before name: a crash must not leave an empty file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_weights(net: nn.Module, path: Path) -> None:
    """Save the state dict; raises NonFinite, and leaves `path` alone, if it is worth nothing."""
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if not all(value.isfinite().all() for value in weights.values()):
        raise NonFinite("the weights are not finite any more")
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_whole(path, buffer.getvalue())


def load_weights(net: nn.Module, path: Path) -> None:
    """Fill `net` from a file of save_weights; no code that the file might carry is run."""
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
