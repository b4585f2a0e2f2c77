"""A run's own tree next to its workspace, and the journal of what stands for what in the two.

~/.vmctl/runs/ID/tree leads to ~/.vmctl/trees/PROJECT/NUMBER. There is, folder by folder, what
~/Workspace/PROJECT holds:

    copy     a pushed file as it was when the run started (large ones are a second name)
    shared   what no push put: a second name (hard link) of the workspace's very file; where none
             can be made (other disk, somebody else's file), for a database, and for a folder of
             very many entries, a symbolic link to the workspace's
    folder   a real folder on both sides
    own      a real folder that the run made where it had a link to the workspace's

`tree.jsonl` in the run's directory has one line about the whole, then one for each change of what
is known: [folder, name, kind, identity in the tree, identity in the workspace], or [folder, name]
for what was removed on both sides. Its file is the lock, too: the process that runs the job holds
it.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import stat
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any

from ..paths import HOME, RUNS
from ..protocol import PART_SUFFIX, STAGING_NEAR
from ..sync.pushed_index import PushedIndex

COPY, SHARED, FOLDER, OWN = "copy", "shared", "folder", "own"
SMALL_BYTES = 1 << 20  # a larger pushed file is shared: a push replaces it, never writes into it
MANY = 10_000  # a folder of more entries is linked as a whole
COARSE_NS = 20_000_000  # file systems' clocks tick this seldom, at worst
PART = f"{PART_SUFFIX}-"
HIDDEN = ".vmctl-trees"  # where trees are that cannot be in the runs' own folders
PRIVATE = (HIDDEN, STAGING_NEAR)  # on neither side for the other
CACHE = "__pycache__"
# one name only: a database looks for its journal and lock next to the name it was opened by
DATABASES = (".db", ".sqlite", ".sqlite3")
NO_LINK = (errno.EPERM, errno.EXDEV, errno.EMLINK, errno.EACCES, errno.EOPNOTSUPP)

Identity = list[int]
NameRecord = tuple[str, Identity, Identity]


class RunTree:
    """The tree of one run: where it is, and what is known of each name in it."""

    def __init__(self, run: Path, about: dict[str, Any]) -> None:
        self.run = run
        self.about = about
        self.root: str = about["root"]
        self.top = str((run / "tree").resolve())
        self.code = str(Path(self.top).parent / "code")
        self.code_used: set[str] = set()
        self.is_first = Path(self.top).name == "1"
        self.known: dict[str, dict[str, NameRecord]] = {}
        self.pushed = PushedIndex(about["project"])
        self.journal: IO[str] | None = None

    # -- the journal ---------------------------------------------------------------------------

    @classmethod
    def load(cls, run: Path, wait: bool = True) -> RunTree | None:
        """The tree of a run, held until `close`; None when it has none or another holds it.

        Raises ValueError where the VM stopped before its journal was on the disk.
        """
        try:
            journal = (run / "tree.jsonl").open("r+")
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(journal, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            journal.close()
            return None
        try:
            lines = journal.read().split("\n")
            if half := lines.pop():  # its carrier was killed while it wrote
                journal.seek(0, os.SEEK_END)
                journal.truncate(journal.tell() - len(half.encode()))
                journal.seek(0, os.SEEK_END)
            tree = cls(run, json.loads(lines[0]))
            for line in lines[1:]:
                tree._replay(line)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            journal.close()
            raise ValueError(f"{journal.name} is damaged") from error
        tree.journal = journal
        return tree

    def _replay(self, line: str) -> None:
        folder, name, *what = json.loads(line)
        if what:
            self.known.setdefault(folder, {})[name] = (what[0], what[1], what[2])
        else:
            self.known.get(folder, {}).pop(name, None)

    def save(self) -> None:
        """Write the journal of a new tree."""
        lines = [json.dumps(self.about)]
        for folder, names in self.known.items():
            lines += [json.dumps([folder, name, *what]) for name, what in names.items()]
        (self.run / "tree.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def close(self) -> None:
        """Let go of the tree."""
        if self.journal is not None:
            self.journal.close()
            self.journal = None

    def record(self, folder: str, name: str, kind: str) -> None:
        """Remember what stands at a name in the tree and in the workspace now."""
        path, whole = join(folder, name), kind == COPY
        here, there = os.lstat(self.in_tree(path)), os.lstat(self.in_workspace(path))
        what = (kind, identity(here, whole), identity(there, whole))
        self.known.setdefault(folder, {})[name] = what
        self._append([folder, name, *what])

    def drop(self, folder: str, name: str) -> None:
        """Nothing stands at a name any more."""
        if self.known.get(folder, {}).pop(name, None) is not None:
            self._append([folder, name])

    def _append(self, line: list[Any]) -> None:
        if self.journal is not None:
            self.journal.write(json.dumps(line) + "\n")
            self.journal.flush()

    # -- the two sides -------------------------------------------------------------------------

    def in_tree(self, path: str) -> str:
        """Where a path is in the run's tree."""
        return f"{self.top}/{path}" if path else self.top

    def in_workspace(self, path: str) -> str:
        """Where a path is in the workspace."""
        return f"{self.root}/{path}" if path else self.root

    def is_private(self, folder: str, name: str) -> bool:
        """Whether a name is on neither side for the other.

        So are compiled modules of pushed code: two versions must not share them.
        """
        if name != CACHE or self.pushed.has(join(folder, name)):
            return name in PRIVATE or name.startswith(PART)
        return (
            not folder
            or folder in self.pushed.folders
            or any(what[0] == COPY for what in self.known.get(folder, {}).values())
        )

    def is_output(self, path: str) -> bool:
        """Whether the job lists it as an output: another's is never taken for this run's."""
        return any(
            fnmatchcase(path, output) or path.startswith(f"{output}/")
            for output in self.about["outputs"]
        )

    def copy(self, folder: str, name: str, found: os.stat_result) -> None:
        """Take a pushed file, or a link, as it is now."""
        path = join(folder, name)
        here, there = self.in_tree(path), self.in_workspace(path)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(self._resolve_link(path, os.readlink(there)), here)  # noqa: PTH115, PTH211
        elif found.st_size <= SMALL_BYTES and stat.S_ISREG(found.st_mode):
            self._copy_small(there, here, found)
        else:
            try:
                os.link(there, here)
            except OSError as error:
                if error.errno not in NO_LINK:
                    raise
                shutil.copy2(there, here)
        self.record(folder, name, COPY)

    def _copy_small(self, there: str, here: str, found: os.stat_result) -> None:
        """A copy; or a second name of the one that an earlier run got of this very state.

        Making a file costs twenty times a name. The inode and its time of change, which nobody
        can set, name a state; a copy that a run wrote into has another time than its name says.
        Only the first of several runs at once may: no two share what one of them could write into.
        """
        if not self.is_first:
            _copy(there, here)
            return
        self.code_used.add(state := f"{found.st_ino:x}-{found.st_ctime_ns:x}")
        stored = f"{self.code}/{state}"
        try:
            os.link(stored, here)
            if _metadata(os.lstat(here)) == _metadata(found):
                return
            Path(here).unlink()
            Path(stored).unlink()
        except OSError:
            pass  # none yet, or it has all the names that it can have
        _copy(there, here)
        if found.st_ctime_ns < time.time_ns() - COARSE_NS:  # else it may change unnoticed
            try:
                os.link(here, stored)
            except OSError:
                return

    def tidy_code(self) -> None:
        """Forget the copies that this tree had no use for."""
        for entry in os.scandir(self.code) if self.is_first else ():
            if entry.name not in self.code_used:
                Path(entry.path).unlink()

    def link_in(self, folder: str, name: str, *, fresh: bool = True) -> None:
        """Share a file or a link of the workspace's, or link a folder as a whole."""
        path = join(folder, name)
        here, there = self.in_tree(path), self.in_workspace(path)
        found = os.lstat(there)

        def make(place: str) -> None:
            if stat.S_ISLNK(found.st_mode):
                text = os.readlink(there)  # noqa: PTH115
                inside = self._resolve_link(path, text)
                if inside != text:
                    os.symlink(inside, place)  # noqa: PTH211
                    return
            if not stat.S_ISDIR(found.st_mode) and not name.endswith(DATABASES):
                try:
                    os.link(there, place, follow_symlinks=False)
                    return
                except OSError as error:
                    if error.errno not in NO_LINK:
                        raise
            os.symlink(there, place)  # noqa: PTH211

        _put(make, here, fresh)
        self.record(folder, name, SHARED)

    def link_out(self, folder: str, name: str, *, fresh: bool) -> None:
        """Give what the run made at a name the same name in the workspace.

        A fresh name is never taken from somebody else: raises FileExistsError.
        """
        path = join(folder, name)
        here, there = self.in_tree(path), self.in_workspace(path)
        Path(there).parent.mkdir(parents=True, exist_ok=True)

        def make(place: str) -> None:
            if Path(here).is_symlink():
                text = os.readlink(here)  # noqa: PTH115
                for top in (self.top, f"{self.run}/tree"):
                    if text == top or text.startswith(f"{top}/"):
                        os.symlink(self.root + text[len(top) :], place)  # noqa: PTH211
                        return
            os.link(here, place, follow_symlinks=False)

        _put(make, there, fresh)
        self.record(folder, name, SHARED)

    def _resolve_link(self, path: str, text: str) -> str:
        """A link's target, made absolute where it leads out of the tree."""
        if text.startswith("/"):
            return text
        if not os.path.normpath(join(str(Path(path).parent), text)).startswith(".."):
            return text
        return os.path.normpath(f"{self.in_workspace(path)}/../{text}")

    def is_linked_whole(self, path: str) -> bool:
        """Whether a workspace's folder is one to link as a whole: very full, or another disk's."""
        if os.lstat(self.in_workspace(path)).st_dev != self.about["device"]:
            return True
        seen, folders = 0, [self.in_workspace(path)]
        while folders:
            try:
                with os.scandir(folders.pop()) as entries:
                    for entry in entries:
                        seen += 1
                        if entry.is_dir(follow_symlinks=False):
                            folders.append(entry.path)
            except OSError:
                return True  # cannot be looked into: the workspace's own word counts
            if seen > MANY:
                return True
        return False


