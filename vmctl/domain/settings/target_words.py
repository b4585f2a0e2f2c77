"""What is written about a VM, as it reads where the command works on a server or a cluster."""

from __future__ import annotations

import re

from vmctl.domain.settings.target_settings import SLURM, VERTEX, TargetSettings

_VERBS = "push|run|logs|ps|attach|cancel|fetch|pull|tunnel|ssh|exec|up|down|status|doctor"
_COMMAND = re.compile(rf"\bvmctl ({_VERBS})(?![\w-])(?! --on)")


def reword(text: str, target: TargetSettings) -> str:
    """Name what the target is; a target that was typed is part of each command to type next."""
    noun = {SLURM: "cluster", VERTEX: "bucket"}.get(target.kind, "server")
    text = re.sub(r"\b([Tt])he VM\b", rf"\1he {noun}", text)
    return text if target.from_file else _COMMAND.sub(rf"vmctl \1 --on {target.name}", text)
