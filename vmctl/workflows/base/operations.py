"""Waiting for Google: for an operation to end, for a VM to reach a state."""

from __future__ import annotations

from collections.abc import Callable

from vmctl.cloud.compute.compute import not_found, raise_failure
from vmctl.domain.errors import TimedOut
from vmctl.domain.events import Advanced, Story
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance
from vmctl.workflows.base.site import Site

SHORTEST_GAP_S = 0.05
LONGEST_GAP_S = 0.5  # a stage of a bring-up is noticed within a second
SILENCE_LIMIT_S = 600.0  # without any news of an operation or a VM


def gap_s(waited_s: float) -> float:
    """How long to wait before asking again: a tenth of the wait so far, at most half a second."""
    return min(max(waited_s / 10, SHORTEST_GAP_S), LONGEST_GAP_S)


def wait_operation(
    site: Site, operation: Operation, step: str, *, limit_s: float = SILENCE_LIMIT_S
) -> Story[Operation]:
    """The operation once it is done, failed or not; Google's progress becomes events.

    Raises TimedOut when nothing about it has changed for `limit_s` seconds.
    """
    seen, began = "", site.clock.monotonic()
    deadline = began + limit_s
    while not operation.is_done:
        if operation.status_message and operation.status_message != seen:
            seen = operation.status_message
            deadline = site.clock.monotonic() + limit_s
            yield Advanced(step, seen)
        if site.clock.monotonic() > deadline:
            raise TimedOut(
                f"Google's operation {operation.name} ({operation.kind} of "
                f"{operation.target} in {operation.zone}) has not finished after "
                f"{limit_s / 60:g} minutes.",
                hint="Check its state: vmctl status",
            )
        site.clock.sleep(gap_s(site.clock.monotonic() - began))
        operation = site.compute.look_at(operation)
    return operation


def wait_done(
    site: Site, asked: Operation, step: str, doing: str, *, limit_s: float = SILENCE_LIMIT_S
) -> Story[None]:
    """Wait until a change is made; raises why it was refused or failed."""
    done = yield from wait_operation(site, asked, step, limit_s=limit_s)
    raise_failure(done, site.compute.project, doing)


def wait_deleted(site: Site, asked: Operation, step: str, what: str) -> Story[None]:
    """Wait until a resource is deleted, by whom it may be; raises why it is not."""
    done = yield from wait_operation(site, asked, step)
    if not not_found(done):
        raise_failure(done, site.compute.project, f"Deleting {what}")


def wait_until(
    site: Site, instance: Instance, reached: Callable[[Instance], bool], step: str
) -> Story[Instance | None]:
    """The VM, looked at afresh, once `reached` is true of it; None when it was deleted.

    Raises TimedOut when its state has not changed for ten minutes.
    """
    began = site.clock.monotonic()
    deadline = began + SILENCE_LIMIT_S
    now = site.compute.get_instance(instance.zone, instance.name)
    while now is not None and now.id == instance.id and not reached(now):
        if site.clock.monotonic() > deadline:
            raise TimedOut(
                f"The VM {now.name} in {now.zone} has been {now.status} for too long.",
                hint="Check its state: vmctl status",
            )
        site.clock.sleep(gap_s(site.clock.monotonic() - began))
        before = now.status
        now = site.compute.get_instance(instance.zone, instance.name)
        if now is not None and now.status is not before:
            deadline = site.clock.monotonic() + SILENCE_LIMIT_S
            yield Advanced(step, f"{now.name} is {now.status}")
    # another VM under the same name is not the one that was waited for
    return now if now is not None and now.id == instance.id else None
