"""`up` and `down` that are interrupted, killed, or find that somebody was faster."""

from __future__ import annotations

import signal

from tests.harness.attempts import ZONE_B, ZONE_C
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually


def begun(cloud: LocalCloud) -> bool:
    """Whether a creation has found its zone."""
    return bool([vm for vm in cloud.machines() if vm["status"] != "PROVISIONING"])


def test_an_up_that_was_interrupted_is_taken_over_or_undone(cloud: LocalCloud) -> None:
    cloud.fault(kind="slow-boot", seconds=2, calls=1)
    first = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(lambda: begun(cloud), what="the creation has begun")
    first.send_signal(signal.SIGINT)
    told = first.communicate()[1].decode()
    assert first.returncode == 130
    assert "vmctl up" in told
    assert "vmctl down --delete" in told
    cloud("down", "--delete", "--yes")
    assert cloud.machines() == [], "what was being created is gone"

    cloud.fault(kind="slow-boot", seconds=2, calls=1)
    # the second zone: an `up` that forgot the first would try europe-west1-b
    cloud.fault(kind="stockout", zone=ZONE_B, plain=True, calls=1)
    second = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(lambda: begun(cloud), what="the creation has begun in the second zone")
    second.kill()
    second.communicate()
    (left,) = cloud.machines()
    assert left["zone"] == ZONE_C
    assert cloud.laptop.json("up", cwd=cloud.folder)["instance_id"] == left["id"]
    assert [vm["id"] for vm in cloud.machines()] == [left["id"]]


def test_two_at_once_make_one_machine(cloud: LocalCloud) -> None:
    both = [cloud.laptop.start("up", cwd=cloud.folder) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(cloud.machines()) == 1


def test_another_owners_machine_of_the_same_name_is_left_alone(cloud: LocalCloud) -> None:
    disk = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    body = {
        "name": "tester-vm",
        "machineType": f"zones/{ZONE_B}/machineTypes/n1-standard-1",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    made = cloud.api("POST", f"zones/{ZONE_B}/instances", body)
    eventually(lambda: cloud.machines()[0]["status"] == "RUNNING", what="it is there")
    told = cloud("up", code=4).stderr
    assert "vmctl did not create" in told
    assert "--name" in told
    assert [vm["id"] for vm in cloud.machines()] == [made["targetId"]]
