"""What makes a training safe to interrupt: atomic files, and signals handled between two steps."""

import io
import math
import os
import re
import signal
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from plain_files import UnusualFile, read_plain, to_printable
from torch import nn

# The prefixes of weights' names in a compiled net and in DistributedDataParallel.
WRAPPERS = re.compile(r"^(module\.|_orig_mod\.)+")
MAX_BYTES = 1 << 30  # of a checkpoint; one of this program has 24 million
RUN = re.compile(r"runs/UNet/[\w-]+")  # the folder of a training's TensorBoard files
ADAM_STATE = {"step", "exp_avg", "exp_avg_sq"}  # that Adam keeps of each parameter


class NonFiniteError(Exception):
    """The training has diverged: its loss or its weights are no longer finite."""


class Stopped(Exception):
    """A signal asked the training to end; `signum` says which."""

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class CheckpointError(Exception):
    """A checkpoint cannot be used; the message says why and what to do."""


class StopRequest:
    """Records Ctrl-C and SIGTERM while it is active, so that training ends between two steps.

    A second Ctrl-C does not wait for the step to end.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        for signum in (signal.SIGINT, signal.SIGTERM):
            self._previous[signum] = signal.signal(signum, self._record)
        return self

    def __exit__(self, *_: object) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)

    def _record(self, signum: int, _frame: FrameType | None) -> None:
        if self.signum is not None and signum == signal.SIGINT:
            raise KeyboardInterrupt
        self.signum = signum

    def check(self, any_process: Callable[[bool], bool] = bool) -> None:
        """Raise Stopped if a signal has come, here or in `any_process`."""
        if any_process(self.signum is not None):
            raise Stopped(self.signum or signal.SIGTERM)


def atomic_write(path: Path, content: bytes) -> None:
    """Write a file in one step: a reader of `path` sees the old content or all of the new."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.unlink(missing_ok=True)  # of an earlier process with the same ID
        with unfinished.open("xb") as file:  # never through a link at that place
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # before the rename: a crash must not leave an empty file
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def save_weights(net: nn.Module, path: Path) -> None:
    """Save the state dict; raises NonFiniteError, and leaves `path` alone, if it has diverged."""
    weights = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    if not all(value.isfinite().all() for value in weights.values()):
        raise NonFiniteError("the weights are no longer finite")
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    atomic_write(path, buffer.getvalue())


def read_bytes(path: Path) -> bytes:
    """Read a file of weights; raises FileNotFoundError if there is none."""
    try:
        return read_plain(path, MAX_BYTES)
    except UnusualFile as error:
        raise CheckpointError(f"{path} is not a file of weights ({error})") from None


def load_archive(content: bytes, name: Path) -> dict[str, Any]:
    """Unpickle the dict in a file of torch.save; no code that the file might carry is run."""
    try:
        check_archive(content)
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # hostile bytes make it fail in every way there is
        why = to_printable(str(error).partition("\n")[0])[:160]
        raise CheckpointError(f"{name} is not a file of weights ({why})") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"{name} holds no weights but a {type(found).__name__}")
    return found


def check_archive(content: bytes) -> None:
    """Raise ValueError for an archive that torch.save does not write, such as a zip bomb."""
    if not content.startswith(b"PK\3\4"):
        raise ValueError("not written by torch.save")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    packed = any(member.compress_type != zipfile.ZIP_STORED for member in members)
    if packed or sum(member.file_size for member in members) > len(content):
        raise ValueError("its parts are larger than the file")


def extract_weights(found: Mapping[str, Any], name: Path) -> dict[str, Any]:
    """The state dict in a file that is a checkpoint or the weights alone."""
    weights = found.get("net") if "settings" in found else found
    if not isinstance(weights, dict):
        raise CheckpointError(f"{name} is not a checkpoint of this program: it holds no weights")
    return {WRAPPERS.sub("", str(key)): value for key, value in weights.items()}


