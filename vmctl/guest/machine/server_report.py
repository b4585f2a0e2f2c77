"""What a server has for a job: programs, GPUs and who uses them, torch, room on the disk."""

from __future__ import annotations

import json
import os
import platform
import pwd
import shutil
from pathlib import Path

from ..paths import STATE, workspace
from ..records import read_json
from ..slurm.partitions import partitions
from .boot_report import TORCH, VERSION, run_command

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from .messages import DiskRoom, GpuUse, ServerReply, ServerRequest

QUERY = ("nvidia-smi", "--format=csv,noheader,nounits")
GPUS = "--query-gpu=uuid,name,utilization.gpu,memory.used,memory.total"
MOST_GPUS, MOST_USERS = 64, 32


def report(request: ServerRequest) -> ServerReply:
    """Look, and change nothing; importing torch takes seconds, so it is only done when asked."""
    machine = read_json(STATE / "machine.json") or {}
    python = str(machine.get("python") or "")
    gpus, trouble = _gpus()
    load = os.getloadavg()[0]
    return {
        "host": platform.node(),
        "python": python,
        "version": str(machine.get("version") or platform.python_version()),
        "tmux": shutil.which("tmux") is not None,
        "rsync": shutil.which("rsync") is not None,
        "cores": len(os.sched_getaffinity(0)),
        "load": load,
        "gpus": gpus,
        "driver_trouble": trouble,
        "torch": _torch(python, bool(request["torch"])),
        "room": _room(workspace(request["project"])),
        "quota": _quota(),
        "partitions": partitions()[0] if request["slurm"] else {},
    }


def _gpus() -> tuple[list[GpuUse], str]:
    """Each GPU with its load, and why there is none where a driver is installed."""
    code, text = run_command([*QUERY, GPUS])
    if code == 127:
        return [], ""
    if code != 0:
        return [], (text.splitlines() or [f"exit code {code}"])[-1][:300]
    users = _users()
    found: list[GpuUse] = []
    for line in text.splitlines()[:MOST_GPUS]:
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) == 5:
            used = sorted(users.get(cells[0], set()))[:MOST_USERS]
            percent, used_mb, total_mb = map(_whole, cells[2:])
            found.append(
                {
                    "name": cells[1],
                    "percent": percent,
                    "used_mb": used_mb,
                    "total_mb": total_mb,
                    "users": used,
                }
            )
    return found, ""


def _users() -> dict[str, set[str]]:
    """Who runs programs on each GPU, by its uuid."""
    code, text = run_command([*QUERY, "--query-compute-apps=gpu_uuid,pid"])
    found: dict[str, set[str]] = {}
    for line in text.splitlines() if code == 0 else []:
        uuid, _, pid = (cell.strip() for cell in line.partition(","))
        try:
            owner = Path(f"/proc/{int(pid)}").stat().st_uid
        except (OSError, ValueError):
            continue
        try:
            name = pwd.getpwuid(owner).pw_name
        except KeyError:
            name = str(owner)
        found.setdefault(uuid, set()).add(name)
    return found


def _whole(text: str) -> int:
    """A number of nvidia-smi's, 0 for "[N/A]"."""
    try:
        return max(0, int(float(text)))
    except ValueError:
        return 0


def _torch(python: str, whole: bool) -> dict[str, Any]:
    """What the jobs' interpreter knows of torch; its version only, unless all is asked for."""
    if not python:
        return {}
    code, text = run_command([python, "-c", TORCH if whole else VERSION], 120)
    try:
        found = json.loads(text.splitlines()[-1]) if code == 0 and text else {}
    except ValueError:
        return {}
    return {key: found[key] for key in ("version", "available", "count", "said") if key in found}


def _room(folder: Path) -> DiskRoom:
    """Bytes on the file system that holds the workspace, or will."""
    while not folder.exists():
        folder = folder.parent
    found = os.statvfs(folder)
    return {"free": found.f_bavail * found.f_frsize, "total": found.f_blocks * found.f_frsize}


def _quota() -> DiskRoom | None:
    """What the user's quota leaves, where `quota` knows of one."""
    code, text = run_command(["quota", "-w", "-p"], 10)
    for line in text.splitlines() if code in (0, 1) else []:
        words = line.split()
        # file system, blocks of 1 KiB used, soft limit, hard limit
        if len(words) >= 4 and words[1].rstrip("*").isdigit() and words[3].isdigit():
            used, hard = int(words[1].rstrip("*")), int(words[3]) or int(words[2])
            if hard:
                return {"free": max(0, hard - used) * 1024, "total": hard * 1024}
    return None
