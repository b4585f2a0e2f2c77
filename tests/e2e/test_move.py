"""A stopped VM whose zone is dry: `up --move` brings its disk up in another zone."""

from __future__ import annotations

import functools
import json
import os
import pty
from collections.abc import Iterator

import pytest

from tests.harness.cloud import COLLECTIONS
from tests.harness.crash_points import MOMENTS, HeldCloud, Killed
from tests.harness.eventually import eventually

LABELS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "vm"}
ZONES = ["europe-west1-b", "europe-west1-c", "europe-west1-d"]
MOVE = ("up", "--move")
# all that a move does, in this order
STEPS = [
    f"compute.{method}"
    for method in (
        "instances.start",  # in vain
        "instances.setLabels",  # "it is moving" on the old one
        "disks.createSnapshot",
        "instances.insert",
        "instances.delete",
        "snapshots.delete",
        "instances.setLabels",  # the new one is as any other
    )
]


@pytest.fixture
def cloud(one_cloud: HeldCloud) -> Iterator[HeldCloud]:
    """The VM that one test leaves whole is the next one's, wherever it is by then."""
    yield one_cloud
    one_cloud.ask("DELETE", "/emulator/v1/hold")
    one_cloud.no_faults()


def stopped_in_a_dry_zone(cloud: HeldCloud) -> str:
    """A VM with something on its disk, off, in a zone that has no more; which zone that is."""
    cloud.no_faults()
    if not is_whole(cloud):
        cloud.clear()
        cloud("up", "--zone", ZONES[0])
        cloud("exec", "--", "sh", "-c", "echo precious > ~/kept")
    (vm,) = cloud.all("instances")
    if vm["status"] == "RUNNING":
        cloud("down")
    cloud.fault(kind="stockout", zone=zone_of(vm))
    return zone_of(vm)


def is_whole(cloud: HeldCloud) -> bool:
    """Whether there is one VM with its disk, and no trace of a move."""
    vms, disks = cloud.all("instances"), cloud.all("disks")
    labels = [item["labels"] for item in (*vms, *disks)]
    return (
        labels == [LABELS, LABELS]
        and cloud.all("snapshots") == []
        and vms[0]["status"] in ("RUNNING", "TERMINATED")
    )


def others(zone: str) -> list[str]:
    """The zones to which a VM goes from here, in turn."""
    return [other for other in ZONES if other != zone]


def zone_of(item: dict[str, str]) -> str:
    return item["zone"].rpartition("/")[2]


def check_moved(cloud: HeldCloud, old: str, at: str = "") -> None:
    """One VM, elsewhere, with its one disk and what was on it; no snapshot, no label left."""
    (vm,) = cloud.all("instances")
    (disk,) = cloud.all("disks")
    assert vm["status"] == "RUNNING", at
    assert zone_of(vm) == zone_of(disk) != old, at
    assert vm["labels"] == disk["labels"] == LABELS, at
    assert disk["users"] == [vm["selfLink"]], at
    assert cloud.all("snapshots") == cloud.all("addresses") == [], at
    assert cloud("exec", "--", "sh", "-c", "cat ~/kept").stdout == "precious\n", at


def check_nothing(cloud: HeldCloud) -> None:
    for collection in COLLECTIONS:
        assert cloud.all(collection) == []


def test_without_a_terminal_it_is_named_and_not_done(cloud: HeldCloud) -> None:
    old = stopped_in_a_dry_zone(cloud)
    told = cloud("up", code=6).stderr
    assert "vmctl up --move" in told
    (vm,) = cloud.all("instances")
    assert (zone_of(vm), vm["labels"]) == (old, LABELS)
    assert cloud.all("snapshots") == []


def test_on_a_terminal_it_is_offered(cloud: HeldCloud) -> None:
    old = stopped_in_a_dry_zone(cloud)
    code, told = offered(cloud, answer=b"n\n")
    assert code == 6, told
    assert others(old)[0] in told
    assert [zone_of(vm) for vm in cloud.all("instances")] == [old]
    assert cloud.all("snapshots") == []


def offered(cloud: HeldCloud, answer: bytes) -> tuple[int, str]:
    """The exit code of `up` on a terminal where a move is offered and answered, and all it says."""
    here, there = pty.openpty()
    client = cloud.laptop.start("up", cwd=cloud.folder, stdin=there, stderr=there)
    os.close(there)
    told = read_until(here, b"Start it?")
    os.write(here, b"y\n")
    told += read_until(here, b"Move it?")
    os.write(here, answer)
    told += read_until(here, b"no such words, to the end")
    client.communicate()
    os.close(here)
    return client.returncode, told.decode()


