"""The user's own ssh configuration, and vmctl's files that it includes."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from vmctl.domain.errors import InvalidInput
from vmctl.domain.login.ssh_config import (
    Host,
    entry_file,
    hosts_file,
    include_line,
    with_include,
    without_include,
)
from vmctl.domain.login.ssh_target import Target
from vmctl.files import FileLock, atomic_write
from vmctl.folders import data_dir

_FINDING = (
    "VMCTL_HOME",
    "XDG_DATA_HOME",
    "XDG_CACHE_HOME",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
)


def default_file() -> Path:
    """The user's ~/.ssh/config, where $HOME says that home is."""
    return Path.home() / ".ssh" / "config"


def read_by_ssh() -> Path:
    """The file that ssh reads: it asks the password database for the home, not $HOME."""
    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config"
    except KeyError:
        return default_file()


def entry_path() -> Path:
    """The file that the Include names."""
    return data_dir() / "ssh-config" / "config"


def hosts() -> list[Host]:
    """The names that ssh knows of vmctl's VMs."""
    try:
        records = json.loads(_records_path().read_text(encoding="utf-8"))
        return [Host.of_record(name, record) for name, record in records.items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []


@contextlib.contextmanager
def edit_hosts() -> Iterator[list[Host]]:
    """The names, to be changed in place and written when this ends well; others wait."""
    folder = entry_path().parent
    folder.mkdir(mode=0o700, exist_ok=True)
    with FileLock(folder / ".lock"):
        known = hosts()
        yield known
        _save(known)


def update_host(identity: tuple[str, str, bool, str, str], target: Target | None) -> None:
    """Point the name of a project's VM to where it was seen; None: it does not run.

    `identity` is a Host's; where it lacks the Google project only the very same VM counts.
    Nothing happens for a VM that ssh has no name for.
    """
    if not _records_path().exists():
        return

    def moved(host: Host) -> bool:
        if host.target == target:
            return False
        known = host.identity
        if known == identity:
            return True
        before, now = (item.instance_id if item else "" for item in (host.target, target))
        return known == (*identity[:3], known[3], identity[4]) and not identity[3] and before == now

    if any(map(moved, hosts())):
        with edit_hosts() as known:
            known[:] = [replace(host, target=target) if moved(host) else host for host in known]


def add_include(file: Path) -> bool:
    """Put the Include at the top of the user's file; whether anything changed.

    The rest of it stays as it is, byte for byte, and so do its mode and a symbolic link to it.
    """
    before = _read(file)
    line = include_line(str(entry_path()))
    after = with_include(before, str(entry_path()))
    by_hand = [text.strip() for text in (without_include(before or b"") or b"").splitlines()]
    if after == before or line.encode() in by_hand:
        return False
    try:
        if before is None:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _replace(file, after)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be changed: {error.strerror}.",
            hint=f"Put this line at its top yourself, wherever it is made: {line}",
        ) from error
    return True


def remove_include(file: Path) -> bool:
    """Remove vmctl's lines; a file of nothing else is deleted. Whether anything changed."""
    now = _read(file)
    if now is None:
        return False
    before = without_include(now)
    if before == now:
        return False
    try:
        _write_without(file, before)
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be changed: {error.strerror}.",
            hint=f"Remove this line yourself: {include_line(str(entry_path()))}",
        ) from error
    return True


def _write_without(file: Path, before: bytes | None) -> None:
    if before is None:
        file.unlink()
        with contextlib.suppress(OSError):  # whatever else is in it stays, and so does the folder
            file.parent.rmdir()
    else:
        _replace(file, before)


def remove_files() -> None:
    """Remove vmctl's own files of this."""
    folder = entry_path().parent
    left = folder.glob(".*.*.*")  # of writes that ended with their process
    for path in (entry_path(), _hosts_path(), _records_path(), folder / ".lock", *left):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


# -- files -----------------------------------------------------------------------------------


def _records_path() -> Path:
    return entry_path().with_name("hosts.json")


def _hosts_path() -> Path:
    return entry_path().with_name("hosts")


def _save(known: Sequence[Host]) -> None:
    # the records last: whoever finds a host there finds it in ssh's files, too, although a process
    # may end while a thread of its writes
    texts = {
        _hosts_path(): hosts_file(known),
        entry_path(): entry_file(
            known, {host.name: _hook(host) for host in known}, str(_hosts_path())
        ),
        _records_path(): json.dumps(
            {host.name: {k: v for k, v in asdict(host).items() if k != "name"} for host in known},
            indent=1,
        ),
    }
    for path, text in texts.items():
        _replace(path, text.encode())


def environment() -> dict[str, str]:
    """The variables by which vmctl finds its folders and its credentials here: paths, no secrets.

    A program that starts ssh, such as VS Code, may have others or none.
    """
    found = {name: os.environ[name] for name in _FINDING if os.environ.get(name)}
    return found | ({"VMCTL_HOME": str(data_dir().parent)} if "VMCTL_HOME" in found else {})


def _hook(host: Host) -> tuple[str, ...]:
    """What ssh runs before it connects: this program, as it was when the name was made."""
    local = {"VMCTL_EMULATOR_HOME": host.emulator_home} if host.emulator_home else {}
    settings = [f"{name}={value}" for name, value in {**host.environment, **local}.items()]
    program = [sys.executable, "-P", "-m", "vmctl", "ssh-config", "--follow", host.name]
    return ("env", *settings, *program) if settings else tuple(program)


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise InvalidInput(
            f"{file} cannot be read: {error.strerror}.", hint="Name another: --file PATH"
        ) from error


def _replace(file: Path, content: bytes) -> None:
    """Replace a file; a symbolic link to it stays one, and its mode stays as it is."""
    file = file.resolve() if file.is_symlink() else file
    mode = file.stat().st_mode & 0o7777 if file.exists() else 0o600
    atomic_write(file, content, mode=mode, durable=True)
