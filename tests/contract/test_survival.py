"""What a stopped or killed emulator leaves behind, and what the next one makes of it."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import commands_of, public_folder

from .conftest import Cloud, Key, nat_ip
from .test_instances import GUEST_ATTRIBUTES, host_keys

PROJECT = "p1"


def saved(emulator: Emulator, collection: str, name: str = "*") -> Path:
    """The one file that holds a resource of the project."""
    (file,) = (emulator.home / "state/projects" / PROJECT / collection).glob(f"*/{name}.json")
    return file


def change(file: Path, part: str, **values: Any) -> None:
    """What a kill at another moment would have left in a state file."""
    content = json.loads(file.read_text())
    content[part] |= values
    file.write_text(json.dumps(content))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_machines_come_back_as_after_a_host_reboot(
    own_emulator: Callable[..., Emulator], key: Key, number: int
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    script = {"key": "startup-script", "value": "#!/bin/sh\necho booted >> /home/tester/boots\n"}
    body = cloud.body("up", metadata={"items": [key.item, GUEST_ATTRIBUTES, script]})
    before = cloud.create(body)
    cloud.create(cloud.body("down"))
    cloud.do("stop", "down")
    keys = host_keys(cloud, "up")
    key.run(before, keys, "echo kept > file")
    emulator.stop(number)
    eventually(lambda: commands_of(emulator.home) == [])

    cloud = Cloud(emulator.start(), PROJECT)
    after = cloud.get("up")
    assert (after["status"], after["id"]) == ("RUNNING", before["id"])
    assert nat_ip(after) == nat_ip(before)
    assert after["lastStartTimestamp"] == before["lastStartTimestamp"]
    eventually(lambda: key.run(after, keys, "cat file").stdout == "kept\n")
    assert cloud.status("down") == "TERMINATED"
    assert nat_ip(cloud.get("down")) is None


def test_a_killed_insert_is_finished_by_the_next_emulator(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator("stepped")
    cloud = Cloud(emulator, PROJECT)
    emulator.admin("POST", "faults", {"kind": "slow-boot", "seconds": 100, "calls": 1})
    operation = cloud.insert(cloud.body())
    eventually(lambda: emulator.admin("GET", "faults") == {"faults": []})  # it has acted
    assert cloud.status() == "STAGING"
    emulator.stop(signal.SIGKILL)

    cloud = Cloud(emulator.start(), PROJECT)
    assert "error" not in cloud.wait(operation)
    assert cloud.status() == "RUNNING"
    assert nat_ip(cloud.get())


def test_a_killed_delete_is_finished_by_the_next_emulator(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    instance = cloud.create()
    where = {"project": PROJECT, "zone": "europe-west1-b"}
    operation = cloud.api.instances().delete(**where, instance="vm1").execute()
    emulator.stop(signal.SIGKILL)

    cloud = Cloud(emulator.start(), PROJECT)
    assert "error" not in cloud.wait(operation)
    with pytest.raises(HttpError, match="was not found"):
        cloud.get()
    assert "items" not in cloud.api.disks().list(**where).execute()
    eventually(lambda: not list((emulator.home / "machines").iterdir()))
    assert instance["id"] == operation["targetId"]


def test_a_run_limit_that_passed_while_the_emulator_was_down_is_enforced(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator("scaled:1000")
    cloud = Cloud(emulator, PROJECT)
    limit = {"maxRunDuration": {"seconds": "86400"}, "instanceTerminationAction": "STOP"}
    cloud.create(cloud.body(scheduling=limit))
    emulator.stop(signal.SIGKILL)
    # A scaled clock goes on from the computer's time: make the limit one that has passed.
    (file,) = (emulator.home / "state").glob("projects/*/instances/*/vm1.json")
    text = file.read_text()
    year = text.partition('"terminationTimestamp":"')[2][:4]
    file.write_text(text.replace(f'"terminationTimestamp":"{year}', '"terminationTimestamp":"2020'))

    cloud = Cloud(emulator.start(), PROJECT)
    eventually(lambda: cloud.status() == "TERMINATED")


def test_the_stepped_clock_never_runs_back(own_emulator: Callable[..., Emulator]) -> None:
    emulator = own_emulator("stepped")
    reached = emulator.admin("POST", "clock", {"advance_s": 1_000_000})["now"]
    emulator.stop()
    emulator.start()
    assert emulator.admin("GET", "status")["now"] == reached


def test_faults_and_request_ids_survive(own_emulator: Callable[..., Emulator]) -> None:
    emulator = own_emulator()
    request_id = "6f1c1b8e-9f3f-4a55-8f3c-0d6f3f6f0002"
    cloud = Cloud(emulator, PROJECT)
    first = cloud.insert(cloud.body(), requestId=request_id)
    cloud.wait(first)
    emulator.admin("POST", "faults", {"kind": "quota", "metric": "CPUS_ALL_REGIONS", "limit": 0})
    emulator.stop(signal.SIGKILL)

    cloud = Cloud(emulator.start(), PROJECT)
    assert cloud.insert(cloud.body(), requestId=request_id)["name"] == first["name"]
    (error,) = cloud.wait(cloud.insert(cloud.body("vm2")))["error"]["errors"]
    assert "CPUS_ALL_REGIONS" in error["message"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"body": 1, "private": {}}'])
def test_a_damaged_file_costs_one_resource_and_no_disk(
    own_emulator: Callable[..., Emulator], damage: bytes
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    cloud.create(cloud.body("hurt"))
    cloud.create(cloud.body("well"))
    emulator.stop(signal.SIGKILL)
    saved(emulator, "instances", "hurt").write_bytes(damage)
    disks = {folder.name for folder in (emulator.home / "machines").iterdir()}

    cloud = Cloud(emulator.start(), PROJECT)
    assert cloud.status("well") == "RUNNING"
    assert "*.unreadable" in emulator.about["note"]
    with pytest.raises(HttpError, match="was not found"):
        cloud.get("hurt")
    assert {folder.name for folder in (emulator.home / "machines").iterdir()} == disks
    cloud.create(cloud.body("hurt"))  # takes its old disk over, which nobody uses now
    assert {folder.name for folder in (emulator.home / "machines").iterdir()} == disks


def test_damaged_faults_are_one_sentence(own_emulator: Callable[..., Emulator]) -> None:
    emulator = own_emulator()
    emulator.stop()
    (emulator.home / "state/faults.json").write_text("{")
    done = subprocess.run(emulator.command(), capture_output=True, text=True, timeout=30)
    assert done.returncode == 2
    assert "faults.json is damaged: delete it" in done.stderr


def test_a_kill_between_two_files_of_an_insert_leaves_no_disk(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    cloud.create()
    emulator.stop(signal.SIGKILL)
    saved(emulator, "instances").unlink()
    change(saved(emulator, "operations"), "body", status="RUNNING")

    cloud = Cloud(emulator.start(), PROJECT)
    where = {"project": PROJECT, "zone": "europe-west1-b"}
    (operation,) = cloud.api.zoneOperations().list(**where).execute()["items"]
    assert operation["error"]["errors"][0]["code"] == "INTERNAL_ERROR"
    assert "items" not in cloud.api.disks().list(**where).execute()
    cloud.create()


def test_a_kill_between_two_files_of_a_delete_does_not_protect_the_instance(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    cloud.create()
    emulator.stop(signal.SIGKILL)
    file = saved(emulator, "instances")
    change(file, "body", status="STOPPING")
    change(file, "private", deleting=True)

    emulator.start()
    eventually(lambda: not file.exists())
    eventually(lambda: not list((emulator.home / "machines").iterdir()))


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


def test_a_full_disk_is_said_and_nothing_hangs(
    own_emulator: Callable[..., Emulator], small_disk: Path
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, PROJECT)
    cloud.create()
    emulator.stop()
    shutil.copytree(emulator.home / "state", small_disk / "state")
    shutil.rmtree(emulator.home / "state")
    (emulator.home / "state").symlink_to(small_disk / "state")
    cloud = Cloud(emulator.start(), PROJECT)
    eventually(lambda: cloud.status() == "RUNNING")
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as stream:
        while True:
            stream.write(b"x" * 4096)

    calls = (
        lambda: cloud.do("stop"),
        lambda: cloud.do("delete"),
        lambda: cloud.insert(cloud.body("vm2")),
    )
    for call in calls:
        with pytest.raises(HttpError, match=r"cannot keep its state.*No space left"):
            call()
    assert cloud.status() == "RUNNING"

    filler.unlink()
    assert "error" not in cloud.do("delete")
    assert "error" not in cloud.wait(cloud.insert(cloud.body("vm2")))
    cloud.do("delete", "vm2")
