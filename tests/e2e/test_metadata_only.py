"""An emulator without machines: `vmctl` makes, lists and deletes VMs, and waits for none."""

from __future__ import annotations

import json

from tests.harness.cloud import LocalCloud
from tests.harness.laptop import Laptop


class WithoutMachines(LocalCloud):
    def start(self) -> None:
        self("emulator", "start", "--metadata-only")


def test_up_says_that_nothing_answers_ssh_and_the_rest_works() -> None:
    with WithoutMachines.opened("e2e") as cloud:
        about = json.loads(cloud("emulator", "status", "--json").stdout)
        assert about["mode"] == "metadata-only"
        for command in ("up", "exec"):
            words = ["--yes"] if command == "up" else ["true"]
            refused = cloud(command, *words, code=4).stderr
            assert "is metadata only" in refused and "--metadata-only" in refused, refused
        (listed,) = json.loads(cloud("ls", "--json").stdout)["machines"]
        assert (listed["status"], listed["name"]) == ("RUNNING", cloud.machines()[0]["name"])
        assert cloud("down", "--delete", "--yes").returncode == 0
        assert cloud.machines() == []


def test_instances_that_have_machines_keep_them() -> None:
    with LocalCloud.opened("e2e") as cloud:
        laptop = Laptop(cloud.laptop.home, cloud.laptop.emulator_home)
        words = ("emulator", "start", "--metadata-only")
        refused = laptop(*words, cwd=cloud.folder, code=4).stderr
        assert "runs with machines" in refused and "vmctl emulator stop" in refused
        cloud.fault(kind="slow-boot", seconds=86_400)
        cloud.api("POST", "zones/europe-west1-b/instances", VM)
        laptop("emulator", "stop", cwd=cloud.folder)
        refused = laptop(*words, cwd=cloud.folder, code=1).stderr
        assert "the instances in this home have machines" in refused


IMAGE = "projects/debian-cloud/global/images/family/debian-12"
VM = {
    "name": "vm1",
    "machineType": "zones/europe-west1-b/machineTypes/e2-small",
    "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
    "networkInterfaces": [{}],
}
