"""kill -9 of `up` and `down` at each API call they make: typed again, all is right.

The calls are counted by the embedded Compute Engine, which holds the n-th one before it is looked
at or after it acted, until the client is dead: enumerated until the command comes through unkilled.
Two commands are killed in turn, because what one has made is what the other is given.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud

LABELS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "crash"}


def check_one_machine(cloud: HeldCloud, status: str, at: str) -> None:
    """One VM and its one disk, ours by their labels, and nothing beside them."""
    (vm,) = cloud.all("instances")
    (disk,) = cloud.all("disks")
    assert vm["status"] == status, at
    assert vm["labels"] == LABELS, at
    assert disk["labels"] == LABELS, at
    assert disk["users"] == [vm["selfLink"]], at
    assert cloud.all("snapshots") == cloud.all("addresses") == [], at


def check_nothing(cloud: HeldCloud, at: str) -> None:
    for collection in ("instances", "disks", "snapshots", "addresses"):
        assert cloud.all(collection) == [], at


def is_up(cloud: HeldCloud) -> bool:
    return any(vm["status"] == "RUNNING" for vm in cloud.all("instances"))


def ups(cloud: HeldCloud, when: str, **counted: bool) -> Iterator[str]:
    """Nothing is there, `up` is killed and typed again: one machine that answers."""
    for at in cloud.at_every_call(when, "up", before_each=cloud.clear, **counted):
        cloud("up")
        check_one_machine(cloud, "RUNNING", at)
        cloud("exec", "true")
        yield at


def deletes(cloud: HeldCloud, when: str, **counted: bool) -> Iterator[str]:
    """A machine is up, its deletion is killed and typed again: nothing is left."""
    words = ("down", "--delete", "--yes")
    for at in cloud.at_every_call(
        when, *words, before_each=lambda: is_up(cloud) or cloud("up"), **counted
    ):
        cloud(*words)
        check_nothing(cloud, at)
        yield at


def downs(cloud: HeldCloud, when: str, **counted: bool) -> Iterator[str]:
    """A machine is up, `down` is killed and typed again: it is off."""
    for at in cloud.at_every_call(
        when, "down", before_each=lambda: is_up(cloud) or cloud("up"), **counted
    ):
        cloud("down")
        check_one_machine(cloud, "TERMINATED", at)
        yield at


def starts(cloud: HeldCloud, when: str, **counted: bool) -> Iterator[str]:
    """A machine is off, `up` with another limit is killed and typed again: it is up."""
    cloud("up", "--max-hours", "2")
    for call in itertools.count(1):
        if is_up(cloud):
            cloud("down")
        words = ("up", "--max-hours", "3" if call % 2 else "2")
        method = cloud.killed_at(call, when, *words, **counted)
        if method is None:
            return
        at = f"{when} call {call}, {method}"
        cloud(*words)
        check_one_machine(cloud, "RUNNING", at)
        assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] in (2, 3)
        yield at


def in_turn(*seen: Iterator[str]) -> list[list[str]]:
    """What each saw; every one goes on as long as it can."""
    together = list(itertools.zip_longest(*seen))
    return [[at for at in one if at is not None] for one in zip(*together, strict=True)]


def all_named(seen: list[str], *methods: str) -> bool:
    """Whether every one of these calls was killed."""
    return all(any(method in at for at in seen) for method in methods)


@pytest.mark.parametrize("when", MOMENTS)
def test_up_and_delete_killed_at_every_change(cloud: HeldCloud, when: str) -> None:
    up, delete = in_turn(ups(cloud, when, changes=True), deletes(cloud, when, changes=True))
    assert all_named(up, "instances.insert")
    assert all_named(delete, "instances.delete")


@pytest.mark.parametrize("when", MOMENTS)
def test_start_and_down_killed_at_every_change(cloud: HeldCloud, when: str) -> None:
    start, down = in_turn(starts(cloud, when, changes=True), downs(cloud, when, changes=True))
    assert all_named(start, "instances.start", "instances.setScheduling")
    assert all_named(down, "instances.stop")


# A client that waits asks the same question again and again. The first time is killed here; how
# far the operation has come meanwhile is what a kill at any moment (test_crashes, test_bad_days)
# varies, and the exhaustive run kills every repetition.
REPEATS = [False, pytest.param(True, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3600)])]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("repeats", REPEATS)
def test_up_and_delete_killed_at_every_call(cloud: HeldCloud, when: str, repeats: bool) -> None:
    up, delete = in_turn(
        ups(cloud, when, repeats=repeats), deletes(cloud, when, repeats=repeats)
    )  # fmt: skip
    asked = ("instances.aggregatedList", "zoneOperations.")
    assert all_named(up, *asked, "instances.insert"), up
    assert all_named(delete, *asked, "instances.delete"), delete


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", MOMENTS)
@pytest.mark.parametrize("repeats", REPEATS)
def test_down_killed_at_every_call(cloud: HeldCloud, when: str, repeats: bool) -> None:
    seen = list(downs(cloud, when, repeats=repeats))
    assert all_named(seen, "instances.aggregatedList", "instances.stop", "zoneOperations."), seen
