"""A server of the user's: what it has, who uses it, and whether a job can run there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vmctl.domain.readiness.checks import Check, CheckResult
from vmctl.domain.slurm.refusal import parse_gres
from vmctl.domain.text import one_line

LITTLE_ROOM = 2 << 30  # bytes: a checkpoint or two


@dataclass(frozen=True, slots=True)
class GpuLoad:
    """One GPU: its load in percent, its memory in MiB, and whose programs are on it."""

    name: str
    percent: int
    used_mb: int
    total_mb: int
    users: tuple[str, ...]

    @property
    def text(self) -> str:
        """Tesla T4: 35 %, 2 of 15 GB, ann and bob"""
        memory = f"{self.used_mb / 1024:.0f} of {self.total_mb / 1024:.0f} GB"
        who = f", used by {', '.join(self.users)}" if self.users else ", free"
        return f"{self.name}: {self.percent} %, {memory}{who}"


@dataclass(frozen=True, slots=True)
class Partition:
    """Where a cluster's jobs wait; `gpus` are those of a node, such as t4:2."""

    name: str
    nodes: int
    idle: int
    gpus: tuple[str, ...]
    time: str  # the longest that a job may take, in Slurm's form

    @property
    def text(self) -> str:
        """Partition gpu: 1 of 2 nodes idle, t4:2 each, up to 1:00:00"""
        gpus = f", {' or '.join(self.gpus)} each" if self.gpus else ""
        idle = f"{self.idle} of {self.nodes} nodes idle"
        return f"Partition {self.name}: {idle}{gpus}, up to {self.time}"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """What `status` says of a server; bytes for its disk, None where there is no quota."""

    target: str
    address: str
    host: str
    cores: int
    load: float
    python: str
    python_version: str
    torch: str
    tmux: bool
    rsync: bool
    gpus: tuple[GpuLoad, ...]
    free_bytes: int
    quota_free_bytes: int | None
    partitions: tuple[Partition, ...] = ()  # of a cluster; the rest is its login node's

    @property
    def text(self) -> str:
        """For people, a line each."""
        lines = [
            f"{self.target}: {self.host} at {self.address}, load {self.load:.1f} on "
            f"{self.cores} cores, {_gb(self.free_bytes)} free"
        ]
        lines += [f"GPU {number}: {gpu.text}" for number, gpu in enumerate(self.gpus)]
        lines += [partition.text for partition in self.partitions]
        if self.partitions:
            return "\n".join(lines)
        return "\n".join(lines if self.gpus else [*lines, "No GPU."])


@dataclass(frozen=True, slots=True)
class NothingToStop:
    """What `down` says of a server."""

    target: str

    @property
    def text(self) -> str:
        """For people."""
        return f"{self.target} is not vmctl's to stop. End a run there: vmctl cancel JOB"


def parse_status(target: str, address: str, reply: Mapping[str, Any]) -> ServerStatus:
    """From a checked reply of the server's helper."""
    quota = reply["quota"]
    return ServerStatus(
        target=target,
        address=address,
        host=one_line(reply["host"]),
        cores=reply["cores"],
        load=round(reply["load"], 2),
        python=one_line(reply["python"]),
        python_version=one_line(reply["version"]),
        torch=one_line(reply["torch"]["version"] or ""),
        tmux=reply["tmux"],
        rsync=reply["rsync"],
        gpus=tuple(
            GpuLoad(
                one_line(gpu["name"]),
                gpu["percent"],
                gpu["used_mb"],
                gpu["total_mb"],
                tuple(map(one_line, gpu["users"])),
            )
            for gpu in reply["gpus"]
        ),
        free_bytes=reply["room"]["free"],
        quota_free_bytes=quota["free"] if quota else None,
        partitions=tuple(
            Partition(
                one_line(name),
                offer["nodes"],
                offer["idle"],
                tuple(
                    f"{kind}:{number}"
                    for gres in offer["gres"]
                    for kind, number in parse_gres(gres).items()
                ),
                one_line(offer["time"]),
            )
            for name, offer in reply["partitions"].items()
        ),
    )


def check_server(status: ServerStatus, reply: Mapping[str, Any]) -> Iterator[CheckResult]:
    """Whether a job can run there, one finding for each thing it needs."""
    python = f"Python {status.python_version} at {status.python}"
    yield CheckResult.ok(Check.PYTHON, python)
    if status.rsync:
        yield CheckResult.ok(Check.RSYNC, "rsync is there")
    else:
        yield CheckResult.broken(
            Check.RSYNC, "rsync is not installed there", "Ask its administrator for it.", 4
        )
    if status.tmux:
        yield CheckResult.ok(Check.TMUX, "tmux is there")
    else:
        yield CheckResult.warning(
            Check.TMUX,
            "tmux is not installed there: runs go on without it, `vmctl attach` does not work",
            "Ask its administrator for it.",
        )
    yield _check_gpus(status, reply)
    yield _check_torch(status, reply)
    yield _check_room(status)


def _check_gpus(status: ServerStatus, reply: Mapping[str, Any]) -> CheckResult:
    if reply["driver_trouble"]:
        return CheckResult.warning(
            Check.GPU,
            f"nvidia-smi fails: {one_line(reply['driver_trouble'])}",
            "Ask its administrator: the driver does not work.",
        )
    if not status.gpus:
        return CheckResult.ok(Check.GPU, "there is no NVIDIA GPU: jobs use the processors")
    busy = sum(bool(gpu.users) for gpu in status.gpus)
    return CheckResult.ok(Check.GPU, f"{len(status.gpus)} × {status.gpus[0].name}, {busy} in use")


def _check_torch(status: ServerStatus, reply: Mapping[str, Any]) -> CheckResult:
    torch = reply["torch"]
    if not status.torch:
        why = one_line(torch["said"] or "") or f"{status.python} has no torch"
        return CheckResult.warning(
            Check.TORCH, why, "Name another interpreter: python in the target's table."
        )
    if status.gpus and torch["available"] is False:
        why = one_line(torch["said"] or "") or "it was built without CUDA, or the driver is too old"
        return CheckResult.warning(
            Check.TORCH,
            f"torch {status.torch} does not see the GPU: {why}",
            "Install a build of torch for the server's driver.",
        )
    return CheckResult.ok(Check.TORCH, f"torch {status.torch}")


def _check_room(status: ServerStatus) -> CheckResult:
    left = min(status.free_bytes, status.quota_free_bytes or status.free_bytes)
    limited = status.quota_free_bytes is not None and status.quota_free_bytes <= status.free_bytes
    text = f"{_gb(left)} free{' of your quota' if limited else ''}"
    if left > LITTLE_ROOM:
        return CheckResult.ok(Check.DISK, text)
    return CheckResult.warning(
        Check.DISK, text, "Make room, or set workspace in the target's table to another disk."
    )


def _gb(size: int) -> str:
    return f"{size / (1 << 30):.0f} GB" if size >= 10 << 30 else f"{size / (1 << 30):.1f} GB"
