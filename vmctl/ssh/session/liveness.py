"""Whether a connection that does not answer is dead, or only late behind a transfer."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

WINDOW_S = 1.0
RECEIVED_BYTES = 1 << 13  # in a window: more than the small change of a dead connection
ZERO_WINDOW_PROBE = 4  # include/net/inet_connection_sock.h, seen in /proc/net/tcp


class SocketActivity:
    """A process and its TCP connection, looked at now and then; elsewhere than on Linux, silent."""

    def __init__(self, pid: int) -> None:
        self._process = Path(f"/proc/{pid}")
        self._window_at = self._alive_at = time.monotonic()
        self._received = received_bytes(self._process)

    def sample(self) -> None:
        """Take note of a sign of life, if there is one now."""
        now = time.monotonic()
        if sends(self._process):
            self._alive_at = now
        if self._received is not None and now - self._window_at >= WINDOW_S:
            received = received_bytes(self._process)
            if received is not None and received - self._received > RECEIVED_BYTES:
                self._alive_at = now
            self._window_at, self._received = now, received

    def is_recent(self) -> bool:
        """Whether there was a sign of life within the last second."""
        self.sample()
        return self._received is not None and time.monotonic() - self._alive_at < WINDOW_S


def received_bytes(process: Path) -> int | None:
    """What a process has read in its life; None where the system does not show it."""
    try:
        counters = (process / "io").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"^rchar: (\d+)$", counters, re.MULTILINE)
    return int(found.group(1)) if found else None


def sends(process: Path) -> bool:
    """Whether bytes of a TCP connection of it are under way, and the other side takes them."""
    try:
        links = [os.readlink(entry) for entry in os.scandir(process / "fd")]  # noqa: PTH115
        tables = [path.read_text("ascii") for path in (process / "net").glob("tcp*")]
    except OSError:
        return False
    own = {link.removeprefix("socket:[")[:-1] for link in links if link.startswith("socket:[")}
    # sl local remote state tx:rx timer:when retransmits uid timeout inode …
    rows = (line.split() for table in tables for line in table.splitlines()[1:])
    return any(_flows(row) for row in rows if len(row) > 9 and row[9] in own)


def _flows(row: list[str]) -> bool:
    waiting = int(row[4].partition(":")[0], 16)
    timer = int(row[5].partition(":")[0], 16)
    return waiting > 0 and timer != ZERO_WINDOW_PROBE and int(row[6], 16) == 0
