"""A stopped VM whose zone is dry: `up --move` brings its disk up in another zone."""

from __future__ import annotations

import os
import pty

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud
from tests.harness.eventually import eventually

LABELS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "crash"}
OLD = "europe-west1-b"
MOVE = ("up", "--move")


def stopped_in_a_dry_zone(cloud: HeldCloud) -> None:
    """A VM with something on its disk, off, in a zone that has no more."""
    cloud.clear()
    cloud("up", "--zone", OLD)
    cloud("exec", "--", "sh", "-c", "echo precious > ~/kept")
    cloud("down")
    cloud.fault(kind="stockout", zone=OLD)


def zone_of(item: dict[str, str]) -> str:
    return item["zone"].rpartition("/")[2]


def check_moved(cloud: HeldCloud, at: str = "", old: str = OLD) -> None:
    """One VM, elsewhere, with its one disk and what was on it; no snapshot, no label left."""
    (vm,) = cloud.all("instances")
    (disk,) = cloud.all("disks")
    assert vm["status"] == "RUNNING", at
    assert zone_of(vm) == zone_of(disk) != old, at
    assert vm["labels"] == disk["labels"] == LABELS, at
    assert disk["users"] == [vm["selfLink"]], at
    assert cloud.all("snapshots") == cloud.all("addresses") == [], at
    assert cloud("exec", "--", "sh", "-c", "cat ~/kept").stdout == "precious\n", at


def test_a_vm_in_a_dry_zone_goes_on_in_another_with_its_disk(cloud: HeldCloud) -> None:
    stopped_in_a_dry_zone(cloud)
    result = cloud.laptop.json(*MOVE, cwd=cloud.folder)
    assert result["action"] == "moved"
    assert result["zone"] == "europe-west1-c"
    check_moved(cloud)
    assert cloud.laptop.json("up", cwd=cloud.folder)["action"] == "running"


def test_without_a_terminal_it_is_named_and_not_done(cloud: HeldCloud) -> None:
    stopped_in_a_dry_zone(cloud)
    told = cloud("up", code=6).stderr
    assert "vmctl up --move" in told
    (vm,) = cloud.all("instances")
    assert (zone_of(vm), vm["labels"]) == (OLD, LABELS)
    assert cloud.all("snapshots") == []


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 6)])
def test_on_a_terminal_it_is_offered(cloud: HeldCloud, answer: bytes, code: int) -> None:
    stopped_in_a_dry_zone(cloud)
    here, there = pty.openpty()
    client = cloud.laptop.start("up", cwd=cloud.folder, stdin=there, stderr=there)
    os.close(there)
    told = read_until(here, b"Start it?")
    os.write(here, b"y\n")
    told += read_until(here, b"Move it?")
    assert b"europe-west1-c" in told
    os.write(here, answer)
    told += read_until(here, b"no such words, to the end")
    client.communicate()
    os.close(here)
    assert client.returncode == code, told.decode()
    zones = [zone_of(vm) for vm in cloud.all("instances")]
    assert zones == (["europe-west1-c"] if code == 0 else [OLD])


def read_until(terminal: int, words: bytes) -> bytes:
    """What a program writes to its terminal until these words, or until it ends."""
    said = b""
    while words not in said:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # nobody has the other end open any more
            return said
    return said


def test_with_capacity_where_it_is_it_starts_there(cloud: HeldCloud) -> None:
    cloud("up", "--zone", OLD)
    cloud("down")
    assert cloud.laptop.json(*MOVE, cwd=cloud.folder)["action"] == "started"
    assert [zone_of(vm) for vm in cloud.all("instances")] == [OLD]


def test_the_next_zone_is_tried_when_one_is_dry_too(cloud: HeldCloud) -> None:
    stopped_in_a_dry_zone(cloud)
    cloud.fault(kind="stockout", zone="europe-west1-c", plain=True)
    cloud(*MOVE)
    check_moved(cloud)
    assert [zone_of(vm) for vm in cloud.all("instances")] == ["europe-west1-d"]


def test_when_all_zones_are_dry_all_is_as_before(cloud: HeldCloud) -> None:
    stopped_in_a_dry_zone(cloud)
    cloud.fault(kind="stockout")
    assert "europe-west1-d" in cloud(*MOVE, code=6).stderr
    (vm,) = cloud.all("instances")
    (_,) = cloud.all("disks")
    assert (zone_of(vm), vm["status"], vm["labels"]) == (OLD, "TERMINATED", LABELS)
    assert cloud.all("snapshots") == []
    cloud.no_faults()
    assert cloud.laptop.json("up", cwd=cloud.folder)["action"] == "started"
    assert cloud("exec", "--", "sh", "-c", "cat ~/kept").stdout == "precious\n"


def test_a_machine_that_does_not_answer_costs_no_old_disk(cloud: HeldCloud) -> None:
    """The old VM and its disk stay until the new one has let us in."""
    stopped_in_a_dry_zone(cloud)
    cloud.fault(kind="http", method="compute.instances.getGuestAttributes", status=403, calls=1)
    cloud.fault(kind="http", method="compute.instances.getSerialPortOutput", status=403)
    cloud(*MOVE, code=None)
    zones = {zone_of(vm): vm["status"] for vm in cloud.all("instances")}
    if OLD in zones:  # it was not let in
        assert zones[OLD] == "TERMINATED"
        assert len(cloud.all("disks")) == 2
    cloud.no_faults()
    cloud("up")
    check_moved(cloud)


