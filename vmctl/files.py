"""vmctl's own files on this computer: replaced as a whole, and locked while they are changed."""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from pathlib import Path
from types import TracebackType


def atomic_write(
    path: Path, content: str | bytes, *, mode: int | None = None, durable: bool = False
) -> None:
    """Replace a file so that a reader sees either the old content or all of the new.

    `mode` is what it will have, None: what the umask leaves; `durable` waits for the disk. Raises
    OSError, which names the folder: a failed write does not say where it was.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        part.unlink(missing_ok=True)  # in a folder from elsewhere it may be a link
        try:
            with os.fdopen(os.open(part, flags, 0o666 if mode is None else 0o600), "wb") as file:
                file.write(data)
                if mode is not None:
                    os.fchmod(file.fileno(), mode)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                part.unlink()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path.parent)) from error


class FileLock:
    """A lock on a file that ends with its holder's process; it separates threads, too."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, *, wait: bool = False) -> bool:
        """Take it if it is free, or once it is; the file is made where it is missing."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BaseException as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give it back; nothing happens where it is not held."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> FileLock:
        """Wait for it, unless it is held already."""
        if self._descriptor < 0:
            self.acquire(wait=True)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock on this file; False where there is no file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def find_program(name: str, places: str | None = None) -> str | None:
    """As `shutil.which`, whose module brings packers along that take longer than looking."""
    for place in (os.environ.get("PATH", os.defpath) if places is None else places).split(":"):
        path = f"{place}/{name}"
        if os.path.isfile(path) and os.access(path, os.X_OK):  # noqa: PTH113
            return path
    return None
