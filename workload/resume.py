"""From which file a training is resumed, if any, and how its state is restored."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from checkpoint import (
    CheckpointError,
    TrainState,
    describe_differences,
    extract_weights,
    load_archive,
    load_weights,
    parse_optimizer_state,
    parse_scaler_state,
    parse_settings,
    parse_state,
    read_bytes,
)
from distributed import DistributedContext
from models import find_model
from options import TrainConfig, find_size_problem
from torch import nn

# What checkpoints lack that were written before these settings existed.
EARLIER = {"epochs": None, "model": "unet", "minutes": None, "threads": None}
# Larger values of a checkpoint are not adopted: they would fill the disk or the process table, or
# train without end, and a user who wants them gives the flag.
LARGEST = {"image_size": 512, "threads": 512, "epochs": 10_000, "train_samples": 10_000_000}


@dataclass(frozen=True)
class Checkpoint:
    """The content of a file to resume from. `settings` is None if it holds weights alone."""

    path: Path
    content: Mapping[str, Any]
    settings: Mapping[str, Any] | None
    is_explicit: bool = True  # the user named the file

    @classmethod
    def parse(cls, content: bytes, path: Path, is_explicit: bool = True) -> "Checkpoint":
        """Read a file's bytes; raises CheckpointError for anything else."""
        found = load_archive(content, path)
        if "settings" not in found:
            return cls(path, found, None, is_explicit)
        try:
            settings = EARLIER | parse_settings(found["settings"])
        except ValueError as error:
            raise not_a_checkpoint(path, error) from None
        return cls(path, found, settings, is_explicit)

    def state(self) -> TrainState:
        """Where the training stands; at its start if the file holds weights alone."""
        if self.settings is None:
            return TrainState()
        try:
            return parse_state(self.content.get("progress"))
        except ValueError as error:
            raise not_a_checkpoint(self.path, error) from None


def find_checkpoint(out_dir: Path, resume: str, context: DistributedContext) -> Checkpoint | None:
    """Read what to resume from; None to start over.

    `resume` is a file, or "auto" for what an interrupted training left in `out_dir`, or "none".
    Raises CheckpointError for a file that is missing or holds something else.
    """
    is_explicit = resume != "auto"
    path = Path(resume) if is_explicit else out_dir / "checkpoint.pt"
    content = None
    if context.is_main and resume != "none":
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            if is_explicit:
                raise CheckpointError(f"--resume: there is no file {path}") from None
    content = context.broadcast_from_main(content)
    return None if content is None else Checkpoint.parse(content, path, is_explicit)


def adopt(config: TrainConfig, checkpoint: Checkpoint) -> TrainConfig:
    """Take what the user left open from the checkpoint's settings, so that they are the same.

    With --resume FILE and --minutes N the number of epochs stays open: the training goes on for N
    more minutes. Raises CheckpointError for settings that cannot be.
    """
    if checkpoint.settings is None:
        return config
    is_longer = (
        checkpoint.is_explicit and config.minutes is not None and "minutes" not in config.adjustable
    )
    taken = config.adjustable - {"epochs"} if is_longer else config.adjustable | {"threads"}
    values = {name: checkpoint.settings[name] for name in taken if name in checkpoint.settings}
    for name, value in values.items():
        if name == "minutes":
            is_valid = value is None or (type(value) in (int, float) and value > 0)
        elif value is None:
            is_valid = name in ("train_samples", "threads")
        else:
            is_valid = type(value) is int and value > 0
        if not is_valid:
            raise not_a_checkpoint(checkpoint.path, ValueError(f"its {name} is not valid"))
    for name, largest in LARGEST.items():
        if (values.get(name) or 0) > largest:
            del values[name]
    still_open = config.adjustable & {"epochs"} if is_longer else frozenset()
    adopted = replace(config, **values, adjustable=still_open)
    if config.crop >= adopted.image_size:  # the user's own flag, and not the file's fault
        raise CheckpointError(
            f"--crop: fewer pixels than --image_size {adopted.image_size} of {checkpoint.path} are"
            " needed. Give a smaller --crop to go on, or --resume none to start over"
        )
    if adopted.model == checkpoint.settings["model"] and (problem := find_size_problem(adopted)):
        raise not_a_checkpoint(checkpoint.path, ValueError(problem))
    return adopted


def check_settings(checkpoint: Checkpoint, settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a checkpoint of another configuration.

    What it holds must not be overwritten by a different training of the same name.
    """
    if checkpoint.settings is None:
        return
    path, was = checkpoint.path, dict(checkpoint.settings)
    if checkpoint.is_explicit:  # a user who names the file may train for longer
        was |= {name: settings.get(name) for name in ("epochs", "minutes", "threads")}
    if different := describe_differences(was, settings):
        longer = ""
        if was["epochs"] != settings["epochs"]:
            longer = f", --resume {path} to train for longer"
        raise CheckpointError(
            f"{path} is of another configuration: {'; '.join(different)}. Give the old values"
            f" to go on{longer}, or --resume none to start over"
        )


def restore(
    checkpoint: Checkpoint | None,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> TrainState:
    """Restore what a checkpoint holds, and return where its training stands."""
    if checkpoint is None:
        return TrainState()
    path, content = checkpoint.path, checkpoint.content
    weights = extract_weights(content, path)
    theirs, ours = find_model(weights), find_model(net.state_dict())
    if theirs and ours and theirs != ours:
        raise CheckpointError(
            f"--resume: {path} holds the weights of --model {theirs}, and this training is of"
            f" --model {ours}. Add --model {theirs} to go on with them"
        )
    load_weights(net, weights, path)
    if checkpoint.settings is None:
        return TrainState()
    try:
        optimizer_state = parse_optimizer_state(content.get("optimizer"), optimizer)
        scaler_state = parse_scaler_state(content.get("scaler"), scaler)
    except ValueError as error:
        raise not_a_checkpoint(path, error) from None
    state = checkpoint.state()
    optimizer.load_state_dict(optimizer_state)
    scaler.load_state_dict(scaler_state)
    return state


def not_a_checkpoint(path: Path, why: ValueError) -> CheckpointError:
    """The error for a file that is not what it should be."""
    return CheckpointError(f"{path} is not a checkpoint of this program: {why}")
