"""The tunnels open on this computer: one record each, which counts while its lock is held."""

from __future__ import annotations

import contextlib
import hashlib
import html
import json
import os
import secrets
import signal
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.runs.tunnel import Forwarding
from vmctl.files import FileLock, atomic_write, is_locked
from vmctl.folders import cache_dir, data_dir, runtime_dir

POLL_S = 0.05
ORDERLY_S = 8.0  # until a tunnel that was asked to close is killed
STARTING, UP, RECONNECTING = "starting", "up", "reconnecting"
LEAD = """<!DOCTYPE html>
<meta charset="utf-8"><meta name="referrer" content="no-referrer">
<meta http-equiv="refresh" content="0; url={url}">
<title>vmctl tunnel</title><a href="{url}">Continue</a>
"""


@dataclass(frozen=True, slots=True)
class TunnelRecord:
    """One open tunnel; `since` is when its state began, in UTC as ISO 8601."""

    id: str
    project: str
    vm: str
    what: str
    local_port: int
    remote_port: int
    state: str
    since: str
    pid: int
    background: bool
    local: bool
    url: str = ""
    note: str = ""  # why it is not up
    log: str = ""

    @property
    def leads(self) -> str:
        """Where it leads, for people."""
        return f"127.0.0.1:{self.local_port} -> {self.vm}:{self.remote_port}"


class OwnRecord:
    """Our own tunnel's record; it counts only while this process lives."""

    def __init__(self, project: Project, forwarding: Forwarding, *, background: bool) -> None:
        identity = f"{os.getpid()}-{secrets.token_hex(3)}"
        folder = _folder()
        folder.mkdir(mode=0o700, exist_ok=True)
        self._lock = FileLock(folder / f"{identity}.lock")
        self._file = folder / f"{identity}.json"
        self._socket = folder / identity
        self._opened = 0
        while True:
            with contextlib.suppress(FileNotFoundError):
                self._lock.acquire(wait=True)
                break
            folder.mkdir(mode=0o700, exist_ok=True)  # the last tunnel takes it away when it ends
        self.record = TunnelRecord(
            id=identity,
            project=project.name,
            vm=project.instance_name,
            what=forwarding.what,
            local_port=forwarding.local_port,
            remote_port=forwarding.remote_port,
            state=STARTING,
            since=_now(),
            pid=os.getpid(),
            background=background,
            local=project.local,
            log=str(log_file(project, forwarding.what)) if background else "",
        )
        self._seen = False  # whether the record has shown that the tunnel is up
        try:
            self._write()
        except BaseException:
            self.close()
            raise

    def update(self, state: str, *, url: str = "", note: str = "") -> None:
        """Write the tunnel's state; a URL once set stays.

        A full disk closes no tunnel; but in the background nobody would ever learn of one whose
        record never says that it is up: then it raises OSError.
        """
        since = self.record.since if state == self.record.state else _now()
        url = url or self.record.url
        updated = replace(self.record, state=state, since=since, url=url, note=note)
        if updated != self.record:
            self.record = updated
            try:
                self._write()
                self._seen = self._seen or state == UP
            except OSError:
                if state == UP and updated.background and not self._seen:
                    raise

    def new_socket(self) -> Path:
        """A path for OpenSSH to listen on; another one every time."""
        self._opened += 1
        return self._socket.with_name(f"{self._socket.name}.{self._opened}")

    def close(self) -> None:
        """Nothing of the record is left."""
        _remove(self._file)
        self._lock.release()

    def _write(self) -> None:
        atomic_write(self._file, json.dumps(asdict(self.record)), mode=0o600)


def open_tunnels() -> list[TunnelRecord]:
    """Every tunnel of this user's, by port; leftovers of dead ones are removed."""
    found = []
    for file in _folder().glob("*.json"):
        if not _is_held(file):
            _remove(file)
        elif (record := _read(file)) is not None:
            found.append(record)
    for lock in _folder().glob("*.lock"):  # its process died before it wrote its record
        if not lock.with_suffix(".json").exists() and not _is_held(lock) and _is_old(lock):
            _remove(lock)
    return sorted(found, key=lambda record: record.local_port)


def end(record: TunnelRecord, clock: Clock) -> None:
    """Close a tunnel and wait for its end."""
    file = _folder() / f"{record.id}.json"
    for polite in (True, False):
        if not _is_held(file):  # the lock proves that the process is still the tunnel's
            break
        with contextlib.suppress(ProcessLookupError):
            os.kill(record.pid, signal.SIGTERM if polite else signal.SIGKILL)
        limit = clock.monotonic() + ORDERLY_S
        while _is_held(file) and clock.monotonic() < limit:
            clock.sleep(POLL_S)
    if not _is_held(file):
        _remove(file)


def address_to_open(url: str) -> str:
    """What to hand to a browser, whose command line everyone on this computer may read.

    For a URL with a token that is a private page that leads there; it is removed with its tunnel.
    Returns "" where the tunnel has ended already.
    """
    if "?" not in url:
        return url
    record = next((found for found in open_tunnels() if found.url == url), None)
    if record is None:
        return ""
    page = _folder() / f"{record.id}.html"
    text = LEAD.format(url=html.escape(url)).encode()
    page.unlink(missing_ok=True)
    descriptor = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
    return page.as_uri()


def log_file(project: Project, what: str) -> Path:
    """The output of a tunnel in the background."""
    folder = cache_dir() / "tunnels"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{project.owner}-{project.name}-{what}.log"


def _folder() -> Path:
    """Tunnels of the same home; short, because sockets lie in it."""
    home = hashlib.sha256(os.fsencode(data_dir())).hexdigest()[:8]
    return runtime_dir() / f"t-{home}"


def _is_held(file: Path) -> bool:
    """Whether the tunnel's process lives: the kernel takes its lock away when it dies."""
    return is_locked(file.with_suffix(".lock"))


def _is_old(lock: Path) -> bool:
    """A lock is made a moment before it is held."""
    try:
        made = lock.stat().st_mtime
    except FileNotFoundError:
        return False
    return datetime.now(UTC).timestamp() - made > 60


def _remove(file: Path) -> None:
    for pattern in (f"{file.stem}.*", f".{file.stem}.*"):  # hidden: a record cut while written
        for left in file.parent.glob(pattern):
            left.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # others are open
        file.parent.rmdir()


def _read(file: Path) -> TunnelRecord | None:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        known = {item.name for item in fields(TunnelRecord)}
        return TunnelRecord(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