def identity(found: os.stat_result, whole: bool) -> Identity:
    """What tells one file from another; `whole`: and one state of it from another."""
    same = [stat.S_IFMT(found.st_mode), found.st_ino]
    return [*same, found.st_size, found.st_mtime_ns] if whole else same


def join(folder: str, name: str) -> str:
    """A path below the tree's top, which is the folder ""."""
    return f"{folder}/{name}" if folder and folder != "." else name


def short(place: str | Path) -> str:
    """A place as people write it."""
    return str(place).replace(str(HOME), "~", 1)


def run_directories() -> list[Path]:
    """The run directories, in no order; half-made and removed ones are left out."""
    try:
        return [Path(item.path) for item in os.scandir(RUNS) if not item.name.startswith(".")]
    except FileNotFoundError:
        return []


def _put(make: Callable[[str], None], place: str, fresh: bool) -> None:
    """Make a name, or let it lead to another file in one step."""
    if fresh:
        make(place)
        return
    part = f"{place[: place.rfind('/')]}/{PART}{os.getpid()}"
    Path(part).unlink(missing_ok=True)
    try:
        make(part)
        os.replace(part, place)  # noqa: PTH105
    finally:
        Path(part).unlink(missing_ok=True)  # two names of one file: renaming does nothing


def _metadata(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_mode


def _copy(source: str, target: str) -> None:
    """A small file with its mode and time; half the price of shutil's."""
    read = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        found = os.fstat(read)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        write = os.open(target, flags, 0o600)
        try:
            while data := os.read(read, SMALL_BYTES):
                view = memoryview(data)
                while view:
                    view = view[os.write(write, view) :]
            os.fchmod(write, stat.S_IMODE(found.st_mode))
            os.utime(write, ns=(found.st_atime_ns, found.st_mtime_ns))
        finally:
            os.close(write)
    finally:
        os.close(read)
