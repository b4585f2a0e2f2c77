"""What makes a training safe to interrupt: whole files, and signals answered between two steps."""

import io
import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

# What a compiled net and one that is shared by processes put before the names of their weights.
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")


class NonFinite(Exception):
    """The training has diverged: its loss or its weights are not finite any more."""


class Stopped(Exception):
    """A signal asked the training to end; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what to do."""


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

    def check(self, agreed: Callable[[bool], bool] = bool) -> None:
        """Raise Stopped if a signal has come; `agreed` asks other processes, too."""
        if agreed(self.signum is not None):
            raise Stopped(self.signum or signal.SIGTERM)


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


def read(content: bytes, name: Path) -> dict[str, Any]:
    """The dict in a file of torch.save; no code that the file might carry is run."""
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are not ours fail in as many ways as there are bytes
        why = str(error).partition("\n")[0]
        raise CheckpointError(f"{name} is no file of weights ({why})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} holds no weights but a {type(found).__name__}")
    return found


def weights_of(found: Mapping[str, Any]) -> Mapping[str, Any]:
    """The state dict in a file that is a checkpoint or the weights alone."""
    weights = found["net"] if "settings" in found else found
    return {WRAPPERS.sub("", str(key)): value for key, value in weights.items()}


def fill(net: nn.Module, weights: Mapping[str, Any], name: Path) -> None:
    """Load a state dict; one of another net is one sentence."""
    try:
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        why = " ".join(str(error).split())[:160]
        raise CheckpointError(f"{name} does not fit this net: {why}") from None


@dataclass
class Progress:
    """Where a training stands, and what it has reported so far."""

    epoch: int = 0  # epochs that are complete
    step: int = 0  # steps taken in the epoch after them
    steps: int = 0  # steps taken in all
    photos: int = 0  # seen in the epoch that is not complete
    loss_sum: float | torch.Tensor = 0.0  # over them
    run: str = ""  # folder of TensorBoard's files
    history: list[dict[str, float]] = field(default_factory=list)  # a dict per epoch


def save_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    progress: Progress,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Save all that the next step depends on; the order of photos needs only the progress."""
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise NonFinite("the weights are not finite any more")
    buffer = io.BytesIO()
    torch.save(
        {
            "settings": dict(settings),
            "progress": asdict(progress) | {"loss_sum": float(progress.loss_sum)},
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
        },
        buffer,
    )
    write_whole(path, buffer.getvalue())


def differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """How two configurations differ, a phrase for each setting."""
    return [
        f"{name} was {found.get(name)} and is now {wanted.get(name)}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]


def remove_unfinished(folder: Path) -> None:
    """Delete what a killed write_whole left behind; what is being written now stays."""
    for path in folder.glob(".*.tmp"):
        writer = path.suffixes[-2][1:]
        if not (writer.isdigit() and Path(f"/proc/{writer}").exists()):
            path.unlink(missing_ok=True)
