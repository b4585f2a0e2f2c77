"""kill -9 of `up` and `down` at each API call they make: typed again, all is right.

The calls are counted by the embedded Compute Engine, which holds the n-th one before it is looked
at or after it acted, until the client is dead: enumerated until the command comes through unkilled.
"""

from __future__ import annotations

import pytest

from tests.e2e.holding import MOMENTS, Rehearsal

LABELS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "crash"}


def check_one_machine(cloud: Rehearsal, status: str, at: str) -> None:
    """One VM and its one disk, ours by their labels, and nothing beside them."""
    (vm,) = cloud.all("instances")
    (disk,) = cloud.all("disks")
    assert vm["status"] == status, at
    assert vm["labels"] == LABELS, at
    assert disk["labels"] == LABELS, at
    assert disk["users"] == [vm["selfLink"]], at
    assert cloud.all("snapshots") == cloud.all("addresses") == [], at


def check_nothing(cloud: Rehearsal, at: str) -> None:
    for collection in ("instances", "disks", "snapshots", "addresses"):
        assert cloud.all(collection) == [], at


def up_is_right_after_a_kill(cloud: Rehearsal, when: str, changes: bool) -> list[str]:
    seen = []
    for at in cloud.at_every_call(when, "up", changes=changes, before_each=cloud.clear):
        cloud("up")
        check_one_machine(cloud, "RUNNING", at)
        cloud("exec", "true")
        seen.append(at)
    return seen


def down_is_right_after_a_kill(cloud: Rehearsal, when: str, changes: bool) -> list[str]:
    seen = []
    for at in cloud.at_every_call(
        when, "down", changes=changes, before_each=lambda: cloud("up") and None
    ):
        cloud("down")
        check_one_machine(cloud, "TERMINATED", at)
        seen.append(at)
    return seen


def delete_is_right_after_a_kill(cloud: Rehearsal, when: str, changes: bool) -> list[str]:
    words = ("down", "--delete", "--yes")
    seen = []
    for at in cloud.at_every_call(
        when, *words, changes=changes, before_each=lambda: cloud("up") and None
    ):
        cloud(*words)
        check_nothing(cloud, at)
        seen.append(at)
    return seen


@pytest.mark.parametrize("when", MOMENTS)
def test_up_killed_at_every_change(cloud: Rehearsal, when: str) -> None:
    seen = up_is_right_after_a_kill(cloud, when, changes=True)
    assert any("instances.insert" in at for at in seen)


@pytest.mark.parametrize("when", MOMENTS)
def test_up_of_a_stopped_machine_killed_at_every_change(cloud: Rehearsal, when: str) -> None:
    words = ("up", "--max-hours", "3")

    def stopped() -> None:
        cloud("down")
        cloud("up", "--max-hours", "2")
        cloud("down")

    seen = []
    for at in cloud.at_every_call(when, *words, changes=True, before_each=stopped):
        cloud(*words)
        check_one_machine(cloud, "RUNNING", at)
        assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] in (2, 3)
        seen.append(at)
    assert any("instances.start" in at for at in seen)
    assert any("instances.setScheduling" in at for at in seen)


@pytest.mark.parametrize("when", MOMENTS)
def test_down_killed_at_every_change(cloud: Rehearsal, when: str) -> None:
    seen = down_is_right_after_a_kill(cloud, when, changes=True)
    assert any("instances.stop" in at for at in seen)


@pytest.mark.parametrize("when", MOMENTS)
def test_down_delete_killed_at_every_change(cloud: Rehearsal, when: str) -> None:
    seen = delete_is_right_after_a_kill(cloud, when, changes=True)
    assert any("instances.delete" in at for at in seen)


def all_named(seen: list[str], *methods: str) -> bool:
    """Whether every one of these calls was killed; how often an operation is asked for varies."""
    return all(any(method in at for at in seen) for method in methods)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_up_killed_at_every_call(cloud: Rehearsal, when: str) -> None:
    seen = up_is_right_after_a_kill(cloud, when, changes=False)
    assert all_named(seen, "instances.aggregatedList", "instances.insert", "zoneOperations."), seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_down_killed_at_every_call(cloud: Rehearsal, when: str) -> None:
    seen = down_is_right_after_a_kill(cloud, when, changes=False)
    assert all_named(seen, "instances.aggregatedList", "instances.stop", "zoneOperations."), seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_down_delete_killed_at_every_call(cloud: Rehearsal, when: str) -> None:
    seen = delete_is_right_after_a_kill(cloud, when, changes=False)
    assert all_named(seen, "instances.aggregatedList", "instances.delete", "zoneOperations."), seen
