"""Where vmctl keeps things on this computer: its data, its cache, its control sockets."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from vmctl.domain.errors import InvalidInput


def data_dir() -> Path:
    """The key pair and the pinned host keys: data, kept, readable by the user alone."""
    return _private(_home("data"))


def cache_dir() -> Path:
    """What may vanish at any moment: addresses of VMs seen last."""
    return _private(_home("cache"))


def runtime_dir() -> Path:
    """A folder with a short path for control sockets (OpenSSH's limit is about 90 characters)."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and len(base) <= 30 and Path(base).is_dir():
        return _private(Path(base) / "vmctl")
    return _private(Path(tempfile.gettempdir()) / f"vmctl-{os.getuid()}", shared_parent=True)


def _home(kind: str) -> Path:
    chosen = os.environ.get("VMCTL_HOME")
    if chosen:
        return Path(chosen) / kind
    import platformdirs

    if kind == "cache":
        return Path(platformdirs.user_cache_dir("vmctl"))
    return Path(platformdirs.user_data_dir("vmctl"))


def _private(folder: Path, *, shared_parent: bool = False) -> Path:
    """The folder, made when missing, with mode 0700 and owned by us.

    In a parent that everyone may write to (/tmp) somebody else may have made it first:
    then it is refused, because control sockets in it would be theirs to use.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        found = folder.lstat()
        if shared_parent and (not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid()):
            raise InvalidInput(
                f"{folder} belongs to somebody else.",
                hint="Set XDG_RUNTIME_DIR to a folder of yours.",
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise InvalidInput(
            f"{folder} cannot be used: {error.strerror}.",
            hint="Set VMCTL_HOME to a folder that you can write to.",
        ) from error
    return folder
