"""`up` and `down` that are interrupted, killed, or find that somebody was faster."""

from __future__ import annotations

import signal

from tests.harness.attempts import B, C
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually


def begun(sky: LocalCloud) -> bool:
    """Whether a creation has found its zone."""
    return bool([vm for vm in sky.machines() if vm["status"] != "PROVISIONING"])


def test_an_up_that_was_interrupted_is_taken_over_or_undone(sky: LocalCloud) -> None:
    sky.fault(kind="slow-boot", seconds=2, calls=1)
    first = sky.laptop.start("up", cwd=sky.folder)
    eventually(lambda: begun(sky), what="the creation has begun")
    first.send_signal(signal.SIGINT)
    told = first.communicate()[1].decode()
    assert first.returncode == 130
    assert "vmctl up" in told
    assert "vmctl down --delete" in told
    sky("down", "--delete", "--yes")
    assert sky.machines() == [], "what was being created is gone"

    sky.fault(kind="slow-boot", seconds=2, calls=1)
    # the second zone: an `up` that forgot the first would try europe-west1-b
    sky.fault(kind="stockout", zone=B, plain=True, calls=1)
    second = sky.laptop.start("up", cwd=sky.folder)
    eventually(lambda: begun(sky), what="the creation has begun in the second zone")
    second.kill()
    second.communicate()
    (left,) = sky.machines()
    assert left["zone"] == C
    assert sky.laptop.json("up", cwd=sky.folder)["instance_id"] == left["id"]
    assert [vm["id"] for vm in sky.machines()] == [left["id"]]


def test_two_at_once_make_one_machine(sky: LocalCloud) -> None:
    both = [sky.laptop.start("up", cwd=sky.folder) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(sky.machines()) == 1


def test_a_strangers_machine_of_the_same_name_is_left_alone(sky: LocalCloud) -> None:
    disk = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    body = {
        "name": "tester-vm",
        "machineType": f"zones/{B}/machineTypes/n1-standard-1",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    made = sky.api("POST", f"zones/{B}/instances", body)
    eventually(lambda: sky.machines()[0]["status"] == "RUNNING", what="it is there")
    told = sky("up", code=4).stderr
    assert "vmctl did not make" in told
    assert "--name" in told
    assert [vm["id"] for vm in sky.machines()] == [made["targetId"]]
