"""Time, passed in: the one thing that tests replace."""

from __future__ import annotations

import time
from datetime import UTC, datetime


class Clock:
    """The real clock; a test passes a subclass whose time it steps itself."""

    def now(self) -> datetime:
        """The wall clock, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that never run backwards, for measuring and for deadlines."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait that long."""
        time.sleep(seconds)
