"""What connections leave behind: nothing after `down`, and nothing unused for a day."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from vmctl.files import is_locked
from vmctl.folders import runtime_dir
from vmctl.ssh.session.control_master import EXIT_S, program, words_of

DAY_S = 86400.0
STAMP = ".tidied"
# a connection's own files, its spare sockets and their notes, and the logs of single commands
_DIGEST = r"\.?([0-9a-f]{16})\.(?:s|lock|(?:conf|pid)(?:\.\d+\.\d+)?|\d+\.\d+(?:\.pid)?)"
_PASSING = r"\d+\.\d+\.log|push-[0-9a-f]{16}\.lock"


def sweep_daily(now: Callable[[], float] = time.time) -> None:
    """Once a day, remove what nobody has used for a day; a live master or a held lock stays."""
    folder = runtime_dir()
    stamp = folder / STAMP
    with contextlib.suppress(OSError):  # a command must not fail because of it
        try:
            if abs(now() - stamp.stat().st_mtime) < DAY_S:
                return
        except FileNotFoundError:
            pass
        stamp.touch(mode=0o600)
        os.utime(stamp, (now(), now()))
        sweep(folder, before=now() - DAY_S)


def sweep(folder: Path, before: float) -> None:
    """Remove a connection's files and others' locks and logs that are all older than `before`."""
    groups: dict[str, list[Path]] = {}
    for path in folder.iterdir():
        if found := re.fullmatch(_DIGEST, path.name):
            groups.setdefault(found[1], []).append(path)
        elif re.fullmatch(_PASSING, path.name):
            groups[path.name] = [path]
    for paths in groups.values():
        with contextlib.suppress(OSError):  # another process sweeps, too
            if all(path.lstat().st_mtime < before for path in paths) and not _in_use(paths):
                _remove(paths)


def close_all_for(alias: str) -> None:
    """End every connection to one VM, at whatever address, and leave no file of them."""
    folder = runtime_dir()
    for config in folder.glob("*.conf"):
        digest = config.stem
        try:
            text = config.read_text(encoding="utf-8")
        except (OSError, ValueError):
            continue
        if not text.startswith(f"Host {alias}\n"):
            continue
        paths = list(_group(folder, digest))
        for path in paths:
            if _is_socket(path):
                _end(config, alias, path)
        _kill(folder / f"{digest}.pid", config)
        _remove(paths)


def _group(folder: Path, digest: str) -> Iterator[Path]:
    for path in folder.iterdir():
        found = re.fullmatch(_DIGEST, path.name)
        if found and found[1] == digest:
            yield path


def _in_use(paths: list[Path]) -> bool:
    for path in paths:
        if path.name.endswith(".lock"):
            if is_locked(path):
                return True
        elif _is_socket(path) and _listens(path):
            return True
    return False


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.lstat().st_mode)
    except OSError:
        return False


def _listens(path: Path) -> bool:
    """Whether a process is behind a socket; one that is too busy to say so counts."""
    import socket  # once a day

    with socket.socket(socket.AF_UNIX) as tried:
        tried.setblocking(False)
        try:
            tried.connect(str(path))
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True


def _end(config: Path, alias: str, path: Path) -> None:
    """Ask a master to end; one that does not listen is killed by its number."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            [
                program("ssh"),
                "-F",
                str(config),
                "-S",
                str(path).replace("%", "%%"),
                "-O",
                "exit",
                alias,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=EXIT_S,
            check=False,
        )


def _kill(note: Path, config: Path) -> None:
    with contextlib.suppress(OSError, ValueError):
        pid = int(note.read_text(encoding="ascii"))
        if pid > 0 and str(config) in words_of(pid):
            os.kill(pid, signal.SIGKILL)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
