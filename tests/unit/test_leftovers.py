"""Which of an owner's things nothing uses, and what they cost a month."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vmctl.domain.machine.instance import (
    MOVED_FROM_LABEL,
    MOVING_LABEL,
    SELFTEST_LABEL,
    Instance,
    Status,
)
from vmctl.domain.machine.leftovers import (
    SELFTEST_REST,
    OwnedResource,
    ResourceKind,
    left_by_selftests,
    orphans,
)

ZONE, REGION = "europe-west1-b", "europe-west1"
DISK = OwnedResource(ResourceKind.DISK, "vm", ZONE, REGION, size_gb=100, disk_type="pd-balanced")
SNAPSHOT = OwnedResource(
    ResourceKind.SNAPSHOT, "s", "global", REGION, stored_bytes=20 * 2**30, moved_from="7"
)
ADDRESS = OwnedResource(ResourceKind.ADDRESS, "a", REGION, REGION)
FIREWALL = OwnedResource(ResourceKind.FIREWALL, "vmctl-ssh", "global", "", tags=("vmctl",))
VM = Instance("vm", "9", ZONE, Status.TERMINATED, "n1-standard-4", tags=("vmctl",))


@pytest.mark.parametrize(
    ("one", "usd"), [(DISK, 10.0), (SNAPSHOT, 1.0), (ADDRESS, 7.3), (FIREWALL, 0.0)]
)
def test_what_nothing_uses_is_an_orphan_with_its_price(one: OwnedResource, usd: float) -> None:
    assert orphans([one], [], set()) == (one,)
    assert one.usd_per_month == usd


@pytest.mark.parametrize(
    ("one", "usd"),
    [
        (replace(DISK, disk_type="pd-ssd"), 17.0),
        (replace(DISK, disk_type="pd-standard"), 4.0),
        (replace(DISK, disk_type="hyperdisk-balanced"), None),
        (replace(DISK, region="asia-east1"), None),
        (replace(SNAPSHOT, region="asia-east1"), None),
    ],
)
def test_a_price_that_the_list_does_not_have_is_unknown(
    one: OwnedResource, usd: float | None
) -> None:
    assert one.usd_per_month == usd


def test_a_disk_in_use_or_of_a_vm_that_comes_or_goes_is_none() -> None:
    assert orphans([replace(DISK, in_use=True)], [], set()) == ()
    assert orphans([DISK], [], {"vm"}) == ()
    assert orphans([DISK], [], {"other"}) == (DISK,)


def test_an_address_in_use_is_none() -> None:
    assert orphans([replace(ADDRESS, in_use=True)], [], set()) == ()


@pytest.mark.parametrize(
    ("vm", "used"),
    [
        (replace(VM, id="7", labels={MOVING_LABEL: "1"}), True),  # it is being left
        (replace(VM, id="8", labels={MOVED_FROM_LABEL: "7"}), True),  # made from the snapshot
        (replace(VM, id="7"), False),  # the move was given up
        (replace(VM, id="8", labels={MOVED_FROM_LABEL: "6"}), False),  # another move
        (replace(VM, id="9", labels={MOVING_LABEL: "1"}), False),
    ],
)
def test_the_snapshot_of_a_move_is_used_until_the_move_is_settled(vm: Instance, used: bool) -> None:
    assert (orphans([SNAPSHOT], [vm], set()) == ()) is used


def test_a_snapshot_of_no_move_is_an_orphan_even_beside_vms_of_no_move() -> None:
    one = replace(SNAPSHOT, moved_from="")
    assert orphans([one], [VM], set()) == (one,)


def test_a_rule_is_used_by_any_vm_with_its_tag() -> None:
    assert orphans([FIREWALL], [VM], set()) == ()
    assert orphans([FIREWALL], [replace(VM, tags=("web",))], set()) == (FIREWALL,)
    assert orphans([replace(FIREWALL, tags=())], [replace(VM, tags=())], set()) == ()


def test_the_expensive_kinds_come_first() -> None:
    kinds = [one.kind for one in orphans([FIREWALL, ADDRESS, DISK, SNAPSHOT], [], set())]
    assert kinds == [
        ResourceKind.DISK,
        ResourceKind.SNAPSHOT,
        ResourceKind.ADDRESS,
        ResourceKind.FIREWALL,
    ]


NOW = datetime(2026, 11, 1, tzinfo=UTC)
LEFT = replace(
    VM, labels={SELFTEST_LABEL: "1"}, stopped_at=NOW - 2 * SELFTEST_REST, disk_gb=10, id="12"
)


def test_a_self_test_s_vm_that_is_off_is_left_with_the_price_of_its_disk() -> None:
    (one,) = left_by_selftests([LEFT], NOW)
    assert (one.kind, one.name, one.place, one.id) == (ResourceKind.SELFTEST, "vm", ZONE, "12")
    assert one.usd_per_month == 1.0
    assert orphans([one], [LEFT], set()) == (one,)
    assert orphans([one], [LEFT], {"vm"}) == (), "it is going already"


@pytest.mark.parametrize(
    "vm",
    [
        replace(LEFT, labels={}),  # somebody's own
        replace(LEFT, status=Status.RUNNING),  # Google deletes it at its run limit
        replace(LEFT, stopped_at=NOW - timedelta(minutes=1)),  # a self-test may be at work
        replace(LEFT, stopped_at=None),
    ],
)
def test_other_vms_are_not_left_by_a_self_test(vm: Instance) -> None:
    assert left_by_selftests([vm], NOW) == ()
