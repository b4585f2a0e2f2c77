"""Why a VM stopped, where Google's own doing or its timestamps tell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from vmctl.domain.machine.instance import Instance
from vmctl.domain.text import format_time

RUN_LIMIT_SLACK = timedelta(seconds=60)  # Google's stop may come a little before or after


class StopCause(StrEnum):
    """What ended a VM's run."""

    PREEMPTED = "preempted"
    HOST_ERROR = "host error"
    MAINTENANCE = "host maintenance"
    SHUT_DOWN = "shut down inside"
    RUN_LIMIT = "run limit"
    WATCHDOG = "watchdog"


# Google's operation types for what it does, or notices, by itself
EVENTS = {
    "compute.instances.preempted": StopCause.PREEMPTED,
    "compute.instances.hostError": StopCause.HOST_ERROR,
    "compute.instances.terminateOnHostMaintenance": StopCause.MAINTENANCE,
    "compute.instances.guestTerminate": StopCause.SHUT_DOWN,
}


@dataclass(frozen=True, slots=True)
class SystemEvent:
    """Something that Google did to a VM without being asked."""

    kind: str  # one of EVENTS
    instance_id: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StopReason:
    """Why and when a VM stopped."""

    cause: StopCause
    at: datetime
    detail: str = ""

    @property
    def text(self) -> str:
        """One sentence for people, in their own time zone."""
        when = f"on {format_time(self.at)}"
        match self.cause:
            case StopCause.PREEMPTED:
                return (
                    f"Google preempted it {when} (it is a Spot VM); its disk is kept, its "
                    "processes have ended."
                )
            case StopCause.HOST_ERROR:
                return f"Its host failed {when}."
            case StopCause.MAINTENANCE:
                return f"Google stopped it {when} for maintenance of its host."
            case StopCause.SHUT_DOWN:
                return f"It was shut down from inside {when}."
            case StopCause.WATCHDOG:
                return f"Its watchdog stopped it {when}: {self.detail}."
            case StopCause.RUN_LIMIT:
                return (
                    f"Google stopped it {when}: its run limit was reached "
                    "(longer: vmctl up --max-hours H)."
                )


def find_stop_reason(instance: Instance, events: Iterable[SystemEvent]) -> StopReason | None:
    """Why a VM that is off, or going off, stopped; None where it was asked to, or runs."""
    if not (instance.status.is_stopped or instance.status.is_going):
        return None
    began = instance.started_at
    if found := find_stop_reason_since(instance, events, began):
        return found
    stopped = instance.stopped_at
    if began and stopped and instance.max_run_s:
        limit = began + timedelta(seconds=instance.max_run_s)
        if abs(stopped - limit) <= RUN_LIMIT_SLACK:
            return StopReason(StopCause.RUN_LIMIT, stopped)
    return None


def find_stop_reason_since(
    instance: Instance, events: Iterable[SystemEvent], since: datetime | None
) -> StopReason | None:
    """The last that Google did to a VM from a moment on, even where it runs again; None: nothing.

    None as the moment counts everything that Google remembers.
    """
    found = [
        event
        for event in events
        if event.instance_id == instance.id
        and event.kind in EVENTS
        and (since is None or event.at >= since)
    ]
    if not found:
        return None
    last = max(found, key=lambda event: event.at)
    return StopReason(EVENTS[last.kind], last.at)
