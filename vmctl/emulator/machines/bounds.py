"""Limits on what one machine may use of this computer: processes, memory and disk space.

Processes and memory are limited by a control group per machine where this user may make one, else
by limits per process as far as possible. Disk space is watched: a machine that writes more than
fits is switched off. `note` says which limits this computer does not allow.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .process_tree import list_tree

GROUPS = Path("/sys/fs/cgroup")
PROCESSES = 4096  # with their threads
PROCESSES_OF_USER = 8192  # of all machines together, where only the kernel's limit per user applies
OOM_SCORE = 500  # when memory runs out, machines' processes are killed before the user's
CHECK_S = 1.0
TRIES = 5
GONE = (errno.ENOENT, errno.ENODEV)  # a group that was just removed
GROWTH = 256 << 20  # bytes written on the computer before disks are measured again
RESERVE = 512 << 20  # bytes that stay free on this computer's disk
MUCH = 128 << 20  # bytes by one machine since space was last free: this one fills the disk
ROOM = 1 << 30  # bytes that a machine may always write in one boot

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """A control group's folder, its controller, and the limits by file name."""

    folder: Path
    controller: str
    limits: dict[str, int]

    def make(self) -> None:
        """Make the group; OSError where that is refused.

        Limits without a file are skipped: each version of control groups has its own files."""
        self.folder.mkdir(exist_ok=True)
        able = self.folder / "cgroup.controllers"
        if able.exists() and self.controller not in able.read_text().split():
            (self.folder.parent / "cgroup.subtree_control").write_text(f"+{self.controller}")
        files = [self.folder / name for name in self.limits]
        if not any(file.exists() for file in files):
            gone = 0 if self.folder.exists() else errno.ENOENT
            raise OSError(gone, "bounds nothing", str(self.folder))
        for file in files:
            if file.exists():
                file.write_text(str(self.limits[file.name]))

    def join(self, pid: int) -> None:
        """Put a process, and everything it starts from now on, into the group."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Remove the group once it is empty."""
        _remove(self.folder)


class Bounds:
    """The limits of all machines of one home; may be called from any thread."""

    def __init__(self, home: Path) -> None:
        name = f"vmctl-{hashlib.sha256(str(home).encode()).hexdigest()[:12]}"
        self.memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        self._all: dict[str, Group] = {}
        for controller in ("pids", "memory"):
            with suppress(OSError):
                self._all[controller] = self._common(name, controller)
        self._sweep()

    @property
    def note(self) -> str:
        """One sentence about what machines may use."""
        memory = f"{self.memory / 2**30:.1f} GiB of memory"
        if len(self._all) == 2:
            return f"Each machine has at most {PROCESSES} processes and {memory}, and its disk."
        lacking = "no control groups for this user here"
        if "memory" in self._all:
            return (
                f"Each machine has at most {memory}, and its disk; all together {PROCESSES_OF_USER}"
                f" processes ({lacking})."
            )
        processes = (
            f"Each machine has at most {PROCESSES} processes, and its disk"
            if "pids" in self._all
            else f"Machines have their disks and {PROCESSES_OF_USER} processes together with yours"
        )
        return f"{processes}; their memory is not bounded: {lacking}."

    def join(self, name: str, pid: int) -> str:
        """Limit a process, and so the machine that it becomes; OSError if that is impossible.

        Returns the beginning of a command line that sets the limits which only the process itself
        may set: even root may need a right for another's."""
        with suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))

        def join_groups() -> None:
            for group in self._all.values():
                group.make()
            for group in self._of(name):
                group.make()
                group.join(pid)

        _retry(join_groups)
        if "pids" in self._all:
            return ""
        _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
        most = PROCESSES_OF_USER if hard < 0 else min(PROCESSES_OF_USER, hard)
        return f"prlimit --nproc={most}:{most} --"

    def leave(self, name: str) -> None:
        """Remove the groups of a machine that has ended."""
        for group in self._of(name):
            group.remove()

    def close(self) -> None:
        """Remove all groups: no machine is left."""
        self._sweep()
        for group in self._all.values():
            group.remove()

    def _of(self, name: str) -> list[Group]:
        sizes = {"pids": PROCESSES, "memory": self.memory}
        return [
            Group(group.folder / name, controller, _limits(controller, sizes[controller]))
            for controller, group in self._all.items()
        ]

    def _common(self, name: str, controller: str) -> Group:
        """Make the group of all machines; OSError where no process can be put into one."""
        sizes = {"pids": 4 * PROCESSES, "memory": self.memory * 3 // 2}
        refusal = OSError("no control groups")
        for place in _places(controller):
            group = Group(place / name, controller, _limits(controller, sizes[controller]))
            try:
                _retry(group.make)
                _try(Group(group.folder / "try", controller, group.limits))
            except OSError as error:
                group.remove()
                refusal = error
            else:
                return group
        raise refusal

    def _sweep(self) -> None:
        """Remove the groups that killed emulators left, of any home.

        The kernel keeps those that still have a process."""
        for group in self._all.values():
            for common in group.folder.parent.glob("vmctl-*"):
                for folder in [path for path in common.glob("*") if path.is_dir()]:
                    _remove(folder)
                if common != group.folder:
                    _remove(common)


def _limits(controller: str, most: int) -> dict[str, int]:
    """Return limits for both versions of control groups; each has only its own files."""
    if controller == "pids":
        return {"pids.max": most}
    return {
        "memory.max": most, "memory.swap.max": 0,
        "memory.limit_in_bytes": most, "memory.memsw.limit_in_bytes": most,
    }  # fmt: skip


def _places(controller: str) -> list[Path]:
    """Return where a group might be made: in this process's own group, else further up."""
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            top = GROUPS / names
        elif not names and (GROUPS / "cgroup.controllers").exists():
            top = GROUPS
        else:
            continue
        own = top / path.lstrip("/")
        found += [place for place in (own, *own.parents) if place.is_relative_to(top)]
    return found


def _remove(folder: Path) -> None:
    """Remove a group, unless a process is in it."""
    with suppress(OSError):
        folder.rmdir()


def _try(group: Group) -> None:
    """Raise OSError where a process cannot be put into a group."""
    waiting = subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE)

    def join_groups() -> None:
        group.folder.parent.mkdir(exist_ok=True)
        group.make()
        group.join(waiting.pid)

    try:
        _retry(join_groups)
    finally:
        waiting.communicate()
        group.remove()


