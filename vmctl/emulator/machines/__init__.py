"""The machines behind the emulated instances: each a real sshd in its own sandbox."""

from __future__ import annotations

from .host import MachineHost, MetadataOnlyHost
from .interface import Booted, DataDisk, GuestBackend, Internal, MachineError, MachineSpec
from .socket_relay import is_machine_address, random_address
from .storage import COPYING, copy_disk, delete_disk

__all__ = [
    "COPYING",
    "Booted",
    "DataDisk",
    "GuestBackend",
    "Internal",
    "MachineError",
    "MachineHost",
    "MachineSpec",
    "MetadataOnlyHost",
    "copy_disk",
    "delete_disk",
    "is_machine_address",
    "random_address",
]
