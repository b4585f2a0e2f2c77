"""A run that was lost with its VM: why, when, and what to do now."""

from __future__ import annotations

from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.domain.errors import Unreachable, VmctlError
from vmctl.domain.events import Event, Started, Story
from vmctl.domain.runs.run import RunFacts, RunResult, RunState, observe
from vmctl.domain.text import format_time

if TYPE_CHECKING:  # a run that is not lost does without the Google client
    from vmctl.cloud.compute.compute import Compute
    from vmctl.config import Project
    from vmctl.domain.machine.instance import Instance

DELETED = "Its VM was deleted."
CLOCKS_DIFFER = timedelta(seconds=5)  # a VM's from Google's, at most


def why_lost(project: Project, facts: RunFacts, clock: Clock) -> Generator[Event, None, str]:
    """Why a run was lost, by what Google says of its VM; "" for one that was not."""
    if observe(facts) is not RunState.LOST:
        return ""
    since = datetime.fromtimestamp(facts.created_at, UTC) if facts.created_at else None
    try:
        return (yield from why_gone(project, clock, since))
    except VmctlError:  # the run is as lost without Google's words
        return ""


def why_gone(project: Project, clock: Clock, since: datetime | None = None) -> Story[str]:
    """What became of the project's VM, one or two sentences; a VM that is stopping is waited for.

    `since` is from when on: a VM that runs again may have been off in between.
    """
    from vmctl.cloud.compute.stop_reason import explain_stop
    from vmctl.workflows.base.operations import wait_until
    from vmctl.workflows.base.site import open_site

    site = yield from open_site(project, clock)
    instance = site.find_vm()
    if instance is not None and instance.status.is_going:
        if ending := explain_stop(site.compute, instance):
            return ending.text
        yield Started("stop", f"{instance.name} is {instance.status}: waiting to learn why")
        instance = yield from wait_until(site, instance, lambda vm: not vm.status.is_going, "stop")
    if instance is None:
        return DELETED
    if instance.status.is_stopped:
        if ending := explain_stop(site.compute, instance):
            return ending.text
        when = f" on {format_time(instance.stopped_at)}" if instance.stopped_at else ""
        return f"Its VM was stopped{when}, by vmctl down, gcloud or the console."
    return _since(site.compute, instance, since)


def _since(compute: Compute, instance: Instance, since: datetime | None) -> str:
    """What happened to a VM that runs, or is coming, after the moment that counts."""
    from vmctl.domain.google.stop_reason import find_stop_reason_since

    if since is not None:
        events = compute.system_events(instance)
        if ending := find_stop_reason_since(instance, events, since - CLOCKS_DIFFER):
            return ending.text
        if instance.started_at is not None and instance.started_at > since:
            return f"Its VM was stopped, and started again on {format_time(instance.started_at)}."
    return "Its VM restarted, or all its processes were killed."


def gone_with_its_vm(run_id: str, why: str) -> Unreachable:
    """The error of a run that cannot be asked any more, because its VM is off or deleted."""
    if why == DELETED:
        return Unreachable(f"The run {run_id} was lost. {why}", hint="Start again: vmctl up")
    return Unreachable(
        f"The run {run_id} was lost. {why}",
        hint="Its log and checkpoints are on the VM's disk: "
        f"vmctl up && vmctl logs {run_id}; then run it again",
    )


def job_error(result: RunResult) -> VmctlError | None:
    """The error of a run that was lost; None for one whose exit code tells everything."""
    if result.state != RunState.LOST:
        return None
    why = result.lost_because or "The VM stopped or restarted during the run."
    return Unreachable(
        f"The run {result.run_id} was lost. {why}",
        hint=f"What it wrote: vmctl up && vmctl logs {result.run_id}; again: vmctl run "
        f"{result.job} (its files and checkpoints are kept)",
    )
