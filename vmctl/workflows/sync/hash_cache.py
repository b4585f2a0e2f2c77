"""What a folder holds, by SHA-256: what is known of unchanged files is not computed again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from vmctl.config import Project
from vmctl.domain.errors import Conflict, VmctlError
from vmctl.domain.sync.tree import TreeEntry
from vmctl.domain.text import one_line
from vmctl.files import atomic_write
from vmctl.folders import cache_dir
from vmctl.ssh.transfer.upload import open_file
from vmctl.workflows.sync.selection import LocalEntry

RACY_NS = 2 * 10**9  # a file changed so shortly before it was read may change again unnoticed
CHUNK_BYTES = 1 << 20
WORKERS = min(4, max(1, (os.cpu_count() or 2) - 1))  # ssh wants a core, too
ALONE = 16  # so few files are read without helpers
LINES = 64  # of changes in a cache before it is written as a whole
OnHashed = Callable[[LocalEntry, str], None]  # a file and its SHA-256


class Hashes:
    """The SHA-256 of a folder's files, remembered by size, times and inode."""

    def __init__(self, root: Path) -> None:
        digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:24]
        self._log = AppendLog(cache_dir() / "hashes" / f"{digest}.json")
        self._known: dict[str, list[Any]] = dict(self._log.found)

    def unhashed(self, entries: Sequence[LocalEntry]) -> list[LocalEntry]:
        """The files whose SHA-256 has to be computed."""
        known = self._known
        return [
            entry
            for entry in entries
            if entry.kind == "file" and known.get(entry.path, ())[:4] != entry.stamp
        ]

    def tree(
        self,
        root: Path,
        entries: Sequence[LocalEntry],
        on_hashed: OnHashed = lambda *_: None,
    ) -> dict[str, TreeEntry]:
        """The tree that these entries make; raises where a file cannot be read.

        Of each file that is read `on_hashed` hears at once.
        """
        known, now = self._known, time.time_ns()
        found: dict[str, TreeEntry] = {}
        unknown: list[LocalEntry] = []
        kept: dict[str, list[Any]] = {}
        for entry in entries:
            if entry.kind == "file":
                cached = known.get(entry.path)
                if cached is not None and cached[:4] == entry.stamp:
                    kept[entry.path] = cached
                    found[entry.path] = ["f", cached[4], entry.size, entry.mtime_ns, entry.mode]
                else:
                    unknown.append(entry)
                    found[entry.path] = []
            else:
                found[entry.path] = ["l", entry.link] if entry.kind == "link" else ["d"]
        for entry, sha256 in _hash_all(root, unknown, on_hashed):
            found[entry.path] = ["f", sha256, entry.size, entry.mtime_ns, entry.mode]
            if now - max(entry.mtime_ns, entry.ctime_ns) > RACY_NS:
                kept[entry.path] = [*entry.stamp, sha256]
        self._known = kept
        return found

    def save(self, but: Collection[str] = ()) -> None:
        """Keep what was computed; a cache that cannot be written is not an error."""
        self._log.write(
            {path: known for path, known in self._known.items() if path not in but}
            if but
            else self._known
        )


def pair_key(project: Project) -> str:
    """A name for a folder here and its VM, under which is kept what was pushed."""
    pair = os.fsencode(project.root) + b"\0" + project.instance_name.encode()
    return hashlib.sha256(pair).hexdigest()[:16]


class LastPushedTree:
    """Our record of the last push: the tree that a VM has since, and its id; "" is none.

    A pull believes it, and nothing that the VM says, about what was pushed.
    """

    def __init__(self, key: str) -> None:
        self._log = AppendLog(cache_dir() / "pushed" / f"{key}.json")
        self.files: dict[str, TreeEntry] = dict(self._log.found)
        self.id = str(self.files.pop("", ""))  # no file has an empty path

    def write(self, tree: str, files: dict[str, TreeEntry]) -> None:
        """Remember the tree that the VM has now."""
        self._log.write({**files, "": tree})


class AppendLog:
    """A dictionary in a file: a line with all of it, then lines with what changed since."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self.found: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            data = path.read_bytes()
            for line in data.splitlines():
                change = json.loads(line)
                self.found.update(change["put"])
                for key in change["gone"]:
                    self.found.pop(key, None)
                self._lines += 1
            if data.endswith(b"\n"):
                return
        self._lines = 0  # not whole: replaced next time

    def write(self, wanted: dict[str, Any]) -> None:
        """Keep this; a cache that cannot be written is not an error."""
        found = self.found
        put = {key: value for key, value in wanted.items() if found.get(key) != value}
        dropped = [key for key in found if key not in wanted]
        if not put and not dropped:
            return
        if 0 < self._lines < LINES and len(put) + len(dropped) < len(wanted) / 8:
            with contextlib.suppress(OSError), self._path.open("ab") as file:
                file.write(json.dumps({"put": put, "gone": dropped}).encode() + b"\n")
        else:
            write_cache(self._path, {"put": wanted, "gone": []})


def read_shown_warnings(key: str) -> list[Any]:
    """Which warnings of pushes were shown before."""
    found = _read(_warnings_file(key)).get("told")
    return found if isinstance(found, list) else []


def write_shown_warnings(key: str, shown: list[Any]) -> None:
    """Remember which warnings were shown."""
    write_cache(_warnings_file(key), {"told": shown})


class CutMarker:
    """Whether an earlier push was cut after it had started to send what the VM asked for."""

    def __init__(self, key: str) -> None:
        self._file = cache_dir() / "pushed" / f"{key}.begun"
        self.was = self._file.exists()

    def begin(self) -> None:
        """From here on a cut leaves something on the VM that the next push had better ask for."""
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(mode=0o700, exist_ok=True)
            self._file.touch()

    def end(self) -> None:
        """The push is whole."""
        with contextlib.suppress(OSError):
            self._file.unlink(missing_ok=True)


def write_cache(path: Path, record: object) -> None:
    """Replace a cache file at once, if it can be written."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        atomic_write(path, json.dumps(record) + "\n")


def _warnings_file(key: str) -> Path:
    return cache_dir() / "pushed" / f"{key}.told.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _hash_all(
    root: Path, entries: list[LocalEntry], on_hashed: OnHashed
) -> Iterable[tuple[LocalEntry, str]]:
    found: dict[str, str] = {}
    if len(entries) < ALONE:
        for entry in entries:
            found[entry.path] = hash_file(root, entry.path)
            on_hashed(entry, found[entry.path])
        return [(entry, found[entry.path]) for entry in entries]
    errors: list[VmctlError] = []
    pending = iter(entries)
    lock = threading.Lock()

    def work() -> None:
        while not errors:
            with lock:
                entry = next(pending, None)
            if entry is None:
                return
            try:
                found[entry.path] = hash_file(root, entry.path)
                on_hashed(entry, found[entry.path])
            except VmctlError as error:
                errors.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(WORKERS)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if errors:
        raise errors[0]
    return [(entry, found[entry.path]) for entry in entries]


def hash_file(root: Path, path: str) -> str:
    """The SHA-256 of one file of the folder."""
    digest = hashlib.sha256()
    with open_file(root, path) as file:
        while data := file.read(CHUNK_BYTES):
            digest.update(data)
    return digest.hexdigest()


def vanished_error(path: str) -> Conflict:
    """A file was selected and is not there any more."""
    return Conflict(f"{one_line(path)} disappeared while it was being pushed.", hint="vmctl push")