def read_until(terminal: int, words: bytes) -> bytes:
    """What a program writes to its terminal until these words, or until it ends."""
    said = b""
    while words not in said:
        try:
            said += os.read(terminal, 4096)
        except OSError:  # nobody has the other end open any more
            return said
    return said


def test_when_all_zones_are_dry_all_is_as_before_and_with_capacity_it_starts_there(
    cloud: HeldCloud,
) -> None:
    old = stopped_in_a_dry_zone(cloud)
    cloud.fault(kind="stockout")
    code, told = offered(cloud, answer=b"y\n")
    assert code == 6, told
    assert others(old)[1] in told, "the last one that was asked"
    (vm,) = cloud.all("instances")
    (_,) = cloud.all("disks")
    assert (zone_of(vm), vm["status"], vm["labels"]) == (old, "TERMINATED", LABELS)
    assert cloud.all("snapshots") == []
    cloud.no_faults()
    assert cloud.laptop.json(*MOVE, cwd=cloud.folder)["action"] == "started"
    assert [zone_of(vm) for vm in cloud.all("instances")] == [old]
    assert cloud("exec", "--", "sh", "-c", "cat ~/kept").stdout == "precious\n"


@pytest.mark.slow
def test_a_machine_that_does_not_answer_costs_no_old_disk(cloud: HeldCloud) -> None:
    """The old VM and its disk stay until the new one has let us in."""
    old = stopped_in_a_dry_zone(cloud)
    cloud.fault(kind="http", method="compute.instances.getGuestAttributes", status=403, calls=1)
    cloud.fault(kind="http", method="compute.instances.getSerialPortOutput", status=403)
    cloud(*MOVE, code=None)
    zones = {zone_of(vm): vm["status"] for vm in cloud.all("instances")}
    if old in zones:  # it was not let in
        assert zones[old] == "TERMINATED"
        assert len(cloud.all("disks")) == 2
    cloud.no_faults()
    cloud("up")
    check_moved(cloud, old)


def path_in(cloud: HeldCloud, zone: str) -> str:
    (found,) = [vm["name"] for vm in cloud.all("instances") if zone_of(vm) == zone]
    return f"zones/{zone}/instances/{found}"


OWN = {"team": "vision", "startup-script": "#!/bin/sh\ntouch /var/tmp/mine\n"}


def metadata(vm: dict[str, dict[str, list[dict[str, str]]]]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in vm["metadata"]["items"]}


def test_it_goes_on_in_the_next_zone_that_is_not_dry_with_its_disk_and_the_users_metadata(
    cloud: HeldCloud,
) -> None:
    old = stopped_in_a_dry_zone(cloud)
    dry, wet = others(old)
    cloud.fault(kind="stockout", zone=dry, plain=True)
    (vm,) = cloud.all("instances")
    before = metadata(vm)
    settings = json.loads(before["vmctl-watchdog"]) | {"idle_s": 2400.0}  # of an earlier `up`
    given = before | OWN | {"vmctl-watchdog": json.dumps(settings)}
    items = [{"key": key, "value": value} for key, value in given.items()]
    body = {"fingerprint": vm["metadata"]["fingerprint"], "items": items}
    cloud.api("POST", f"{path_in(cloud, old)}/setMetadata", body)

    result = cloud.laptop.json(*MOVE, cwd=cloud.folder)
    assert (result["action"], result["zone"]) == ("moved", wet)
    check_moved(cloud, old)
    now = metadata(cloud.all("instances")[0])
    assert {key: now.get(key) for key in OWN} == OWN, "a user's own goes along"
    assert set(now) == {*before, *OWN}
    assert now["ssh-keys"].count("ssh-ed25519") == 1
    assert json.loads(now["vmctl-watchdog"])["idle_s"] != 2400, "the settings of this `up`"
    assert cloud("exec", "ls", "/var/tmp/mine").stdout == "/var/tmp/mine\n"


# -- moves that were cut off ---------------------------------------------------------------------


def cut_off_after(cloud: HeldCloud, method: str) -> str:
    """A move killed right after its first call of this method had acted; where the VM was."""
    old = stopped_in_a_dry_zone(cloud)
    assert cloud.killed_at(1, "after", *MOVE, method=method) == method
    return old


