"""From which file a training goes on, if any, and how its state is put back."""

from collections.abc import Mapping
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
    parse_progress,
    parse_scaler_state,
    parse_settings,
    read_bytes,
)
from distributed import DistributedContext
from torch import nn


def find_checkpoint(
    out_dir: Path, resume: str, settings: Mapping[str, Any], team: DistributedContext
) -> tuple[dict[str, Any] | None, Path]:
    """What to go on from, and its file; None to begin anew.

    `resume` is a file, or "auto" for what an interrupted training left in `out_dir`, or "none".
    Raises CheckpointError for a file of another configuration: what it holds must not be
    overwritten by something else that is called the same.
    """
    automatic = resume == "auto"
    path = out_dir / "checkpoint.pt" if automatic else Path(resume)
    content = None
    if team.is_main and resume != "none":
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            if not automatic:
                raise CheckpointError(f"--resume: there is no file {path}") from None
    content = team.broadcast_from_main(content)
    if content is None:
        return None, path
    found = load_archive(content, path)
    if "settings" in found:
        try:
            was = {"epochs": None, "model": "unet", **parse_settings(found["settings"])}
        except ValueError as error:
            raise not_a_checkpoint(path, error) from None
        if not automatic:  # who names the file may train for longer
            was["epochs"] = settings["epochs"]
        if different := describe_differences(was, settings):
            longer = ""
            if was["epochs"] != settings["epochs"]:
                longer = f", --resume {path} to train for longer"
            raise CheckpointError(
                f"{path} is of another configuration: {'; '.join(different)}. Give the old values"
                f" to go on{longer}, or --resume none to begin anew"
            )
    return found, path


def restore(
    found: Mapping[str, Any] | None,
    path: Path,
    net: nn.Module,
    optimizer: torch.optim.Optimizer,
    scaler: torch.amp.GradScaler,
) -> TrainState:
    """Put back what a checkpoint holds, and return where it stood; weights alone stand nowhere."""
    if found is None:
        return TrainState()
    load_weights(net, extract_weights(found, path), path)
    if "settings" not in found:
        return TrainState()
    try:
        moments = parse_optimizer_state(found.get("optimizer"), optimizer)
        scale = parse_scaler_state(found.get("scaler"), scaler)
        progress = parse_progress(found.get("progress"))
    except ValueError as error:
        raise not_a_checkpoint(path, error) from None
    optimizer.load_state_dict(moments)
    scaler.load_state_dict(scale)
    return progress


def not_a_checkpoint(path: Path, why: ValueError) -> CheckpointError:
    """What to say of a file that is not what it should be."""
    return CheckpointError(f"{path} is no checkpoint of this program: {why}")
