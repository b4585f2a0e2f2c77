"""The machines behind the emulated instances: real sshd in a sandbox of its own each."""

from __future__ import annotations

from .host import MachineHost
from .interface import Booted, Guest, MachineError, MachineSpec
from .storage import COPYING, copy_disk, delete_disk

__all__ = [
    "COPYING",
    "Booted",
    "Guest",
    "MachineError",
    "MachineHost",
    "MachineSpec",
    "copy_disk",
    "delete_disk",
]