@pytest.mark.slow
def test_a_move_that_is_killed_after_each_of_its_steps_ends_well(cloud: HeldCloud) -> None:
    """Killed, typed again, killed a step further: each time it goes on where it was."""
    old = stopped_in_a_dry_zone(cloud)
    for method in STEPS:
        assert cloud.killed_at(1, "after", *MOVE, method=method) == method
        if method == "compute.disks.createSnapshot":
            write_something_newer(cloud, old)
            assert cloud.killed_at(1, "after", *MOVE, method=method) == method, "taking a new one"
            assert cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)["orphans"] == []
            cloud("gc", "--yes")
            assert len(cloud.all("snapshots")) == 1
        if method == "compute.instances.insert":
            assert "move" in cloud("status").stdout
    assert cloud.laptop.json("up", cwd=cloud.folder)["action"] == "running"
    check_moved(cloud, old)
    assert "move" not in cloud("status").stdout
    assert cloud("exec", "--", "sh", "-c", "cat ~/newer").stdout == "newer\n"


def write_something_newer(cloud: HeldCloud, old: str) -> None:
    """Capacity came back, somebody started it from the console, worked on it and stopped it."""
    cloud.no_faults()
    where = path_in(cloud, old)
    cloud.api("POST", f"{where}/start")
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "RUNNING again")
    cloud("exec", "--", "sh", "-c", "echo newer > ~/newer")
    cloud.api("POST", f"{where}/stop")
    eventually(lambda: cloud.all("instances")[0]["status"] == "TERMINATED", "off again")
    cloud.fault(kind="stockout", zone=old)


@pytest.mark.slow
def test_a_vm_that_was_started_again_where_it_was_is_not_moved(cloud: HeldCloud) -> None:
    """Capacity came back and somebody started it from the console: its disk is the newest."""
    old = cut_off_after(cloud, "compute.disks.createSnapshot")
    cloud.no_faults()
    cloud.api("POST", f"{path_in(cloud, old)}/start")
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "RUNNING again")
    cloud("up")
    (vm,) = cloud.all("instances")
    assert (zone_of(vm), vm["labels"]) == (old, LABELS)
    assert cloud.all("snapshots") == []


@pytest.mark.slow
def test_an_old_vm_that_was_started_after_the_move_goes_only_with_down_delete(
    cloud: HeldCloud,
) -> None:
    old = cut_off_after(cloud, "compute.instances.insert")
    cloud.no_faults()
    cloud.api("POST", f"{path_in(cloud, old)}/start")
    eventually(
        lambda: all(vm["status"] == "RUNNING" for vm in cloud.all("instances")), "both RUNNING"
    )
    told = cloud("up", code=4).stderr
    assert "both may contain data you need" in told
    assert len(cloud.all("instances")) == len(cloud.all("disks")) == 2
    cloud("down", "--delete", "--yes")
    check_nothing(cloud)


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", STEPS[1:4])
def test_delete_in_the_middle_of_a_move_leaves_nothing(cloud: HeldCloud, method: str) -> None:
    cut_off_after(cloud, method)
    cloud("down", "--delete", "--yes")
    check_nothing(cloud)


# -- killed at each call -------------------------------------------------------------------------


def moves(cloud: HeldCloud, killed: Killed) -> Iterator[str]:
    """The VM that has moved is stopped and moved on: the zone that it is in has run dry, too."""
    old = ""

    def scene() -> None:
        nonlocal old
        old = stopped_in_a_dry_zone(cloud)

    for at in killed(*MOVE, before_each=scene):
        cloud(*MOVE)
        check_moved(cloud, old, at)
        yield at


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_move_killed_at_every_change(cloud: HeldCloud) -> None:
    seen = [at.split(", ")[1] for at in moves(cloud, cloud.at_every_change)]
    assert seen[1:] == STEPS


@pytest.mark.exhaustive
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("when", MOMENTS)
def test_move_killed_at_every_call(cloud: HeldCloud, when: str) -> None:
    seen = " ".join(moves(cloud, functools.partial(cloud.at_every_call, when)))
    for method in ("instances.aggregatedList", "disks.createSnapshot", "instances.insert"):
        # how often an operation is asked for varies: what comes after it may have lost its turn
        if method not in seen:
            old = stopped_in_a_dry_zone(cloud)
            wanted = f"compute.{method}"
            assert cloud.killed_at(1, when, *MOVE, method=wanted) == wanted
            cloud(*MOVE)
            check_moved(cloud, old, method)
