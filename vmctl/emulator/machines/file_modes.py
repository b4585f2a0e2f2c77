"""Folders and files of the emulator's home, with explicit modes instead of a umask's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

UMASK = 0o077  # of the emulator itself; other modes are set explicitly


def make_folder(folder: Path, mode: int = 0o700, group: int | None = None) -> None:
    """Make a folder, or set an existing one's mode and, if given, its group.

    Missing parents are made so that others can pass through but not list them: machines of a
    root's emulator run under another uid."""
    for parent in reversed(folder.parents):
        if not parent.exists():
            parent.mkdir(mode=0o700, exist_ok=True)
            parent.chmod(0o711)
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.stat()
    if group is not None and found.st_gid != group:
        os.chown(folder, -1, group)
    if found.st_mode & 0o7777 != mode:
        folder.chmod(mode)


def tighten(folder: Path) -> None:
    """Remove others' rights, which older versions left, from a file or a whole folder."""
    every = [folder] if folder.exists() else []
    for base, folders, files in os.walk(folder):
        every += [Path(base) / name for name in (*folders, *files)]
    for path in every:
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & 0o700)


def write_file(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file atomically; it never exists with another mode."""
    part = file.with_name(f".{file.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(stream.fileno(), mode)
        part.replace(file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