def _retry(join_groups: Callable[[], None]) -> None:
    """Put a process into groups; try again if another emulator has just removed one."""
    for left in reversed(range(TRIES)):
        try:
            return join_groups()
        except OSError as error:
            if error.errno not in GONE or not left:
                raise
    return None


# -- disks -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Disk:
    """The disk of a running machine, and the last measurements of it."""

    folder: Path
    size: int
    pid: int
    end: Callable[[str], None]
    most: int = 0  # bytes allowed on it
    written: int = 0  # bytes by its processes when space was last free


class DiskWatch:
    """Switches off a machine that fills its own disk or this computer's."""

    def __init__(self, home: Path, measure: Callable[[Path], int]) -> None:
        self._home = home
        self._measure = measure
        self._lock = threading.Lock()
        self._disks: dict[str, Disk] = {}
        self._known = 0  # free bytes when disks were last measured
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disks", daemon=True)
        self._thread.start()

    def add(self, name: str, disk: Disk) -> None:
        """Watch a disk; its `end` is called with the reason to switch the machine off."""
        with self._lock:
            self._disks[name] = disk

    def resize(self, name: str, size: int) -> None:
        """Let a watched disk hold so many bytes from now on."""
        with self._lock:
            if disk := self._disks.get(name):
                disk.size, disk.most = size, 0

    def remove(self, name: str) -> None:
        """Stop watching a disk: its machine has ended."""
        with self._lock:
            self._disks.pop(name, None)

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()

    def check(self) -> None:
        """Measure disks where needed, and switch off a machine that wrote too much."""
        with self._lock:
            disks = list(self._disks.values())
        free = shutil.disk_usage(self._home).free
        self._known = max(self._known, free)
        grown = self._known - free >= GROWTH or free < RESERVE
        sizes = {id(d): self._measure(d.folder) for d in disks if grown or not d.most}
        for disk in disks:
            size = sizes.get(id(disk), 0)
            if not disk.most:
                disk.most = max(disk.size, size + ROOM)
                disk.written = count_written(disk.pid)
            elif size > disk.most:
                disk.end(f"its disk is full: {size / 2**30:.1f} GiB are on it")
        if not grown or not disks:
            return
        self._known = free
        wrote = {id(disk): count_written(disk.pid) for disk in disks}
        if free < RESERVE:
            most = max(disks, key=lambda disk: wrote[id(disk)] - disk.written)
            if wrote[id(most)] - most.written > MUCH:
                most.end(
                    "this computer's disk is full, and this machine has written the most lately"
                )
            return
        for disk in disks:
            disk.written = wrote[id(disk)]

    def _watch(self) -> None:
        while not self._stopped.wait(CHECK_S):
            started = time.monotonic()
            try:
                self.check()
            except Exception:
                log.exception("disks could not be measured")
            self._stopped.wait(5 * (time.monotonic() - started))  # large disks take long to measure


def count_written(pid: int) -> int:
    """Return the bytes that a process and its descendants, ended ones too, wrote to disks."""
    found = 0
    for one in list_tree(pid):
        with suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{one}/io").read_text().split()
            found += int(words[words.index("write_bytes:") + 1])
    return found
