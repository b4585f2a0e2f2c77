"""The emulator's time: real, running faster, or moved by hand.

Run limits, scripted boots and every timestamp follow this clock. How long an HTTP call may block
and how long a state stays visible do not: those are real seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Protocol

_SLICE_S = 30.0  # after a suspend, a passed deadline is noticed within this time
_SETTLE_S = 10.0


class Clock(Protocol):
    """What the emulator asks of its clock; `sleep_until` takes and `now` gives aware UTC times."""

    @property
    def kind(self) -> str: ...

    def now(self) -> datetime: ...

    async def sleep_until(self, when: datetime) -> None: ...

    async def advance(self, seconds: float) -> None: ...

    def working(self) -> contextlib.AbstractAsyncContextManager[None]: ...


def stamp(moment: datetime) -> str:
    """Format a time as Compute Engine does: RFC 3339 with milliseconds and offset."""
    return moment.isoformat(timespec="milliseconds")


def parse_stamp(text: str) -> datetime:
    """Read an RFC 3339 time; raise ValueError if it has no offset."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC")
    return moment


def make_clock(choice: str, not_before: datetime | None) -> Clock:
    """Build the clock named `real`, `scaled:RATE` or `stepped`; the latter two never run back."""
    kind, _, rate = choice.partition(":")
    if kind == "real" and not rate:
        return RunningClock("real", 1.0, None)
    if kind == "scaled":
        return RunningClock(choice, _positive(rate or "60"), not_before)
    if kind == "stepped" and not rate:
        return SteppedClock(not_before)
    raise ValueError(f"unknown clock {choice!r}: use real, scaled:RATE or stepped")


def _positive(text: str) -> float:
    rate = float(text)
    if not 0 < rate < 1e6:
        raise ValueError(f"a clock cannot run {text} times as fast")
    return rate


def _start(not_before: datetime | None) -> datetime:
    now = datetime.now(UTC)
    return max(now, not_before) if not_before else now


class RunningClock:
    """Time that passes by itself, `rate` emulated seconds per real second."""

    def __init__(self, kind: str, rate: float, not_before: datetime | None) -> None:
        self.kind = kind
        self._rate = rate
        self._origin = _start(not_before)
        self._started = time.monotonic()

    def now(self) -> datetime:
        """Return the emulated time; at rate 1 simply the computer's."""
        if self.kind == "real":
            return datetime.now(UTC)
        return self._origin + timedelta(seconds=(time.monotonic() - self._started) * self._rate)

    async def sleep_until(self, when: datetime) -> None:
        """Return once `now()` has reached `when`."""
        while (left_s := (when - self.now()).total_seconds() / self._rate) > 0:
            await asyncio.sleep(min(left_s, _SLICE_S))

    async def advance(self, seconds: float) -> None:
        """Refuse: this clock moves by itself."""
        raise ValueError(f"the clock is {self.kind}: only a stepped clock can be advanced")

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Do nothing: `advance` never waits for this clock."""
        yield


class SteppedClock:
    """Time that stands still until `advance`, which lets each event happen at its own moment."""

    kind = "stepped"

    def __init__(self, not_before: datetime | None) -> None:
        self._now = _start(not_before)
        self._sleepers: list[tuple[datetime, asyncio.Future[None]]] = []
        self._busy = 0
        self._idle = asyncio.Condition()

    def now(self) -> datetime:
        """Return the time that `advance` has reached."""
        return self._now

    async def sleep_until(self, when: datetime) -> None:
        """Return once `advance` has moved the time to `when`."""
        if when <= self._now:
            return
        entry = (when, asyncio.get_running_loop().create_future())
        self._sleepers.append(entry)
        await self._change_busy(-1)
        try:
            await entry[1]
        finally:
            self._busy += 1
            if entry in self._sleepers:
                self._sleepers.remove(entry)

    async def advance(self, seconds: float) -> None:
        """Move the time on, waking sleepers in order and waiting for the work of each to settle."""
        if seconds < 0:
            raise ValueError("time cannot run backwards")
        target = self._now + timedelta(seconds=seconds)
        await self._settle()
        while due := [entry for entry in self._sleepers if entry[0] <= target]:
            entry = min(due, key=lambda e: e[0])
            self._now = max(self._now, entry[0])
            self._sleepers.remove(entry)
            entry[1].set_result(None)
            await asyncio.sleep(0)
            await self._settle()
        self._now = target

    @contextlib.asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Mark work that `advance` waits for, until it finishes or sleeps."""
        self._busy += 1
        try:
            yield
        finally:
            await self._change_busy(-1)

    async def _change_busy(self, by: int) -> None:
        self._busy += by
        async with self._idle:
            self._idle.notify_all()

    async def _settle(self) -> None:
        # Bounded: work that waits for something other than time must not block the caller.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S), self._idle:
                await self._idle.wait_for(lambda: self._busy <= 0)
