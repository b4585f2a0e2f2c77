"""Why a VM stopped, from what Google did and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vmctl.domain.google.stop_reason import (
    EVENTS,
    StopCause,
    SystemEvent,
    find_stop_reason,
    find_stop_reason_since,
)
from vmctl.domain.machine.instance import Instance, Status

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
VM = Instance(
    "vm",
    "7",
    "europe-west1-b",
    Status.TERMINATED,
    "n1-standard-4",
    started_at=START,
    stopped_at=START + timedelta(hours=1),
    max_run_s=12 * 3600,
)


def event(kind: str, minutes: float, of: str = "7") -> SystemEvent:
    return SystemEvent(f"compute.instances.{kind}", of, START + timedelta(minutes=minutes))


@pytest.mark.parametrize("kind", EVENTS)
def test_what_google_did_is_named(kind: str) -> None:
    found = find_stop_reason(VM, [SystemEvent(kind, "7", START + timedelta(minutes=59))])
    assert found is not None
    assert found.cause is EVENTS[kind]
    assert found.text.endswith(".")


def test_a_preemption_says_that_the_disk_is_kept() -> None:
    found = find_stop_reason(VM, [event("preempted", 59)])
    assert found is not None
    assert "preempted it" in found.text
    assert "disk is kept" in found.text


def test_of_an_earlier_run_or_another_vm_is_not_the_reason() -> None:
    assert find_stop_reason(VM, [event("preempted", -5), event("preempted", 30, of="8")]) is None


def test_the_last_one_counts() -> None:
    found = find_stop_reason(VM, [event("guestTerminate", 59), event("preempted", 58)])
    assert found is not None
    assert found.cause is StopCause.SHUT_DOWN


def test_a_vm_that_runs_has_not_ended_and_one_going_down_has() -> None:
    said = [event("preempted", 59)]
    assert find_stop_reason(replace(VM, status=Status.RUNNING), said) is None
    assert find_stop_reason(replace(VM, status=Status.STOPPING), said) is not None


@pytest.mark.parametrize(("off_by_s", "named"), [(0, True), (40, True), (-40, True), (600, False)])
def test_a_stop_at_the_run_limit_is_the_run_limit(off_by_s: float, named: bool) -> None:
    stopped = START + timedelta(seconds=12 * 3600 + off_by_s)
    found = find_stop_reason(replace(VM, stopped_at=stopped), [])
    assert (found is not None and found.cause is StopCause.RUN_LIMIT) is named


def test_a_stop_that_was_asked_for_needs_no_explanation() -> None:
    assert find_stop_reason(VM, []) is None


def test_a_vm_that_runs_again_still_tells_what_ended_a_run_on_it() -> None:
    again = replace(VM, status=Status.RUNNING, started_at=START + timedelta(hours=2))
    events = [event("hostError", 10), event("preempted", 59), event("preempted", 61, of="8")]
    assert find_stop_reason(again, events) is None
    found = find_stop_reason_since(again, events, START + timedelta(minutes=30))
    assert found is not None
    assert (found.cause, found.at) == (StopCause.PREEMPTED, START + timedelta(minutes=59))
    assert find_stop_reason_since(again, events, START + timedelta(minutes=60)) is None
    assert find_stop_reason_since(again, events, None) == found
