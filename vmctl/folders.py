"""Where vmctl keeps things on this computer: its data, its cache, its control sockets."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from vmctl.domain.errors import InvalidInput


def data_dir() -> Path:
    """The key pair and the pinned host keys: data, kept, readable by the user alone."""
    return _private(_home("data"))


def cache_dir() -> Path:
    """What may vanish at any moment, such as the addresses of VMs."""
    return _private(_home("cache"))


# Others could write into a folder, or its sticky bit marks that they could and that its content has
# not been checked to the end.
UNSEEN = 0o022 | stat.S_ISVTX
LONGEST_BASE = 30  # bytes; OpenSSH's limit for a socket's path is about 90


def runtime_dir() -> Path:
    """A folder with a short path for control sockets and locks, which nobody else can enter.

    A folder that another user made, or could replace, is skipped for the next place.
    """
    refused: InvalidInput | None = None
    for folder in _runtime_folders():
        try:
            return _private(folder, link=False)
        except InvalidInput as error:
            refused = refused or error
    assert refused is not None
    raise InvalidInput(
        f"No safe folder for control sockets: {refused.message}",
        hint="Create a folder of your own and set it: export XDG_RUNTIME_DIR=~/.run",
    )


def _runtime_folders() -> Iterator[Path]:
    base = os.environ.get("XDG_RUNTIME_DIR", "")
    if base and _is_short(base) and _is_guarded(base):
        yield Path(base) / "vmctl"
    import tempfile

    shared = tempfile.gettempdir()
    if shared != "/tmp" and _is_short(shared) and _is_guarded(shared):
        yield Path(shared) / f"vmctl-{os.getuid()}"
    yield Path("/tmp") / f"vmctl-{os.getuid()}"
    own = _home("cache")
    if _is_short(str(own)):
        yield cache_dir() / "run"


def _is_guarded(base: str) -> bool:
    """Whether only this user and root could replace a folder in it."""
    try:
        found = os.stat(base)  # noqa: PTH116
    except OSError:
        return False
    shared = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
    return stat.S_ISDIR(found.st_mode) and found.st_uid in _trusted_owners() and not shared


def _trusted_owners() -> set[int]:
    """Who may own a trusted folder: this user, root, and under sudo the caller."""
    owners = {os.geteuid(), 0}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        owners.add(int(os.environ["SUDO_UID"]))
    return owners


def _is_short(base: str) -> bool:
    return len(os.fsencode(base)) <= LONGEST_BASE and "\n" not in base and "${" not in base


def emulator_home() -> Path:
    """The folder that holds the embedded Compute Engine's machines, keys and record."""
    chosen = _chosen("VMCTL_EMULATOR_HOME")
    if chosen:
        return chosen.resolve()
    if os.geteuid() == 0:
        # its machines run under unprivileged users, who cannot pass through /root
        return Path("/var/lib/vmctl-emulator")
    import platformdirs

    return Path(platformdirs.user_data_dir("vmctl")) / "emulator"


def list_own() -> list[Path]:
    """All folders that hold vmctl's keys and data, also where `~` was once taken literally."""
    literal = [
        Path(value, kind).absolute()
        for name, kinds in (("VMCTL_HOME", ("data", "cache")), ("VMCTL_EMULATOR_HOME", ("",)))
        if (value := os.environ.get(name, "")).startswith("~")
        for kind in kinds
    ]
    return [_home("data"), _home("cache"), emulator_home(), *literal]


def _chosen(variable: str) -> Path | None:
    """The folder that a variable names; a `~` that no shell expanded is the home folder."""
    value = os.environ.get(variable)
    try:
        return Path(value).expanduser() if value else None
    except RuntimeError as error:
        raise InvalidInput(
            f"{variable} names the home folder of a user that this computer does not have: "
            f"{value!r}.",
            hint=f"export {variable}=FOLDER",
        ) from error


def _home(kind: str) -> Path:
    chosen = _chosen("VMCTL_HOME")
    if chosen:
        if "\n" in str(chosen) or "${" in str(chosen):  # OpenSSH cannot name a key there
            raise InvalidInput(
                "VMCTL_HOME must not hold a line break or '${'.", hint="Choose another folder."
            )
        return chosen.absolute() / kind
    import platformdirs

    if kind == "cache":
        return Path(platformdirs.user_cache_dir("vmctl"))
    return Path(platformdirs.user_data_dir("vmctl"))


def _private(folder: Path, *, link: bool = True) -> Path:
    """The folder, made when missing, with mode 0700 and owned by us.

    Somebody else's is refused: who owns it can read and replace what is in it. So is one that
    held others' files because they could write to it. `link`: it may be our own link to a folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for found in (folder.lstat(), folder.stat()):
            if found.st_uid not in _trusted_owners():
                raise InvalidInput(
                    f"{folder} belongs to another user.",
                    hint="Set VMCTL_HOME to a folder that you own.",
                )
        if not link and folder.is_symlink():
            raise InvalidInput(
                f"{folder} is a link, not a folder.", hint=f"Check it, then: rm '{folder}'"
            )
        mode = stat.S_IMODE(found.st_mode)
        if mode & UNSEEN:
            folder.chmod(0o700 | stat.S_ISVTX)
            _refuse_planted(folder)
        if mode != 0o700:
            folder.chmod(0o700)
    except OSError as error:
        raise InvalidInput(
            f"{folder} cannot be used: {error.strerror}.",
            hint="Set VMCTL_HOME to a folder that you can write to.",
        ) from error
    return folder


def _refuse_planted(folder: Path) -> None:
    """Raise InvalidInput where others could write until now and have left something."""
    for inside in folder.iterdir():
        if inside.lstat().st_uid not in _trusted_owners():
            raise InvalidInput(
                f"{folder} was writable by others, and {inside.name} in it belongs to "
                "another user.",
                hint=f"Check it, then remove it: rm -r '{inside}'",
            )
