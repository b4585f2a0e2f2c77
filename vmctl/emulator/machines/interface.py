"""The interface between the API side and the machines."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


class MachineError(Exception):
    """A machine or an image could not be made; the text is one sentence for the user."""


@dataclass(frozen=True, slots=True)
class DataDisk:
    """A disk besides the one that a machine boots from: its folder /mnt/disks/NAME.

    There is no block device: that cannot be made without rights over this computer. Plain machines
    do not show it."""

    name: str  # of the device
    folder: Path  # made if missing
    size_gb: int
    read_only: bool
    blank: bool  # whether a new one is empty, else an image's root


@dataclass(frozen=True, slots=True)
class Internal:
    """A machine's place in a VPC network."""

    network: str  # machines of the same one reach each other
    address: str
    full_name: str  # by which they know it, besides its name
    is_open: bool  # whether the network's firewall lets them


@dataclass(frozen=True, slots=True)
class MachineSpec:
    """One boot of one instance: its names, its disk and image, its hardware."""

    instance_id: str
    name: str
    hostname: str
    disk: Path  # made if missing; holds all state that survives a stop
    image: str  # "base", or the name of an image with a Python of its own, "slurm" among them
    nat_ip: str | None  # the previous address; None for a free one of 127.0.x.y
    gpu: str | None  # Compute Engine's accelerator type, e.g. "nvidia-tesla-t4"
    gpu_count: int
    disk_gb: int = 100
    static: bool = False  # whether it must have the address nat_ip
    admits: bool = True  # whether its port 22 can be reached from the start
    data_disks: tuple[DataDisk, ...] = ()
    internal: Internal | None = None
    trouble: dict[str, object] = field(default_factory=dict)  # the faults that this boot simulates


@dataclass(frozen=True, slots=True)
class Booted:
    """The address and port of the machine's sshd."""

    nat_ip: str
    ssh_port: int


class GuestBackend(Protocol):
    """What a machine asks of the API side. Called from the machines' threads, also during `boot`:
    an implementation must not need a lock that a caller of MachineHost holds."""

    def metadata(self, instance_id: str) -> dict[str, object]:
        """The computeMetadata/v1 tree: {"instance": {...}, "project": {...}}."""

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        """Stores `NAMESPACE/KEY`; false if guest attributes are not enabled."""

    def exited(self, instance_id: str, reason: str) -> None:
        """The machine ended without being stopped: "poweroff", "reboot" or "crash"."""
