"""What one machine may take of this computer: processes, memory, and room on the disk.

Processes and memory are bounded by a control group per machine, where this user may make some; else
by limits that each process has, as far as they go. Room on the disk is watched: who writes more
than fits is switched off. What a computer does not allow is said, not passed over.
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

GROUPS = Path("/sys/fs/cgroup")
PROCESSES = 4096  # threads count, too
PROCESSES_OF_USER = 8192  # of all machines together, where only the kernel's limit per user is left
OOM_SCORE = 500  # when memory runs out, a machine's process goes before one of the user's
LOOK_S = 1.0
TRIES = 5
GONE = (errno.ENOENT, errno.ENODEV)  # a group in which nobody was yet
GROWTH = 256 << 20  # bytes written on the computer before disks are measured again
RESERVE = 512 << 20  # bytes that stay free on it
MUCH = 128 << 20  # bytes by one machine since all was well: it is the one that fills it
ROOM = 1 << 30  # bytes that a machine may write in one boot, however full its disk is

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Group:
    """A control group's folder, its controller, and what is written into its files."""

    folder: Path
    controller: str
    limits: dict[str, int]

    def make(self) -> None:
        """OSError where it is refused. Of the limits those are written that there are files for,
        since each version of control groups has its own."""
        self.folder.mkdir(exist_ok=True)
        able = self.folder / "cgroup.controllers"
        if able.exists() and self.controller not in able.read_text().split():
            (self.folder.parent / "cgroup.subtree_control").write_text(f"+{self.controller}")
        files = [self.folder / name for name in self.limits]
        if not any(file.exists() for file in files):
            raise OSError(f"{self.folder} bounds nothing")
        for file in files:
            if file.exists():
                file.write_text(str(self.limits[file.name]))

    def join(self, pid: int) -> None:
        """A process and all that it starts from now on belong to it."""
        (self.folder / "cgroup.procs").write_text(str(pid))

    def remove(self) -> None:
        """Once nobody is in it any more."""
        _remove(self.folder)


class Bounds:
    """Of all machines of one home; may be called from any thread."""

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
        """One sentence about what machines may take."""
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

    def join(self, name: str, pid: int) -> None:
        """Bound a process, and with it the machine that it becomes; OSError when it cannot be."""
        with suppress(OSError):
            Path(f"/proc/{pid}/oom_score_adj").write_text(str(OOM_SCORE))

        def put() -> None:
            for group in self._all.values():
                group.make()
            for group in self._of(name):
                group.make()
                group.join(pid)

        _again(put)
        if "pids" not in self._all:
            _, hard = resource.prlimit(pid, resource.RLIMIT_NPROC)
            most = PROCESSES_OF_USER if hard < 0 else min(PROCESSES_OF_USER, hard)
            resource.prlimit(pid, resource.RLIMIT_NPROC, (most, most))

    def leave(self, name: str) -> None:
        """The machine is gone."""
        for group in self._of(name):
            group.remove()

    def close(self) -> None:
        """No machine is left."""
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
        """The group of all machines, in which processes can be put; OSError without one."""
        sizes = {"pids": 4 * PROCESSES, "memory": self.memory * 3 // 2}
        refusal = OSError("no control groups")
        for place in _places(controller):
            group = Group(place / name, controller, _limits(controller, sizes[controller]))
            try:
                group.make()
                _try(Group(group.folder / "try", controller, group.limits))
            except OSError as error:
                group.remove()
                refusal = error
            else:
                return group
        raise refusal

    def _sweep(self) -> None:
        """Remove the groups that killed emulators left behind, of this home or not.

        What still has a process in it stays: the kernel sees to that."""
        for group in self._all.values():
            for common in group.folder.parent.glob("vmctl-*"):
                for folder in [path for path in common.glob("*") if path.is_dir()]:
                    _remove(folder)
                if common != group.folder:
                    _remove(common)


def _limits(controller: str, most: int) -> dict[str, int]:
    """The files of both versions of control groups; in each only its own exist."""
    if controller == "pids":
        return {"pids.max": most}
    return {
        "memory.max": most, "memory.swap.max": 0,
        "memory.limit_in_bytes": most, "memory.memsw.limit_in_bytes": most,
    }  # fmt: skip


def _places(controller: str) -> list[Path]:
    """Where a group might be made: in this process's own, else further up."""
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
    """A group that nobody is in any more; one that has somebody stays."""
    with suppress(OSError):
        folder.rmdir()


def _try(group: Group) -> None:
    """OSError where a process cannot be put into a group."""
    waiting = subprocess.Popen(["/bin/sh", "-c", "read end"], stdin=subprocess.PIPE)

    def put() -> None:
        group.folder.parent.mkdir(exist_ok=True)
        group.make()
        group.join(waiting.pid)

    try:
        _again(put)
    finally:
        waiting.communicate()
        group.remove()


def _again(put: Callable[[], None]) -> None:
    """Put a process into groups; what another emulator has just cleared away is made anew."""
    for left in reversed(range(TRIES)):
        try:
            return put()
        except OSError as error:
            if error.errno not in GONE or not left:
                raise
    return None


# -- disks -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Disk:
    """One that a machine has booted from, and what is known of it once it was looked at."""

    folder: Path
    size: int
    pid: int
    end: Callable[[str], None]
    most: int = 0  # bytes on it
    written: int = 0  # bytes by its processes, until all was well the last time


class DiskWatch:
    """Ends the machine that fills its disk, or this computer's."""

    def __init__(self, home: Path, measure: Callable[[Path], int]) -> None:
        self._home = home
        self._measure = measure
        self._lock = threading.Lock()
        self._disks: dict[str, Disk] = {}
        self._known = 0  # free bytes, the last time that disks were measured
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="disks", daemon=True)
        self._thread.start()

    def add(self, name: str, disk: Disk) -> None:
        """Watch a disk; its `end` is told why its machine has to go."""
        with self._lock:
            self._disks[name] = disk

    def remove(self, name: str) -> None:
        """Its machine is down."""
        with self._lock:
            self._disks.pop(name, None)

    def close(self) -> None:
        """Ends the thread."""
        self._stopped.set()
        self._thread.join()

    def look(self) -> None:
        """Measure what has to be measured, and act on it."""
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
                disk.written = written_by(disk.pid)
            elif size > disk.most:
                disk.end(f"its disk is full: {size / 2**30:.1f} GiB are on it")
        if not grown or not disks:
            return
        self._known = free
        wrote = {id(disk): written_by(disk.pid) for disk in disks}
        if free < RESERVE:
            most = max(disks, key=lambda disk: wrote[id(disk)] - disk.written)
            if wrote[id(most)] - most.written > MUCH:
                most.end("this computer's disk is full, and it has written most of late")
            return
        for disk in disks:
            disk.written = wrote[id(disk)]

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_S):
            began = time.monotonic()
            try:
                self.look()
            except Exception:
                log.exception("disks could not be looked at")
            self._stopped.wait(5 * (time.monotonic() - began))  # large disks take their time


def written_by(pid: int) -> int:
    """Bytes that a process and its descendants have written to disks, those that ended too."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, ValueError, IndexError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, todo = 0, [pid]
    while todo:
        one = todo.pop()
        todo += children.get(one, [])
        with suppress(OSError, ValueError, IndexError):
            words = Path(f"/proc/{one}/io").read_text().split()
            found += int(words[words.index("write_bytes:") + 1])
    return found
