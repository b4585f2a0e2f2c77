"""A machine's serial port: what it wrote, of which the last megabyte is kept."""

from __future__ import annotations

import threading
from pathlib import Path

SERIAL_BYTES = 1 << 20


class SerialPort:
    """The last megabyte that a machine wrote, kept next to its disk."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._dropped = file.with_suffix(".dropped")  # how many bytes were written before the file
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Appends; once the file holds two megabytes it is cut to the last."""
        with self._lock:
            with self._file.open("ab") as stream:
                stream.write(data)
                long = stream.tell() > 2 * SERIAL_BYTES
            if long:
                partial = self._file.with_suffix(".new")
                whole = self._file.read_bytes()
                partial.write_bytes(whole[-SERIAL_BYTES:])
                dropped = self._count_dropped() + len(whole) - SERIAL_BYTES
                self._dropped.write_text(str(dropped))
                partial.replace(self._file)

    def read(self) -> tuple[int, bytes]:
        """The last megabyte at most, and how many bytes were written before it."""
        with self._lock:
            try:
                whole = self._file.read_bytes()
            except FileNotFoundError:
                return 0, b""
            return self._count_dropped() + max(0, len(whole) - SERIAL_BYTES), whole[-SERIAL_BYTES:]

    def _count_dropped(self) -> int:
        try:
            return int(self._dropped.read_text())
        except (FileNotFoundError, ValueError):
            return 0
