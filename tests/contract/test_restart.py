"""What a stopped or killed emulator leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import commands_of, public_folder

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys, nat_ip


def saved(emulator: Emulator, project: str, collection: str, name: str = "*") -> Path:
    """The one file that holds a resource of a project."""
    (file,) = (emulator.home / "state/projects" / project / collection).glob(f"*/{name}.json")
    return file


def change(file: Path, part: str, **values: Any) -> None:
    """What a kill at another moment would have left in a state file."""
    content = json.loads(file.read_text())
    content[part] |= values
    file.write_text(json.dumps(content))


# -- one emulator is killed in the middle of much, and the next one starts --------------------


ELSEWHERE = "us-central1-a"  # where a fault is in force that no other project here meets


def disks_of(emulator: Emulator) -> set[str]:
    """The ids of the disks that lie there."""
    return {folder.name for folder in (emulator.home / "machines").iterdir()}


@dataclass
class Reborn:
    """The emulator that came up after the kill, and what was known before."""

    emulator: Emulator
    known: dict[str, Any]

    def cloud(self, project: str) -> Cloud:
        return Cloud(self.emulator, project)


@pytest.fixture(scope="module")
def reborn(key: Key) -> Iterator[Reborn]:
    """Each test looks at a project of its own."""
    emulator = Emulator(public_folder("contract")).start()
    made = Reborn(emulator, {})
    try:
        for setting in (busy, answered_and_limited, between_files, deleting):
            setting(made, key)
        emulator.stop(signal.SIGKILL)
        eventually(lambda: commands_of(emulator.home) == [])
        limit = saved(emulator, "answered", "instances")
        text = limit.read_text()
        year = text.partition('"terminationTimestamp":"')[2][:4]
        limit.write_text(
            text.replace(f'"terminationTimestamp":"{year}', '"terminationTimestamp":"2020')
        )
        saved(emulator, "half-inserted", "instances").unlink()
        change(saved(emulator, "half-inserted", "operations"), "body", status="RUNNING")
        file = made.known["half-deleted"] = saved(emulator, "half-deleted", "instances")
        change(file, "body", status="STOPPING")
        change(file, "private", deleting=True)
        emulator.start()
        yield made
    finally:
        emulator.remove()


def busy(made: Reborn, key: Key) -> None:
    made.known["busy"] = a_machine_up_and_one_down(made.cloud("busy"), key)


def between_files(made: Reborn, key: Key) -> None:
    made.cloud("half-inserted").granted()
    made.cloud("half-deleted").create()


def answered_and_limited(made: Reborn, key: Key) -> None:
    cloud = made.cloud("answered")
    request_id = "6f1c1b8e-9f3f-4a55-8f3c-0d6f3f6f0002"
    limit = {"maxRunDuration": {"seconds": "86400"}, "instanceTerminationAction": "STOP"}
    first = cloud.insert(cloud.body(scheduling=limit), requestId=request_id)
    cloud.wait(first)
    made.known["answered"] = (request_id, first["name"])
    fault = {"kind": "quota", "metric": "CPUS", "region": ELSEWHERE[:-2], "limit": 0}
    made.emulator.admin("POST", "faults", fault)


def deleting(made: Reborn, key: Key) -> None:
    cloud = made.cloud("deleting")  # the last one: it is killed while it deletes
    made.known["instance"] = cloud.create()
    where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
    made.known["deleting"] = cloud.api.instances().delete(**where).execute()


def a_machine_up_and_one_down(
    cloud: Cloud, key: Key
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """The running one with a file on its disk, and its host keys."""
    cloud.create(cloud.body("down"))
    cloud.do("stop", "down")
    up = cloud.create(cloud.body("up", metadata={"items": [key.item, GUEST_ATTRIBUTES]}))
    keys = host_keys(cloud, "up")
    assert key.run(up, keys, "echo kept > file").returncode == 0
    return up, keys


def come_back(cloud: Cloud, key: Key, before: dict[str, Any], keys: list[dict[str, str]]) -> None:
    after = eventually(lambda: cloud.get("up"))
    assert (after["status"], after["id"]) == ("RUNNING", before["id"])
    assert nat_ip(after) == nat_ip(before)
    assert after["lastStartTimestamp"] == before["lastStartTimestamp"]
    eventually(lambda: key.run(after, keys, "cat file").stdout == "kept\n")
    assert cloud.status("down") == "TERMINATED"
    assert nat_ip(cloud.get("down")) is None


def test_machines_come_back_as_after_a_host_reboot(reborn: Reborn, key: Key) -> None:
    come_back(reborn.cloud("busy"), key, *reborn.known["busy"])


def test_a_killed_delete_is_finished_by_the_next_emulator(reborn: Reborn) -> None:
    cloud, operation = reborn.cloud("deleting"), reborn.known["deleting"]
    assert "error" not in cloud.wait(operation)
    with pytest.raises(HttpError, match="was not found"):
        cloud.get()
    assert "items" not in cloud.api.disks().list(project="deleting", zone=ZONE).execute()
    assert reborn.known["instance"]["id"] == operation["targetId"]


def test_a_run_limit_that_passed_while_the_emulator_was_down_is_enforced(reborn: Reborn) -> None:
    eventually(lambda: reborn.cloud("answered").status() == "TERMINATED")


def test_faults_and_request_ids_survive(reborn: Reborn) -> None:
    cloud = reborn.cloud("answered")
    request_id, name = reborn.known["answered"]
    assert cloud.insert(cloud.body(), requestId=request_id)["name"] == name
    refused = cloud.wait(cloud.insert(cloud.body("vm2", ELSEWHERE), ELSEWHERE))
    assert "'CPUS'" in refused["error"]["errors"][0]["message"]


def test_a_kill_between_two_files_of_an_insert_leaves_no_disk(reborn: Reborn) -> None:
    cloud = reborn.cloud("half-inserted")
    where = {"project": cloud.project, "zone": ZONE}
    (operation,) = cloud.api.zoneOperations().list(**where).execute()["items"]
    assert operation["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert "items" not in cloud.api.disks().list(**where).execute()
    cloud.granted()
    cloud.do("delete")


def test_a_kill_between_two_files_of_a_delete_does_not_protect_the_instance(
    reborn: Reborn,
) -> None:
    eventually(lambda: not reborn.known["half-deleted"].exists())
    cloud = reborn.cloud("half-deleted")
    where = {"project": cloud.project, "zone": ZONE}
    eventually(lambda: "items" not in cloud.api.disks().list(**where).execute())


def test_what_is_deleted_leaves_no_disk_behind(reborn: Reborn) -> None:
    def owned() -> set[str]:
        files = (reborn.emulator.home / "state/projects").glob("*/disks/*/*.json")
        return {json.loads(file.read_text())["body"]["id"] for file in files}

    eventually(lambda: disks_of(reborn.emulator) == owned())


# -- one whose time is set ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def stepped() -> Iterator[Emulator]:
    """Stopped or killed and started again by each test."""
    emulator = Emulator(public_folder("contract"), "stepped").start()
    yield emulator
    emulator.remove()


def test_a_stopped_emulator_goes_on_where_it_was(stepped: Emulator, key: Key) -> None:
    before, keys = a_machine_up_and_one_down(Cloud(stepped, "stopped"), key)
    reached = stepped.admin("POST", "clock", {"advance_s": 1_000_000})["now"]
    stepped.stop()
    assert commands_of(stepped.home) == []
    stepped.start()
    assert stepped.admin("GET", "status")["now"] == reached, "its time never runs back"
    come_back(Cloud(stepped, "stopped"), key, before, keys)


def test_a_killed_insert_is_finished_by_the_next_emulator(stepped: Emulator) -> None:
    cloud = Cloud(stepped, "inserting")
    stepped.admin("POST", "faults", {"kind": "slow-boot", "seconds": 100, "calls": 1})
    operation = cloud.insert(cloud.body())
    eventually(lambda: stepped.admin("GET", "faults") == {"faults": []})  # it has acted
    assert cloud.status() == "STAGING"
    stepped.stop(signal.SIGKILL)

    cloud = Cloud(stepped.start(), "inserting")
    assert "error" not in cloud.wait(operation)
    assert cloud.status() == "RUNNING"
    assert nat_ip(cloud.get())


DAMAGE = (b"{", b"", b"[]", b'{"body": 1, "private": {}}')


def test_a_damaged_file_costs_one_resource_and_no_disk(stepped: Emulator) -> None:
    cloud = Cloud(stepped, "damaged")
    for name in ("hurt0", "well"):
        cloud.create(cloud.body(name))
    region = {"project": "damaged", "region": "europe-west1"}
    for number in range(len(DAMAGE)):  # an address is as good, and nothing boots for it
        cloud.api.addresses().insert(**region, body={"name": f"hurt{number}"}).execute()
    cloud.api.addresses().insert(**region, body={"name": "well"}).execute()
    stepped.stop(signal.SIGKILL)
    saved(stepped, "damaged", "instances", "hurt0").write_bytes(DAMAGE[0])
    for number, damage in enumerate(DAMAGE):
        saved(stepped, "damaged", "addresses", f"hurt{number}").write_bytes(damage)
    disks = disks_of(stepped)

    cloud = Cloud(stepped.start(), "damaged")
    assert cloud.status("well") == "RUNNING"
    assert "*.unreadable" in stepped.about["note"]
    with pytest.raises(HttpError, match="was not found"):
        cloud.get("hurt0")
    kept = cloud.api.addresses().list(**region).execute()["items"]
    assert [address["name"] for address in kept] == ["well"]
    assert disks_of(stepped) == disks
    cloud.granted(cloud.body("hurt0"))  # takes its old disk over, which nobody uses now
    assert disks_of(stepped) == disks


# -- a disk ------------------------------------------------------------------------------------


def test_damaged_faults_are_one_sentence() -> None:
    emulator = Emulator(public_folder("contract"))
    (emulator.home / "state").mkdir()
    (emulator.home / "state/faults.json").write_text("{")
    done = subprocess.run(emulator.command(), capture_output=True, text=True, timeout=30)
    emulator.remove()
    assert done.returncode == 2
    assert "faults.json is damaged: delete it" in done.stderr


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of a few megabytes of its own."""
    folder = public_folder("contract")
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m,mode=755", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        folder.rmdir()
        pytest.skip("only root can mount a small file system to fill it")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
    folder.rmdir()


def test_a_full_disk_is_said_and_nothing_hangs(small_disk: Path) -> None:
    emulator = Emulator(public_folder("contract"))
    (small_disk / "state").mkdir()
    (emulator.home / "state").symlink_to(small_disk / "state")
    try:
        fill_and_go_on(Cloud(emulator.start(), "full"), small_disk)
    finally:
        emulator.remove()


def fill_and_go_on(cloud: Cloud, small_disk: Path) -> None:
    cloud.create()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)

    calls = (
        lambda: cloud.do("stop"),
        lambda: cloud.do("delete"),
        lambda: cloud.insert(cloud.body("vm2"), retries=0),
    )
    for call in calls:
        with pytest.raises(HttpError, match=r"cannot keep its state.*No space left"):
            call()
    assert cloud.status() == "RUNNING"

    filler.unlink()
    assert "error" not in cloud.do("delete")
    assert "error" not in cloud.wait(cloud.insert(cloud.body("vm2")))
    cloud.do("delete", "vm2")
