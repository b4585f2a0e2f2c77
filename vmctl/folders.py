"""Where vmctl keeps things on this computer: its data, its cache, its control sockets."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from vmctl.domain.errors import InvalidInput


def data_dir() -> Path:
    """The key pair and the pinned host keys: data, kept, readable by the user alone."""
    return _private(_home("data"))


def cache_dir() -> Path:
    """What may vanish at any moment: addresses of VMs seen last."""
    return _private(_home("cache"))


LONGEST_BASE = 30  # bytes; OpenSSH's limit for a socket's path is about 90


def runtime_dir() -> Path:
    """A folder with a short path for control sockets."""
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and _is_short(base) and Path(base).is_dir():
        return _private(Path(base) / "vmctl")
    import tempfile

    shared = tempfile.gettempdir()
    shared = shared if _is_short(shared) else "/tmp"
    return _private(Path(shared) / f"vmctl-{os.getuid()}", shared_parent=True)


def _is_short(base: str) -> bool:
    return len(os.fsencode(base)) <= LONGEST_BASE and "\n" not in base and "${" not in base


def _home(kind: str) -> Path:
    chosen = os.environ.get("VMCTL_HOME")
    if chosen:
        if "\n" in chosen or "${" in chosen:  # OpenSSH could not be told of a key there
            raise InvalidInput(
                "VMCTL_HOME must not hold a line break or '${'.", hint="Choose another folder."
            )
        return Path(chosen).absolute() / kind
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
