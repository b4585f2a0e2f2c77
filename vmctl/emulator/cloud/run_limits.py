"""Run limits: maxRunDuration and terminationTime, watched from each entry into RUNNING."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from ..clock import Clock, parse_stamp
from ..store import Record


def compute_limit(record: Record, started: datetime) -> datetime | None:
    """Return when an instance that started at `started` must end; None without a limit."""
    scheduling = record.body["scheduling"]
    if "terminationTime" in scheduling:
        return parse_stamp(scheduling["terminationTime"])
    if "maxRunDuration" in scheduling:
        return started + timedelta(seconds=int(scheduling["maxRunDuration"]["seconds"]))
    return None


def read_limit(record: Record) -> datetime | None:
    """Return the limit that a running instance shows as its terminationTimestamp."""
    text = record.body["resourceStatus"]["scheduling"].get("terminationTimestamp")
    return parse_stamp(text) if text else None


class RunLimits:
    """Calls `enforce` for each watched instance at the end of its run time."""

    def __init__(self, clock: Clock, enforce: Callable[[Record], Awaitable[None]]) -> None:
        self._clock = clock
        self._enforce = enforce
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def watch(self, record: Record, limit: datetime) -> None:
        """Watch an instance; a new limit replaces the old one."""
        self.unwatch(record.body["id"])
        task = asyncio.get_running_loop().create_task(self._wait(record, limit))
        self._tasks[record.body["id"]] = task

    def unwatch(self, instance_id: str) -> None:
        """Stop watching an instance that has stopped or was deleted."""
        task = self._tasks.pop(instance_id, None)
        if task is not None:
            task.cancel()

    def close(self) -> None:
        """Stop watching all instances."""
        for instance_id in list(self._tasks):
            self.unwatch(instance_id)

    async def _wait(self, record: Record, limit: datetime) -> None:
        async with self._clock.working():
            await self._clock.sleep_until(limit)
            # Off the list first: stopping the instance unwatches it, which would cancel this task.
            self._tasks.pop(record.body["id"], None)
            await self._enforce(record)
