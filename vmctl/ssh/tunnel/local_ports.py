"""Ports of this computer: which are free, and who holds the others."""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from vmctl.domain.errors import Conflict

BACKLOG = 128
REACH = 200  # how many ports above the wanted one are looked at


def listen(port: int) -> socket.socket:
    """Listen on a port of 127.0.0.1; raises Conflict, which names the holder."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(BACKLOG)
    except PermissionError as error:
        listener.close()
        raise Conflict(
            f"Binding local port {port} needs root.",
            hint="Choose a higher one: --port 8080",
        ) from error
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise taken(port) from error
        raise
    return listener


def listen_from(port: int) -> socket.socket:
    """Listen on this port of 127.0.0.1 or on the next free one above it."""
    for candidate in range(port, min(port + REACH, 65536)):
        if is_free(candidate):
            with contextlib.suppress(Conflict):  # taken since
                return listen(candidate)
    raise Conflict(f"No local port from {port} on is free.", hint="Choose another: --port 18000")


def is_free(port: int) -> bool:
    """Whether we may listen on this port of 127.0.0.1; never where only root may."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def next_free(port: int) -> int:
    """The next port above that is free."""
    above = range(port + 1, min(port + REACH, 65536))
    return next((found for found in above if is_free(found)), 0)


def taken(port: int) -> Conflict:
    """The error for a local port in use: it names the holder and the next free port."""
    holder = holder_of(port)
    by = f" by {holder}" if holder else ""
    return Conflict(
        f"Port {port} on this computer is taken{by}.",
        hint=f"Use the next free one: --port {next_free(port)} (or let vmctl choose: --port auto)",
    )


def holder_of(port: int) -> str:
    """Who listens on a local port, as far as this user may see; "" where that is not known."""
    inodes = _listening_inodes(port)
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        if not links.isdisjoint(_open_files(process)):
            name = _command_line(process)
            return f"'{name[:80]}' (process {process.name})"
    return _lsof(port) if not Path("/proc/net/tcp").exists() else ""


def _command_line(process: Path) -> str:
    """A process's command line; "" when it has just ended."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    return " ".join(word.decode("utf-8", "replace") for word in words).strip()


def _open_files(process: Path) -> Iterator[str]:
    """What a process has open; nothing where it has ended or belongs to another user."""
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield str(descriptor.readlink())
        except OSError:  # closed meanwhile
            continue


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def _lsof(port: int) -> str:
    """macOS has no /proc."""
    try:
        output = subprocess.run(
            ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=3,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"^p(\d+)\nc(.+)$", output, re.MULTILINE)
    return f"'{found.group(2)}' (process {found.group(1)})" if found else ""
