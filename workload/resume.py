"""From which file a training goes on, if any, and how its state is put back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoint import (
    CheckpointError,
    Progress,
    differences,
    fill,
    parse_moments,
    parse_progress,
    parse_scale,
    parse_settings,
    read,
    read_bytes,
    weights_of,
)
from distributed import Team
from torch import nn


def find_checkpoint(
    out_dir: Path, resume: str, settings: Mapping[str, Any], team: Team
) -> tuple[dict[str, Any] | None, Path]:
    """What to go on from, and its file; None to begin anew.

    `resume` is a file, or "auto" for what an interrupted training left in `out_dir`, or "none".
    Raises CheckpointError for a file of another configuration: what it holds must not be
    overwritten by something else that is called the same.
    """
    automatic = resume == "auto"
    path = out_dir / "checkpoint.pt" if automatic else Path(resume)
    content = None
    if team.leads and resume != "none":
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            if not automatic:
                raise CheckpointError(f"--resume: there is no file {path}") from None
    content = team.from_leader(content)
    if content is None:
        return None, path
    found = read(content, path)
    if "settings" in found:
        try:
            was = {"epochs": None, "model": "unet", **parse_settings(found["settings"])}
        except ValueError as error:
            raise no_checkpoint(path, error) from None
        if not automatic:  # who names the file may train for longer
            was["epochs"] = settings["epochs"]
        if different := differences(was, settings):
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
) -> Progress:
    """Put back what a checkpoint holds, and return where it stood; weights alone stand nowhere."""
    if found is None:
        return Progress()
    fill(net, weights_of(found, path), path)
    if "settings" not in found:
        return Progress()
    try:
        moments = parse_moments(found.get("optimizer"), optimizer)
        scale = parse_scale(found.get("scaler"), scaler)
        progress = parse_progress(found.get("progress"))
    except ValueError as error:
        raise no_checkpoint(path, error) from None
    optimizer.load_state_dict(moments)
    scaler.load_state_dict(scale)
    return progress


def no_checkpoint(path: Path, why: ValueError) -> CheckpointError:
    """What to say of a file that is not what it should be."""
    return CheckpointError(f"{path} is no checkpoint of this program: {why}")
