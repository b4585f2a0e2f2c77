"""From which file a training goes on, if any, and how its state is put back."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from checkpoint import CheckpointError, Progress, differences, fill, read, weights_of
from team import Team
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
            content = path.read_bytes()
        except FileNotFoundError:
            if not automatic:
                raise CheckpointError(f"--resume: there is no file {path}") from None
    content = team.from_leader(content)
    if content is None:
        return None, path
    found = read(content, path)
    if "settings" in found:
        was = {"epochs": None, "model": "unet", **found["settings"]}
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
    fill(net, weights_of(found), path)
    if "settings" not in found:
        return Progress()
    try:
        optimizer.load_state_dict(found["optimizer"])
        scaler.load_state_dict(found["scaler"])
        return Progress(**found["progress"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{path} is no checkpoint of this program: {error}") from None
