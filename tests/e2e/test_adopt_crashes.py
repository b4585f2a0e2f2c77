"""kill -9 of `vmctl adopt` at every call that changes something: the same command goes on."""

from __future__ import annotations

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud
from tests.harness.eventually import eventually

B = "europe-west1-b"
OURS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "vm"}
VM = {
    "name": "console-vm",
    "machineType": f"zones/{B}/machineTypes/e2-small",
    "disks": [
        {
            "boot": True,
            "initializeParams": {
                "sourceImage": "projects/debian-cloud/global/images/family/debian-12"
            },
        }
    ],
    "networkInterfaces": [
        {"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
    ],
    "labels": {"team": "vision"},
}


CHANGES = [
    f"compute.{method}"
    for method in (
        "instances.setMetadata",
        "instances.setTags",
        "disks.setLabels",
        "instances.setDiskAutoDelete",
        "instances.setLabels",  # the last one: now it is ours
    )
]


def console_vm(cloud: HeldCloud) -> None:
    cloud.clear()
    cloud.api("POST", f"zones/{B}/instances", VM)
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "the VM runs")


def check_adopted(cloud: HeldCloud, at: str = "") -> None:
    (vm,) = cloud.all("instances")
    (disk,) = cloud.all("disks")
    assert vm["labels"] == {**OURS, "team": "vision"}, at
    assert disk["labels"] == OURS, at
    assert vm["disks"][0]["autoDelete"] is True, at
    keys = [i["value"] for i in vm["metadata"]["items"] if i["key"] == "ssh-keys"]
    assert len(keys[0].splitlines()) == 1, f"{at}: one key of ours"


def test_an_adoption_killed_after_each_change_goes_on_where_it_was(cloud: HeldCloud) -> None:
    console_vm(cloud)
    seen = []
    while method := cloud.killed_at(1, "after", "adopt", "console-vm", changes=True):
        seen.append(method)
        assert len(seen) < 20, seen
    check_adopted(cloud)
    assert set(CHANGES) <= set(seen)


@pytest.mark.exhaustive
@pytest.mark.parametrize("when", MOMENTS)
def test_an_adoption_killed_at_any_change_is_finished_by_the_same_command(
    cloud: HeldCloud, when: str
) -> None:
    killed = []
    for at in cloud.at_every_call(
        when, "adopt", "console-vm", changes=True, before_each=lambda: console_vm(cloud)
    ):
        killed.append(at.split(", ")[1])
        cloud("adopt", "console-vm")
        check_adopted(cloud, at)
    assert set(CHANGES) <= set(killed)
