"""How fast bytes come, and how long the rest will take."""

from __future__ import annotations

from collections import deque

WINDOW_S = 5.0  # what happened before says nothing about now
TOO_EARLY_S = 1.0


class TransferRate:
    """Bytes per second over the last moments; the time is passed in, in seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def record(self, done_bytes: int, now_s: float) -> None:
        """This many bytes are done now; fewer than before starts over."""
        if self._seen and done_bytes < self._seen[-1][1]:
            self._seen.clear()
        self._seen.append((now_s, done_bytes))
        while len(self._seen) > 2 and self._seen[1][0] < now_s - WINDOW_S:
            self._seen.popleft()

    @property
    def bytes_per_s(self) -> float | None:
        """None until there is something to measure."""
        if len(self._seen) < 2:
            return None
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s - first_s >= TOO_EARLY_S else None

    def left_s(self, total_bytes: int) -> float | None:
        """Seconds until all is done at this rate; None while nobody can tell."""
        rate = self.bytes_per_s
        if not rate or rate <= 0:
            return None
        return max(0.0, (total_bytes - self._seen[-1][1]) / rate)