def is_finite_tensor(value: object, shape: torch.Size) -> bool:
    """True for a tensor of this shape that holds finite numbers and nothing unusual."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and value.is_floating_point()
        and value.shape == shape
        and bool(value.isfinite().all())
    )


def load_weights(net: nn.Module, weights: Mapping[str, Any], name: Path) -> None:
    """Load a state dict; raises CheckpointError for one of another net or with odd numbers."""
    own = net.state_dict()
    for key in own.keys() & weights.keys():
        value = weights[key]
        same_shape = getattr(value, "shape", None) == own[key].shape
        if same_shape and not is_finite_tensor(value, own[key].shape):
            raise CheckpointError(f"{name} is damaged: the numbers of {key} are not all finite")
    try:
        net.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        why = to_printable(" ".join(str(error).split()))[:160]
        raise CheckpointError(f"{name} does not fit this net: {why}") from None


@dataclass
class TrainState:
    """Where a training stands, and what it has logged so far."""

    epoch: int = 0  # epochs that are complete and validated
    step: int = 0  # steps taken in the current epoch
    steps: int = 0  # steps taken in all
    photos: int = 0  # seen in the current epoch
    loss_sum: float | torch.Tensor = 0.0  # over these photos
    run: str = ""  # folder of its TensorBoard files, relative to --out_dir
    history: list[dict[str, float]] = field(default_factory=list)  # a dict per epoch


def save_checkpoint(
    path: Path,
    settings: Mapping[str, Any],
    state: TrainState,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> None:
    """Save all that the next step depends on; the order of photos follows from `state`."""
    if not all(value.isfinite().all() for value in net.state_dict().values()):
        raise NonFiniteError("the weights are no longer finite")
    buffer = io.BytesIO()
    torch.save(
        {
            "settings": dict(settings),
            "progress": asdict(state) | {"loss_sum": float(state.loss_sum)},
            "net": net.state_dict(),
            "optimizer": optimizer.state_dict(),
            "scaler": scaler.state_dict(),
        },
        buffer,
    )
    atomic_write(path, buffer.getvalue())


def parse_settings(found: object) -> dict[str, Any]:
    """Parse the configuration in a checkpoint; raises ValueError if it is not one."""
    simple = str | int | float | None
    if not isinstance(found, dict) or len(found) > 100:
        raise ValueError("its settings cannot be read")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, simple):
            raise ValueError("its settings cannot be read")
        if isinstance(value, int) and abs(value) >= 1 << 53:
            raise ValueError("its settings have a number that cannot be")
    return {
        to_printable(name)[:40]: to_printable(value)[:80] if isinstance(value, str) else value
        for name, value in found.items()
    }


def parse_state(found: object) -> TrainState:
    """Parse where a checkpoint's training stands; raises ValueError if it does not say so."""
    if not isinstance(found, dict) or not found.keys() <= set(TrainState.__dataclass_fields__):
        raise ValueError("it does not say where the training stands")
    state = TrainState(**found)
    for name in ("epoch", "step", "steps", "photos"):
        if type(count := getattr(state, name)) is not int or not 0 <= count < 1 << 53:
            raise ValueError(f"its {name} is not a count")
    if type(state.loss_sum) is not float or not math.isfinite(state.loss_sum):
        raise ValueError("its loss is not a number")
    # A folder's name from a file must not lead to another place.
    if not isinstance(state.run, str) or not (RUN.fullmatch(state.run) or not state.run):
        raise ValueError("the name of its run is not valid")
    if not isinstance(state.history, list):
        raise ValueError("its history cannot be read")
    for epoch in state.history:
        if not isinstance(epoch, dict) or not all(
            isinstance(name, str) and type(value) in (int, float) for name, value in epoch.items()
        ):
            raise ValueError("its history cannot be read")
    return state


def parse_optimizer_state(found: object, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The optimizer's state with a checkpoint's moments; raises ValueError for another net's.

    All else, such as the learning rate, stays as the configuration has set it.
    """
    moments = found.get("state") if isinstance(found, dict) else None
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    if not isinstance(moments, dict) or (moments and set(moments) != set(range(len(parameters)))):
        raise ValueError("its optimizer is of another net")
    for index, moment in moments.items():
        shapes = dict.fromkeys(ADAM_STATE, parameters[index].shape) | {"step": torch.Size()}
        if not isinstance(moment, dict) or moment.keys() != ADAM_STATE:
            raise ValueError("its optimizer is another one")
        if not all(is_finite_tensor(moment[name], shape) for name, shape in shapes.items()):
            raise ValueError("its optimizer's state is not finite")
        if moment["step"] < 0 or (moment["exp_avg_sq"] < 0).any():
            raise ValueError("its optimizer's state cannot be")
    return {"state": moments, "param_groups": optimizer.state_dict()["param_groups"]}


def parse_scaler_state(found: object, scaler: torch.amp.GradScaler) -> dict[str, Any]:
    """The scaler's state with a checkpoint's scale; raises ValueError if that cannot be."""
    own: dict[str, Any] = scaler.state_dict()
    if not own:  # a disabled scaler
        return own
    known = found if isinstance(found, dict) else {}
    scale, tracker = known.get("scale"), known.get("_growth_tracker")
    if type(scale) is not float or not 0 < scale < math.inf:
        raise ValueError("its scale is not a number")
    if type(tracker) is not int or not 0 <= tracker < 1 << 31:
        raise ValueError("its scale is not a number")
    return own | {"scale": scale, "_growth_tracker": tracker}


def describe_differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    """Describe how two configurations differ, in a phrase for each setting."""
    return [
        f"{name} was {found.get(name)} and is now {wanted.get(name)}"
        for name in sorted({*found, *wanted})
        if found.get(name) != wanted.get(name)
    ]


def remove_temporary_files(folder: Path) -> None:
    """Delete what a killed atomic_write left; files that are being written now stay."""
    for path in folder.glob(".*.tmp"):
        writer = path.suffixes[-2][1:]
        if not (writer.isdigit() and Path(f"/proc/{writer}").exists()):
            path.unlink(missing_ok=True)
