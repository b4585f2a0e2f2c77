"""Where fetched files go: below one folder here, verified, on the disk, and then renamed.

Every folder above a file is opened by its name in the folder before it, never through a link:
a link that is put in its place at any moment is not followed.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
from pathlib import Path, PurePosixPath
from typing import Any

from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.text import one_line
from vmctl.guest.protocol import PART_SUFFIX

CHUNK_BYTES = 1 << 20
NAME_BYTES = 255
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
WRITE_OUT_BYTES = 8 << 20  # so that the last fsync has little left to do


def part_name(name: str) -> str:
    """The name under which a file's bytes gather."""
    part = f".{name}{PART_SUFFIX}"
    if len(os.fsencode(part)) > NAME_BYTES:
        part = f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}{PART_SUFFIX}"
    return part


class Destination:
    """One folder here and all that is written below it; `close` lets go of it."""

    def __init__(self, top: Path) -> None:
        self.top = top
        try:
            top.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(top, FOLDER)
        except NotADirectoryError as error:
            raise InvalidInput(f"{top} is not a folder.", hint="Use --to DIR.") from error
        except OSError as error:
            raise InvalidInput(
                f"The folder {top} cannot be created: {error.strerror}.",
                hint="Save elsewhere: --to DIR",
            ) from error
        self._here: tuple[str, int] = ("", os.dup(self._fd))
        self._refused = _umask()
        self._touched: set[str] = set()

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._here[1])
        os.close(self._fd)

    def folder(self, relative: str, *, make: bool = True) -> int:
        """A folder's descriptor, which stays this object's; raises FileNotFoundError or Conflict.

        It is good until the next call.
        """
        if relative == self._here[0]:
            return self._here[1]
        above, below = "", relative
        if relative.startswith(f"{self._here[0]}/"):  # on from there
            above, below = self._here[0], relative[len(self._here[0]) + 1 :]
        found = os.dup(self._here[1] if above else self._fd)
        try:
            for part in PurePosixPath(below).parts:
                found = self._enter(found, above, part, make)
                above = f"{above}/{part}" if above else part
        except BaseException:
            os.close(found)
            raise
        os.close(self._here[1])
        self._here = (relative, found)
        return found

    def _enter(self, folder: int, above: str, part: str, make: bool) -> int:
        if make:
            try:
                os.mkdir(part, dir_fd=folder)
                self._touched.add(above)
            except FileExistsError:
                pass
        try:
            inner = os.open(part, FOLDER | os.O_NOFOLLOW, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                place = one_line(str(self.top / above / part))
                raise Conflict(
                    f"{place} is not a folder here.",
                    hint="Move it away, then run the same command again.",
                ) from error
            raise
        os.close(folder)
        return inner

    def look(self, relative: str) -> os.stat_result | None:
        """What stands there, a link not followed; None for nothing."""
        parent, name = _split(relative)
        try:
            return os.stat(name, dir_fd=self.folder(parent, make=False), follow_symlinks=False)
        except FileNotFoundError:
            return None

    def sha256_of(self, relative: str) -> str:
        """The SHA-256 of a file here; "" where no file stands there."""
        parent, name = _split(relative)
        try:
            folder = self.folder(parent, make=False)
        except FileNotFoundError:
            return ""
        return _sha256_of(name, folder)

    def partial(self, relative: str, most: int) -> tuple[int, Any]:
        """How many bytes an earlier fetch left, and their running sum; at most `most`."""
        parent, name = _split(relative)
        digest = hashlib.sha256()
        try:
            descriptor = os.open(
                part_name(name),
                os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC,
                dir_fd=self.folder(parent, make=False),
            )
        except OSError:
            return 0, digest
        with os.fdopen(descriptor, "rb") as file:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_size > most:
                return 0, digest
            offset = 0
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
                offset += len(data)
        return (offset, digest) if offset <= most else (0, hashlib.sha256())

    def open_part(self, relative: str) -> PartFile:
        """The file in which bytes for `relative` gather, locked; the caller closes it."""
        parent, name = _split(relative)
        return PartFile(self, relative, self.folder(parent), name)

    def link(self, relative: str, target: str) -> None:
        """Make a link, in place of a file or another link."""
        parent, name = _split(relative)
        folder, part = self.folder(parent), part_name(name)
        _unlink_if_there(part, folder)
        os.symlink(target, part, dir_fd=folder)
        self.rename(part, name, folder, relative)

    def mode_here(self, mode: int) -> int:
        """A mode of the VM's as this user lets new files have it; he can always read his own."""
        return (mode & 0o777 & ~self._refused) | stat.S_IRUSR

    def require(self, count: int) -> None:
        """Refuse at once what cannot fit on the disk here."""
        free = os.fstatvfs(self._fd)
        if free.f_blocks and count > free.f_bavail * free.f_frsize:
            raise InvalidInput(
                f"The disk is full here: the files need {count} bytes, "
                f"{free.f_bavail * free.f_frsize} are free.",
                hint="Save elsewhere: --to DIR",
            )

    def set_mode(self, relative: str, mode: int) -> None:
        """Give a file that is here already the mode that it has there, as far as it may."""
        mode = self.mode_here(mode)
        parent, name = _split(relative)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=self.folder(parent, make=False))
        try:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) != mode:
                os.fchmod(descriptor, mode)
        finally:
            os.close(descriptor)

    def remove(self, relative: str) -> None:
        """Delete a file or a link."""
        parent, name = _split(relative)
        os.unlink(name, dir_fd=self.folder(parent, make=False))
        self._touched.add(parent)

    def rename(self, part: str, name: str, folder: int, relative: str) -> None:
        """Give what has arrived in `folder` its name there."""
        try:
            os.replace(part, name, src_dir_fd=folder, dst_dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.EISDIR, errno.ENOTEMPTY, errno.EEXIST):
                place = one_line(str(self.top / relative))
                raise Conflict(
                    f"{place} is a folder here.",
                    hint="Move it away, then run the same command again.",
                ) from error
            raise
        self._touched.add(_split(relative)[0])

    def sync(self) -> None:
        """Every new name is on the disk."""
        for relative in sorted(self._touched):
            try:
                os.fsync(self.folder(relative, make=False))
            except (FileNotFoundError, Conflict):  # moved away meanwhile, names and all
                continue
        self._touched.clear()


