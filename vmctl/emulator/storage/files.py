"""Where objects lie: a folder for each bucket, in which an object's name is its path.

The folder may be shared with machines, which nobody trusts: every part of a path is opened without
following links, and only regular files count. Names that cannot be a path, or whose path is taken
by another's folder, lie beside it under a digest.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..machines.sandbox import machine_uid
from ..machines.storage import provision

FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
PART_BYTES = 255  # of one part of a path
_NO_PATH = (errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EEXIST, errno.ENAMETOOLONG)


class Signature(NamedTuple):
    """What differs once a file was replaced or written to."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, found: os.stat_result) -> Signature:
        """Those of a file that was looked at."""
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


def is_path(name: str) -> bool:
    """Whether an object's name can be a path below its bucket's folder."""
    parts = name.split("/")
    return "\0" not in name and all(
        part not in ("", ".", "..") and len(os.fsencode(part)) <= PART_BYTES for part in parts
    )


class BucketFiles:
    """The files of one bucket's objects."""

    def __init__(self, home: Path, bucket: str) -> None:
        self.disk = home / bucket  # as a machine's disk is kept
        self.folder = self.disk / "fs"
        self._aside = self.disk / "aside"
        self._uid = machine_uid()  # who may read and write there besides

    def make(self) -> None:
        """Make the folders."""
        provision(self.disk, self._uid, blank=True)
        self._aside.mkdir(exist_ok=True, mode=0o700)

    def remove(self) -> None:
        """Remove the folders of a bucket without objects; what machines left goes, too."""
        shutil.rmtree(self.disk, ignore_errors=True)

    def open(self, name: str) -> int:
        """Open an object's file to read; FileNotFoundError if there is no regular file."""
        with contextlib.suppress(OSError), self._parent(name) as (parent, last):
            return open_regular(parent, last)
        return open_regular(None, str(self._aside_of(name)))

    def put(self, part: Path, name: str) -> None:
        """Move a finished file to where an object's file belongs."""
        part.chmod(0o644)
        if self._uid is not None:
            os.chown(part, self._uid, self._uid)
        try:
            with self._parent(name, make=True) as (parent, last):
                os.replace(part, last, dst_dir_fd=parent)
            self._aside_of(name).unlink(missing_ok=True)
        except OSError as error:
            if error.errno not in _NO_PATH and not isinstance(error, FileNotFoundError):
                raise
            self._aside.mkdir(exist_ok=True, mode=0o700)
            part.replace(self._aside_of(name))

    def delete(self, name: str) -> None:
        """Remove an object's file, and the folders that it leaves empty."""
        with contextlib.suppress(OSError), self._parent(name) as (parent, last):
            os.unlink(last, dir_fd=parent)
        self._aside_of(name).unlink(missing_ok=True)
        parts = name.split("/")[:-1]
        while parts and is_path(name):
            try:
                with self._parent("/".join(parts)) as (parent, last):
                    os.rmdir(last, dir_fd=parent)
            except OSError:
                break
            parts.pop()

    def walk(self) -> Iterator[tuple[str, Signature]]:
        """Every regular file of the folder, by the name of its object."""
        for base, folders, files, descriptor in os.fwalk(self.folder, follow_symlinks=False):
            folders.sort()
            inside = os.path.relpath(base, self.folder)
            for file in sorted(files):
                try:
                    found = os.stat(file, dir_fd=descriptor, follow_symlinks=False)
                    name = file if inside == "." else f"{inside}/{file}"
                    name.encode()
                except (OSError, UnicodeEncodeError):
                    continue
                if stat.S_ISREG(found.st_mode):
                    yield name, Signature.of(found)

    @contextlib.contextmanager
    def _parent(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """The open folder of an object's file, and the file's name in it; OSError without one."""
        if not is_path(name):
            raise OSError(errno.ENOTDIR, "no path", name)
        *parts, last = name.split("/")
        parent = os.open(self.folder, FOLDER)
        try:
            for part in parts:
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=parent)
                        if self._uid is not None:
                            os.chown(
                                part, self._uid, self._uid, dir_fd=parent, follow_symlinks=False
                            )
                inner = os.open(part, FOLDER, dir_fd=parent)
                os.close(parent)
                parent = inner
            yield parent, last
        finally:
            os.close(parent)

    def _aside_of(self, name: str) -> Path:
        return self._aside / hashlib.sha256(name.encode()).hexdigest()


def open_regular(parent: int | None, name: str) -> int:
    """Open a file to read that machines may have put there; OSError unless it is a regular one."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a pipe must not block
    descriptor = os.open(name, flags, dir_fd=parent)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "no regular file", name)
    return descriptor