def cut_off_after(cloud: HeldCloud, method: str) -> None:
    """A move killed right after its first call of this method had acted."""
    stopped_in_a_dry_zone(cloud)
    assert cloud.killed_at(1, "after", *MOVE, method=method) == method


def the_old_one(cloud: HeldCloud) -> str:
    (found,) = [vm["name"] for vm in cloud.all("instances") if zone_of(vm) == OLD]
    return f"zones/{OLD}/instances/{found}"


def test_status_says_that_a_move_is_not_finished(cloud: HeldCloud) -> None:
    cut_off_after(cloud, "compute.instances.insert")
    assert "move" in cloud("status").stdout
    cloud("up")
    check_moved(cloud)
    assert "move" not in cloud("status").stdout


@pytest.mark.parametrize(
    "method", ["instances.setLabels", "disks.createSnapshot", "instances.insert"]
)
def test_delete_in_the_middle_of_a_move_leaves_nothing(cloud: HeldCloud, method: str) -> None:
    cut_off_after(cloud, f"compute.{method}")
    cloud("down", "--delete", "--yes")
    for collection in ("instances", "disks", "snapshots", "addresses"):
        assert cloud.all(collection) == []


def test_the_snapshot_of_an_unfinished_move_is_no_orphan(cloud: HeldCloud) -> None:
    cut_off_after(cloud, "compute.disks.createSnapshot")
    assert cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)["orphans"] == []
    cloud("gc", "--yes")
    assert len(cloud.all("snapshots")) == 1


def test_a_vm_that_was_started_again_where_it_was_is_not_moved(cloud: HeldCloud) -> None:
    """Capacity came back and somebody started it from the console: its disk is the newest."""
    cut_off_after(cloud, "compute.disks.createSnapshot")
    cloud.no_faults()
    cloud.api("POST", f"{the_old_one(cloud)}/start")
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "RUNNING again")
    cloud("up")
    (vm,) = cloud.all("instances")
    assert (zone_of(vm), vm["labels"]) == (OLD, LABELS)
    assert cloud.all("snapshots") == []


def test_a_snapshot_from_before_the_last_stop_is_taken_anew(cloud: HeldCloud) -> None:
    cut_off_after(cloud, "compute.disks.createSnapshot")
    cloud.no_faults()
    where = the_old_one(cloud)
    cloud.api("POST", f"{where}/start")
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "RUNNING again")
    cloud("exec", "--", "sh", "-c", "echo newer > ~/kept")
    cloud.api("POST", f"{where}/stop")
    eventually(lambda: cloud.all("instances")[0]["status"] == "TERMINATED", "off again")
    cloud.fault(kind="stockout", zone=OLD)
    cloud("up")
    assert [zone_of(vm) for vm in cloud.all("instances")] == ["europe-west1-c"]
    assert cloud("exec", "--", "sh", "-c", "cat ~/kept").stdout == "newer\n"
    assert cloud.all("snapshots") == []


def test_an_old_vm_that_was_started_after_the_move_is_never_deleted(cloud: HeldCloud) -> None:
    cut_off_after(cloud, "compute.instances.insert")
    cloud.no_faults()
    cloud.api("POST", f"{the_old_one(cloud)}/start")
    eventually(
        lambda: all(vm["status"] == "RUNNING" for vm in cloud.all("instances")), "both RUNNING"
    )
    told = cloud("up", code=4).stderr
    assert "both may hold what you need" in told
    assert len(cloud.all("instances")) == len(cloud.all("disks")) == 2


def move_is_right_after_a_kill(cloud: HeldCloud, when: str, **counted: bool) -> list[str]:
    """The VM that has moved is stopped and moved on: the zone that it is in has run dry, too."""
    stopped_in_a_dry_zone(cloud)
    dry = [OLD]

    def scene() -> None:
        (vm,) = cloud.all("instances")
        if vm["status"] == "RUNNING":
            cloud("down")
            cloud.no_faults()
            dry[:] = [zone_of(vm)]
            cloud.fault(kind="stockout", zone=dry[0])

    seen = []
    for at in cloud.at_every_call(when, *MOVE, before_each=scene, **counted):
        cloud(*MOVE)
        check_moved(cloud, at, dry[0])
        seen.append(at)
    return seen


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("when", MOMENTS)
def test_move_killed_at_every_change(cloud: HeldCloud, when: str) -> None:
    seen = " ".join(move_is_right_after_a_kill(cloud, when, changes=True))
    for method in (
        "instances.start",
        "instances.setLabels",
        "disks.createSnapshot",
        "instances.insert",
        "instances.delete",
        "snapshots.delete",
    ):
        assert method in seen


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_move_killed_at_every_call(cloud: HeldCloud, when: str) -> None:
    seen = " ".join(move_is_right_after_a_kill(cloud, when))
    for method in ("instances.aggregatedList", "disks.createSnapshot", "instances.insert"):
        # how often an operation is asked for varies: what comes after it may have lost its turn
        if method not in seen:
            stopped_in_a_dry_zone(cloud)
            wanted = f"compute.{method}"
            assert cloud.killed_at(1, when, *MOVE, method=wanted) == wanted
            cloud(*MOVE)
            check_moved(cloud, method)