class PartFile:
    """A file that is not complete yet: bytes are written, synced, and get their name."""

    def __init__(self, destination: Destination, relative: str, folder: int, name: str) -> None:
        self._destination = destination
        self._relative = relative
        self._folder = os.dup(folder)
        self._name = name
        self._part = part_name(name)
        self.size = 0
        self._written_out = 0
        try:
            self._fd = self._open()
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Let go of it; what has gathered stays for another try."""
        os.close(self._fd)
        os.close(self._folder)

    def _open(self) -> int:
        """The part file, locked: another command may just have given it its final name.

        One that somebody else made in a folder that several may write to would stay his, to change
        after it was proven: then we make our own.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        owners = {os.geteuid()}
        while True:
            try:
                descriptor = os.open(self._part, flags, 0o600, dir_fd=self._folder)
            except FileExistsError:  # somebody is quicker, again and again
                continue
            except PermissionError as error:
                try:  # one that was about to get its name has a mode that keeps us out
                    os.unlink(self._part, dir_fd=self._folder)
                except OSError:
                    raise error from None
                continue
            except OSError as error:
                if error.errno not in (errno.ELOOP, errno.ENXIO):
                    raise
                _unlink_if_there(self._part, self._folder)  # a link or a pipe: not what we left
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                os.close(descriptor)
                raise Conflict(
                    f"Another command is fetching {one_line(self._name)} here.",
                    hint="Wait until it has finished.",
                ) from error
            found = os.fstat(descriptor)
            fits = stat.S_ISREG(found.st_mode) and found.st_nlink == 1 and found.st_uid in owners
            if fits and self._is_still_named(found):
                self.size = found.st_size
                return descriptor
            os.close(descriptor)
            if not fits:
                _unlink_if_there(self._part, self._folder)
                if found.st_uid not in owners:  # some file systems give all to one user
                    flags |= os.O_EXCL
                    owners.add(found.st_uid)

    def _is_still_named(self, found: os.stat_result) -> bool:
        try:
            now = os.stat(self._part, dir_fd=self._folder, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)

    def fileno(self) -> int:
        """Its descriptor, to read what has gathered."""
        return self._fd

    def begin(self, offset: int) -> None:
        """What follows is written from this offset on."""
        os.ftruncate(self._fd, offset)
        os.lseek(self._fd, offset, os.SEEK_SET)
        self._written_out = offset
        self.size = offset

    def write(self, data: bytes | memoryview) -> None:
        """Append; raises OSError where the disk is full."""
        view = memoryview(data)
        while view:
            view = view[os.write(self._fd, view) :]
        self.size += len(data)
        if self.size - self._written_out >= WRITE_OUT_BYTES:
            start_writing_out(self._fd, self._written_out, self.size - self._written_out)
            self._written_out = self.size

    def finish(self, mode: int, mtime_ns: int, instead_of: str | None = None) -> bool:
        """Everything on the disk, then under its name; whether that replaced something.

        `instead_of` is the SHA-256 of what must stand there until then ("": no file must).
        """
        os.fchmod(self._fd, self._destination.mode_here(mode))
        os.utime(self._fd, ns=(mtime_ns, mtime_ns))
        os.fsync(self._fd)
        if instead_of is not None and _sha256_of(self._name, self._folder) != instead_of:
            self.drop()
            raise Conflict(
                f"{one_line(self._relative)} was changed here during the transfer.",
                hint="vmctl pull",
            )
        try:
            os.stat(self._name, dir_fd=self._folder, follow_symlinks=False)
            replaced = True
        except FileNotFoundError:
            replaced = False
        self._destination.rename(self._part, self._name, self._folder, self._relative)
        return replaced

    def drop(self) -> None:
        """Delete what has arrived."""
        _unlink_if_there(self._part, self._folder)


def _umask() -> int:
    """What this user's new files may not have. Asking means to set it, so in one thread only."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def start_writing_out(descriptor: int, offset: int, count: int) -> None:
    """Ask the system to begin writing this range to the disk, and do not wait for it."""
    advise = getattr(os, "posix_fadvise", None)
    if advise is not None:  # Linux begins write-back of dirty pages it is told to drop
        advise(descriptor, offset, count, os.POSIX_FADV_DONTNEED)


def _sha256_of(name: str, folder: int) -> str:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(name, flags, dir_fd=folder)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO, errno.EACCES):
            return ""
        raise
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return hashlib.file_digest(file, "sha256").hexdigest()


def _split(relative: str) -> tuple[str, str]:
    parent, _, name = relative.rpartition("/")
    return parent, name


def _unlink_if_there(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        pass
