"""The types of what is asked about a machine, and of the replies; see guest/messages.py."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict


class PrepareRequest(TypedDict):
    """`again`: even if nothing changed; `server`: only look, and take `python` where given."""

    again: bool
    server: NotRequired[bool]
    python: NotRequired[str]


class MachineRecord(TypedDict):
    """The interpreter that jobs get, the packages it lacks, and those that were added."""

    python: str
    version: str
    missing: list[str]
    added: list[str]
    trouble: str
    signature: NotRequired[list[int]]
    login_path: NotRequired[str]
    wanted: NotRequired[str]  # as the target's `python` has it
    done_before: NotRequired[bool]


class ServerRequest(TypedDict):
    """`torch`: import it, which takes seconds, to see whether it finds the GPU; `slurm`: ask
    a cluster what its partitions offer."""

    project: str
    torch: bool
    slurm: bool


class PartitionOffer(TypedDict):
    """The longest time of a job, GRES of each kind of node, nodes in all and idle."""

    time: str
    gres: list[str]
    nodes: int
    idle: int


class GpuUse(TypedDict):
    """One GPU, its memory in MiB, and the users whose programs are on it."""

    name: str
    percent: int
    used_mb: int
    total_mb: int
    users: list[str]


class DiskRoom(TypedDict):
    """Bytes."""

    free: int
    total: int


class ServerReply(TypedDict):
    """What a server has; `driver_trouble` is why nvidia-smi fails, "" where it is not there."""

    host: str
    python: str
    version: str
    tmux: bool
    rsync: bool
    cores: int
    load: float
    gpus: list[GpuUse]
    driver_trouble: str
    torch: dict[str, Any]
    room: DiskRoom
    quota: DiskRoom | None
    partitions: dict[str, PartitionOffer]


class BootRequest(TypedDict):
    """How many GPUs are expected, and whether torch is to be asked."""

    gpus: int
    torch: bool
