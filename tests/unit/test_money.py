"""What is remembered of VMs, and the bill that is made of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import NAME_LABEL, Instance, Status
from vmctl.domain.machine.leftovers import OwnedResource, ResourceKind
from vmctl.domain.money.bill import Bill, bill, on_seconds, skew_text, start_usd
from vmctl.domain.money.ledger import (
    EMPTY,
    Ledger,
    OperationEvent,
    PowerChange,
    Span,
    with_events,
    with_resources,
    with_vm,
    without_vms_missing,
)
from vmctl.domain.money.prices import HourlyCost, affordable_s

DAY = datetime(2026, 11, 1, tzinfo=UTC)
RATE = HourlyCost(machine_usd_h=1.0, disk_usd_month=7.30, dated="of today")


def at(hours: float) -> datetime:
    return DAY + timedelta(hours=hours)


VM = Instance(
    name="ann-p",
    id="1",
    zone="europe-west1-b",
    status=Status.RUNNING,
    machine_type="n1-standard-4",
    gpu=Gpu("nvidia-tesla-t4", 1),
    address="192.0.2.1",
    labels={NAME_LABEL: "p"},
    created_at=at(0),
    started_at=at(0),
    disk_gb=73,
    boot_disk="ann-p",
    max_run_s=12 * 3600,
)


def spans(ledger: Ledger) -> list[tuple[float, float | None]]:
    """When the VM was on, in hours."""

    def hours(moment: datetime) -> float:
        return (moment - DAY).total_seconds() / 3600

    return [(hours(s.begin), hours(s.end) if s.end else None) for s in ledger.vms["1"].on]


def test_two_looks_at_two_starts_remember_both() -> None:
    ledger = with_vm(EMPTY, replace(VM, stopped_at=at(3)))
    ledger = with_vm(ledger, replace(VM, started_at=at(10), stopped_at=at(3)))
    assert spans(ledger) == [(0, 3), (10, None)]
    ledger = with_vm(ledger, replace(VM, started_at=at(10), stopped_at=at(11)))
    assert spans(ledger) == [(0, 3), (10, 11)]


def test_operations_tell_what_nobody_looked_at() -> None:
    ledger = with_vm(EMPTY, replace(VM, started_at=at(50), stopped_at=at(51)))
    ledger = with_events(
        ledger,
        [
            OperationEvent("1", PowerChange.OFF, at(2)),
            OperationEvent("1", PowerChange.ON, at(20)),
            OperationEvent("1", PowerChange.ON, at(0)),
            OperationEvent("1", PowerChange.OFF, at(21)),
            OperationEvent("other", PowerChange.ON, at(5)),
        ],
    )
    assert spans(ledger) == [(0, 2), (20, 21), (50, 51)]


def test_the_same_reported_twice_counts_once() -> None:
    told = [
        OperationEvent("1", PowerChange.ON, at(0.001)),
        OperationEvent("1", PowerChange.OFF, at(4.001)),
    ]
    ledger = with_vm(EMPTY, replace(VM, stopped_at=at(4)))
    once = with_events(ledger, told)
    assert spans(once) == [(0, 4)]
    assert with_events(once, told) == once
    assert with_vm(once, replace(VM, stopped_at=at(4))) == once


def test_a_start_of_a_vm_that_runs_and_a_stop_of_one_that_is_off_change_nothing() -> None:
    ledger = with_events(with_vm(EMPTY, VM), [OperationEvent("1", PowerChange.ON, at(2))])
    assert spans(ledger) == [(0, None)]
    ledger = with_vm(ledger, replace(VM, stopped_at=at(3)))
    ledger = with_events(ledger, [OperationEvent("1", PowerChange.OFF, at(8))])
    assert spans(ledger) == [(0, 3)]


def test_a_stop_that_nobody_saw_was_googles_limit_at_the_latest() -> None:
    ledger = with_vm(with_vm(EMPTY, VM), replace(VM, started_at=at(100)))
    assert spans(ledger) == [(0, 12), (100, None)]


def test_up_and_down_in_the_same_instant_leave_nothing_on() -> None:
    ledger = with_vm(EMPTY, replace(VM, started_at=at(1), stopped_at=at(1)))
    assert spans(ledger) == [(1, 1)]
    vm = ledger.vms["1"]
    assert on_seconds(vm, DAY, at(48)) == 60


def test_a_deletion_ends_vm_and_disk() -> None:
    ledger = with_events(with_vm(EMPTY, VM), [OperationEvent("1", PowerChange.GONE, at(5))])
    assert spans(ledger) == [(0, 5)]
    made = made_of(ledger, at(0), at(100))
    assert made.vms[0].machine_usd == pytest.approx(5.0)
    assert made.vms[0].disk_usd == pytest.approx(0.05)
    assert not made.vms[0].exists


def test_a_vm_that_has_vanished_went_when_its_limit_came_at_the_latest() -> None:
    ledger = without_vms_missing(with_vm(EMPTY, VM), [], at(200))
    assert ledger.vms["1"].gone_at == at(12)
    assert without_vms_missing(with_vm(EMPTY, VM), [VM], at(200)).vms["1"].gone_at is None


@pytest.mark.parametrize("stopped_at", [None, at(9)])
def test_a_vm_that_was_not_listed_for_a_while_is_billed_for_all_of_it(
    stopped_at: datetime | None,
) -> None:
    away = without_vms_missing(with_vm(EMPTY, VM), [], at(5))
    assert spans(away) == [(0, 5)]
    back = with_vm(away, replace(VM, stopped_at=stopped_at))
    assert back.vms["1"].gone_at is None
    assert spans(back) == [(0, 9 if stopped_at else None)]
    assert made_of(back, at(0), at(10)).vms[0].machine_usd == pytest.approx(9 if stopped_at else 10)
    assert made_of(back, at(0), at(730)).vms[0].disk_usd == pytest.approx(7.30)
    assert with_vm(back, replace(VM, stopped_at=stopped_at)) == back


def test_a_stop_that_was_seen_stays_when_the_vm_is_listed_again() -> None:
    away = without_vms_missing(with_vm(EMPTY, replace(VM, stopped_at=at(3))), [], at(5))
    back = with_vm(away, replace(VM, started_at=at(20), stopped_at=at(10)))
    assert spans(back) == [(0, 3), (20, None)]
    assert back.vms["1"].gone_at is None


def made_of(ledger: Ledger, since: datetime, until: datetime, project: str | None = None) -> Bill:
    return bill(ledger, dict.fromkeys(ledger.vms, RATE), since, until, project)


def test_the_disk_of_a_stopped_vm_costs_on() -> None:
    ledger = with_vm(EMPTY, replace(VM, stopped_at=at(10)))
    (vm,) = made_of(ledger, at(0), at(730)).vms
    assert vm.on_hours == 10
    assert vm.machine_usd == pytest.approx(10.0)
    assert vm.address_usd == pytest.approx(0.05)
    assert vm.disk_usd == pytest.approx(7.30)


def test_only_what_lies_between_the_two_moments_counts() -> None:
    ledger = with_vm(EMPTY, replace(VM, stopped_at=at(10)))
    assert made_of(ledger, at(8), at(9)).vms[0].machine_usd == pytest.approx(1.0)
    assert made_of(ledger, at(20), at(30)).vms[0].machine_usd == 0
    assert not made_of(ledger, at(-30), at(-20)).vms


def test_each_start_costs_a_minute_at_least() -> None:
    ledger = with_vm(EMPTY, replace(VM, stopped_at=at(10 / 3600)))
    assert on_seconds(ledger.vms["1"], at(0), at(1)) == 60
    assert on_seconds(ledger.vms["1"], at(0.5), at(1)) == 0


def test_an_unknown_price_is_counted_not_guessed() -> None:
    ledger = with_vm(EMPTY, VM)
    made = bill(ledger, {"1": HourlyCost(None, None)}, at(0), at(1))
    assert made.prices_missing == 2
    assert made.usd == pytest.approx(0.005)


DISK = OwnedResource(
    ResourceKind.DISK, "ann-p", "europe-west1-b", "europe-west1", id="d", project_name="p",
    size_gb=73, disk_type="pd-balanced", created_at=at(0),
)  # fmt: skip


def test_a_vms_own_disk_is_counted_with_it_and_alone_once_that_is_gone() -> None:
    ledger = with_resources(with_vm(EMPTY, VM), [DISK], at(1))
    assert not made_of(ledger, at(0), at(10)).things
    ledger = with_events(ledger, [OperationEvent("1", PowerChange.GONE, at(10))])
    kept = with_resources(ledger, [DISK], at(20))
    (disk,) = made_of(kept, at(0), at(20)).things
    assert disk.hours == 10
    assert disk.usd == pytest.approx(0.1)
    gone = with_resources(ledger, [], at(20))
    assert not made_of(gone, at(0), at(20)).things


def test_snapshots_and_addresses_cost_until_they_are_deleted() -> None:
    snapshot = OwnedResource(
        ResourceKind.SNAPSHOT, "s", "global", "europe-west1", id="s", stored_bytes=73 * 2**30,
        created_at=at(0),
    )  # fmt: skip
    address = OwnedResource(
        ResourceKind.ADDRESS, "a", "europe-west1", "europe-west1", id="a", created_at=at(0)
    )
    ledger = with_resources(EMPTY, [snapshot, address], at(1))
    ledger = with_resources(ledger, [snapshot], at(50))
    ledger = with_events(ledger, [OperationEvent("a", PowerChange.GONE, at(40))])
    shown = {one.kind: one for one in made_of(ledger, at(0), at(100)).things}
    assert shown["snapshot"].usd == pytest.approx(0.5)
    assert shown["address"].usd == pytest.approx(0.4)
    assert not shown["address"].exists


def test_another_projects_things_are_left_out_where_one_is_asked_for() -> None:
    other = replace(VM, id="2", labels={NAME_LABEL: "q"})
    ledger = with_vm(with_vm(EMPTY, VM), other)
    assert len(made_of(ledger, at(0), at(1)).vms) == 2
    assert [vm.project for vm in made_of(ledger, at(0), at(1), "q").vms] == ["q"]


def test_a_budget_buys_time_with_disk_and_address() -> None:
    assert affordable_s(1.015, RATE) == pytest.approx(3600)
    assert affordable_s(5, HourlyCost(None, 1.0)) is None


def test_a_span_knows_its_end() -> None:
    assert with_vm(EMPTY, VM).vms["1"].on == (Span(at(0)),)


def test_a_clock_that_is_ahead_makes_no_cost_negative_and_is_named() -> None:
    ahead = replace(VM, created_at=at(8), started_at=at(8))
    ledger = with_vm(Ledger({}, {}), ahead)
    rate, on = replace(RATE, has_address=False), ledger.vms["1"].on[-1]
    assert start_usd(rate, on, at(0)) == 0
    assert start_usd(rate, on, at(9)) == 1
    assert bill(ledger, {"1": RATE}, at(-24), at(0)).usd == 0
    assert "differ by 8 h" in skew_text(ledger.vms.values(), at(0))
    assert not skew_text(ledger.vms.values(), at(8) - timedelta(seconds=2))
