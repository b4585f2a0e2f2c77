"""Folders and files of the emulator's home: their modes are said, never left to a umask."""

from __future__ import annotations

import os
import stat
from pathlib import Path

UMASK = 0o077  # of the emulator itself: what is for others says so


def make_folder(folder: Path, mode: int = 0o700, group: int | None = None) -> None:
    """Make a folder, or give one that is there these modes and, where it is said, this group.

    Parents that are missing may be passed through by others, who cannot list them: machines of a
    root's emulator run under a uid that has to get here."""
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
    """Take from others what an earlier emulator may have left open: a file, or all of a folder."""
    every = [folder] if folder.exists() else []
    for base, folders, files in os.walk(folder):
        every += [Path(base) / name for name in (*folders, *files)]
    for path in every:
        mode = path.lstat().st_mode
        if mode & 0o077 and not stat.S_ISLNK(mode):
            path.chmod(stat.S_IMODE(mode) & 0o700)


def write_file(file: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace a file in one step; nobody ever sees it with other modes."""
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
