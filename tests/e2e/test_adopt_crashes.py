"""kill -9 of `vmctl adopt` at every call that changes something: the same command goes on."""

from __future__ import annotations

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud
from tests.harness.eventually import eventually

B = "europe-west1-b"
OURS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "crash"}
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


@pytest.mark.slow
@pytest.mark.parametrize("when", MOMENTS)
def test_an_adoption_killed_at_any_change_is_finished_by_the_same_command(
    cloud: HeldCloud, when: str
) -> None:
    def console_vm() -> None:
        cloud.clear()
        cloud.api("POST", f"zones/{B}/instances", VM)
        eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "the VM runs")

    killed = []
    for where in cloud.at_every_call(
        when, "adopt", "console-vm", changes=True, before_each=console_vm
    ):
        killed.append(where.split(", ")[1])
        cloud("adopt", "console-vm")
        (vm,) = cloud.all("instances")
        (disk,) = cloud.all("disks")
        assert vm["labels"] == {**OURS, "team": "vision"}, where
        assert disk["labels"] == OURS, where
        assert vm["disks"][0]["autoDelete"] is True, where
        keys = [i["value"] for i in vm["metadata"]["items"] if i["key"] == "ssh-keys"]
        assert len(keys[0].splitlines()) == 1, f"{where}: one key of ours"
    assert {
        "compute.instances.setMetadata", "compute.instances.setTags", "compute.disks.setLabels",
        "compute.instances.setLabels", "compute.instances.setDiskAutoDelete",
    } <= set(killed)  # fmt: skip
