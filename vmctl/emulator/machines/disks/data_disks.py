"""The disks of a running machine besides its boot disk: folders below its /mnt/disks."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from .. import sandbox
from ..bounds import Disk, DiskWatch
from ..file_modes import make_folder
from ..interface import DataDisk, MachineError, MachineSpec
from ..storage import provision


class DataDisks:
    """Attached and detached while the machine runs, from any thread; gone when it ends."""

    def __init__(self, spec: MachineSpec, watch: DiskWatch, end: Callable[[str], None]) -> None:
        self._instance_id = spec.instance_id
        self._mounts = spec.disk / sandbox.MOUNTS
        self._first, self._watch, self._end = spec.data_disks, watch, end
        self._lock = threading.Lock()
        self._disks: dict[str, DataDisk] = {}  # by the device's name
        self._pid: int | None = None  # while it runs, and has namespaces

    def begin(self, pid: int) -> None:
        """Attaches the disks that a machine, just started, has from the beginning."""
        self._pid = pid
        for disk in self._first:
            self.attach(disk)

    def close(self) -> None:
        """The machine has ended, and its mounts with it."""
        with self._lock:
            self._pid = None
            for name in self._disks:
                self._watch.remove(self._watched(name))

    def attach(self, disk: DataDisk) -> None:
        """Shows a disk as /mnt/disks/NAME, unless it is there; MachineError if that is refused."""
        with self._lock:
            if disk.name in self._disks or self._pid is None:
                return
            target = self._mounts / disk.name
            try:
                provision(disk.folder, sandbox.machine_uid(), blank=disk.blank)
                make_folder(target, 0o755)
            except OSError as error:
                raise MachineError(f"the disk {disk.name} cannot be made: {error}") from error
            content = disk.folder / "fs"
            sandbox.mount_disk(self._pid, content, target, read_only=disk.read_only)
            self._disks[disk.name] = disk
            watched = Disk(disk.folder, disk.size_gb << 30, self._pid, self._end)
            self._watch.add(self._watched(disk.name), watched)

    def detach(self, name: str) -> None:
        """Takes a disk away, whatever uses it; does nothing if it is not there."""
        with self._lock:
            if name not in self._disks or self._pid is None:
                return
            sandbox.unmount_disk(self._pid, self._mounts / name)
            (self._mounts / name).rmdir()
            del self._disks[name]
            self._watch.remove(self._watched(name))

    def resize(self, name: str | None, size_gb: int) -> None:
        """Lets a disk, None for the boot disk, hold so much from now on."""
        self._watch.resize(self._watched(name) if name else self._instance_id, size_gb << 30)

    def _watched(self, name: str) -> str:
        return f"{self._instance_id}/{name}"


def make_mount_folder(boot_disk: Path) -> None:
    """Makes the folder in which a machine's data disks are mounted, and empties it."""
    mounts = boot_disk / sandbox.MOUNTS
    make_folder(mounts, 0o755)
    for left in mounts.iterdir():
        left.rmdir()  # a mount point of an earlier boot
