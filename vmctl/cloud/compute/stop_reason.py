"""Why a VM stopped, from what Google did to it and from its watchdog's last report."""

from __future__ import annotations

from dataclasses import replace

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.guest_attributes import watch_report
from vmctl.domain.google.stop_reason import StopCause, StopReason, find_stop_reason
from vmctl.domain.machine.instance import Instance


def explain_stop(compute: Compute, instance: Instance) -> StopReason | None:
    """What ended a VM that is off or going off, a preemption above all; one request, if any."""
    if not (instance.status.is_stopped or instance.status.is_going):
        return None
    ending = find_stop_reason(instance, compute.system_events(instance))
    if ending is not None and ending.cause is StopCause.SHUT_DOWN:
        report = watch_report(compute, instance)
        if report is not None and report.stopped and report.is_fresh(ending.at):
            return replace(ending, cause=StopCause.WATCHDOG, detail=report.stopped)
    return ending
