"""kill -9 of `up` and `down` at each API call they make: typed again, all is right.

The calls are counted by the embedded Compute Engine, which holds the n-th one before it is looked
at or after it acted, until the client is dead: enumerated until the command comes through unkilled.
What the cloud holds is other only after a call that changes something: every run kills there, and
kills what is typed again one change further. The exhaustive one kills at all calls, before and
after, for what the laptop may hold, and lets what is typed again come through each time. There two
commands are killed in turn, because what one has made is what the other is given.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud, Killed
from tests.harness.laptop import BASE, project

LABELS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "vm"}


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


def ups(cloud: HeldCloud, killed: Killed) -> Iterator[str]:
    """Nothing is there, `up` is killed and typed again: one machine that answers."""
    for at in killed("up", before_each=cloud.clear):
        cloud("up")
        check_one_machine(cloud, "RUNNING", at)
        cloud("exec", "true")
        yield at


def deletes(cloud: HeldCloud, killed: Killed) -> Iterator[str]:
    """A machine is up, its deletion is killed and typed again: nothing is left."""
    words = ("down", "--delete", "--yes")
    for at in killed(*words, before_each=lambda: is_up(cloud) or cloud("up")):
        cloud(*words)
        check_nothing(cloud, at)
        yield at


def downs(cloud: HeldCloud, killed: Killed) -> Iterator[str]:
    """A machine is up, `down` is killed and typed again: it is off."""
    for at in killed("down", before_each=lambda: is_up(cloud) or cloud("up")):
        cloud("down")
        check_one_machine(cloud, "TERMINATED", at)
        yield at


def starts(cloud: HeldCloud, killed: Killed) -> Iterator[str]:
    """A machine is off, `up` with another limit is killed and typed again: it is up."""
    hours = 12

    def off_and_another_limit_wanted() -> None:
        nonlocal hours
        if not cloud.all("instances"):
            cloud("up")
        if is_up(cloud):
            cloud("down")
        hours = 3 if hours == 2 else 2
        project(cloud.folder, f"{BASE}max_hours = {hours}\n")

    for at in killed("up", before_each=off_and_another_limit_wanted):
        cloud("up")
        check_one_machine(cloud, "RUNNING", at)
        assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] == hours, at
        yield at
    project(cloud.folder, BASE)


def in_turn(*seen: Iterator[str]) -> list[list[str]]:
    """What each saw; every one goes on as long as it can."""
    together = list(itertools.zip_longest(*seen))
    return [[at for at in one if at is not None] for one in zip(*together, strict=True)]


def all_named(seen: list[str], *methods: str) -> bool:
    """Whether every one of these calls was killed."""
    return all(any(method in at for at in seen) for method in methods)


@pytest.mark.slow
def test_up_down_and_delete_killed_after_each_of_their_changes(cloud: HeldCloud) -> None:
    """Killed, typed again, killed a change further: each time it goes on where it was."""
    up = list(cloud.step_by_step("up"))
    assert all_named(up, "before", "instances.insert"), up
    check_one_machine(cloud, "RUNNING", "up")
    cloud("exec", "true")

    down = list(cloud.step_by_step("down"))
    assert all_named(down, "before", "instances.stop"), down
    check_one_machine(cloud, "TERMINATED", "down")

    project(cloud.folder, f"{BASE}max_hours = 2\n")
    start = list(cloud.step_by_step("up"))
    project(cloud.folder, BASE)
    assert all_named(start, "before", "instances.start", "instances.setScheduling"), start
    check_one_machine(cloud, "RUNNING", "start")
    assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] == 2

    delete = list(cloud.step_by_step("down", "--delete", "--yes"))
    assert all_named(delete, "before", "instances.delete"), delete
    check_nothing(cloud, "delete")


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_up_and_delete_killed_at_every_call(cloud: HeldCloud, when: str) -> None:
    killed = functools.partial(cloud.at_every_call, when)
    up, delete = in_turn(ups(cloud, killed), deletes(cloud, killed))
    asked = ("instances.aggregatedList", "zoneOperations.")
    assert all_named(up, *asked, "instances.insert"), up
    assert all_named(delete, *asked, "instances.delete"), delete


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_start_and_down_killed_at_every_call(cloud: HeldCloud, when: str) -> None:
    killed = functools.partial(cloud.at_every_call, when)
    start, down = in_turn(starts(cloud, killed), downs(cloud, killed))
    asked = ("instances.aggregatedList", "zoneOperations.")
    assert all_named(start, *asked, "instances.start", "instances.setScheduling"), start
    assert all_named(down, *asked, "instances.stop"), down
