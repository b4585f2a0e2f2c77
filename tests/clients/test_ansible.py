"""Ansible's google.cloud collection: what a task asks for a second time must be no change.

A module compares what it asked for with what it then finds, so each resource is made, asked for
again, changed and removed. The modules run as they do on a managed host, each a process of its own
with its arguments in a file; one playbook and the inventory run in Ansible itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import IMAGE, REGION, ZONE, Site

MODULES = "ansible_collections.google.cloud.plugins.modules"
GOOGLE = "https://www.googleapis.com/compute/v1/"


@dataclass
class Ansible:
    """The modules, with the emulator's token and project in every call."""

    site: Site
    folder: Path

    @property
    def environ(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "GCP_"))}
        return {
            **kept,
            "PYTHONPATH": str(Path(__file__).with_name("redirect")),
            "VMCTL_EMULATOR_URL": self.site.url,
            "REQUESTS_CA_BUNDLE": self.site.certificate,
            "GCP_AUTH_KIND": "accesstoken",
            "GCP_ACCESS_TOKEN": self.site.token,
            "GCP_PROJECT": self.site.project,
            "ANSIBLE_HOME": str(self.folder),
            "ANSIBLE_LOCALHOST_WARNING": "0",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "0",
        }

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        program = Path(sys.executable).with_name(words[0])
        return subprocess.run(
            [str(program), *words[1:]],
            cwd=self.folder, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip

    def __call__(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        """What `google.cloud.gcp_compute_NAME` says of a task, a refusal too."""
        file = self.folder / "arguments.json"
        file.write_text(json.dumps({"ANSIBLE_MODULE_ARGS": arguments}))
        done = self.run("python", "-m", f"{MODULES}.gcp_compute_{name}", str(file))
        assert done.stdout, done.stderr
        said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        assert (done.returncode == 0) == (not said.get("failed", False)), done
        return said

    def ok(self, name: str, /, **arguments: Any) -> dict[str, Any]:
        said = self(name, **arguments)
        assert not said.get("failed"), said
        return said

    def changes(self, name: str, /, **arguments: Any) -> bool:
        return bool(self.ok(name, **arguments)["changed"])

    def refused(self, name: str, /, **arguments: Any) -> str:
        said = self(name, **arguments)
        assert said["failed"], said
        return str(said["msg"])

    def names(self, kind: str, /, *filters: str, **where: Any) -> list[str]:
        """The names that an info module finds."""
        found = self.ok(f"{kind}_info", filters=list(filters), **where)["resources"]
        return [one["name"] for one in found]


@pytest.fixture(scope="module")
def ansible(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ansible]:
    yield Ansible(site, tmp_path_factory.mktemp("ansible"))


def instance(name: str, **more: Any) -> dict[str, Any]:
    """A task's words for a small machine."""
    boot = {"auto_delete": True, "boot": True, "initialize_params": {"source_image": IMAGE}}
    network = {
        "network": {"selfLink": "global/networks/default"},
        "access_configs": [{"name": "External NAT", "type": "ONE_TO_ONE_NAT"}],
    }
    return {
        "name": name,
        "zone": ZONE,
        "machine_type": "e2-small",
        "disks": [boot],
        "network_interfaces": [network],
        "labels": {"owner": "me"},
        **more,
    }


@pytest.fixture(scope="module")
def machine(ansible: Ansible) -> str:
    """A machine that runs."""
    assert ansible.changes("instance", **instance("vm1", metadata={"note": "hello"}))
    return "vm1"


@pytest.fixture(scope="module")
def disk(ansible: Ansible) -> dict[str, Any]:
    """The words for a disk that is there."""
    wanted = {"name": "d1", "zone": ZONE, "size_gb": 12, "labels": {"team": "a"}}
    made = ansible.ok("disk", **wanted)
    assert (made["changed"], made["status"], made["sizeGb"]) == (True, "READY", "12")
    return wanted


# -- what is offered --


def test_images(ansible: Ansible) -> None:
    found = ansible.ok("image_info", project="debian-cloud", filters=["family = debian-12"])
    assert [image["family"] for image in found["resources"]] == ["debian-12"]


def test_networks(ansible: Ansible) -> None:
    assert ansible.names("network") == ["default"]
    assert ansible.names("network", "name = other") == []
    assert ansible.names("subnetwork", region=REGION) == ["default"]


# -- firewall rules --

RULE = {
    "name": "web",
    "allowed": [{"ip_protocol": "tcp", "ports": ["80", "8000-9000"]}],
    "source_ranges": ["10.0.0.0/8"],
    "priority": 900,
}


def test_a_rule_is_made(ansible: Ansible) -> None:
    made = ansible.ok("firewall", **RULE)
    assert (made["changed"], made["priority"]) == (True, 900)


def test_a_rule_that_is_there_is_no_change(ansible: Ansible) -> None:
    assert not ansible.changes("firewall", **RULE)


def test_a_rule_is_changed(ansible: Ansible) -> None:
    assert ansible.changes("firewall", **RULE | {"source_ranges": ["10.1.0.0/16"]})
    found = ansible.ok("firewall_info", filters=["name = web"])["resources"][0]
    assert found["sourceRanges"] == ["10.1.0.0/16"]


def test_rules_by_two_filters(ansible: Ansible) -> None:
    assert ansible.names("firewall", "name:default-*", "name:*ssh") == ["default-allow-ssh"]


@pytest.mark.parametrize("wrong", [{"source_ranges": ["banana"]}, {"priority": 99999}])
def test_a_wrong_rule_is_refused(ansible: Ansible, wrong: dict[str, Any]) -> None:
    assert "Invalid value for field" in ansible.refused("firewall", **RULE | {"name": "p"} | wrong)
    assert "p" not in ansible.names("firewall")


def test_a_rule_is_removed_once(ansible: Ansible) -> None:
    assert ansible.changes("firewall", name="web", state="absent")
    assert not ansible.changes("firewall", name="web", state="absent")


# -- addresses --


def test_an_address_is_reserved_once(ansible: Ansible) -> None:
    wanted = {"name": "a1", "region": REGION, "address": "203.0.113.9"}
    made = ansible.ok("address", **wanted)
    assert (made["changed"], made["address"], made["status"]) == (True, "203.0.113.9", "RESERVED")
    assert not ansible.changes("address", **wanted)


def test_an_address_is_found(ansible: Ansible) -> None:
    assert ansible.names("address", 'name eq "a.*"', region=REGION) == ["a1"]


def test_an_address_is_released_once(ansible: Ansible) -> None:
    gone = {"name": "a1", "region": REGION, "state": "absent"}
    assert ansible.changes("address", **gone)
    assert not ansible.changes("address", **gone)


# -- disks and snapshots --


def test_a_disk_that_is_there_is_no_change(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert not ansible.changes("disk", **disk)


def test_labels_of_a_disk_change(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.changes("disk", **disk | {"labels": {"team": "b"}})
    assert not ansible.changes("disk", **disk | {"labels": {"team": "b"}})


def test_a_disk_grows(ansible: Ansible) -> None:
    assert ansible.changes("disk", name="small", zone=ZONE, size_gb=10)
    assert ansible.changes("disk", name="small", zone=ZONE, size_gb=20)
    assert not ansible.changes("disk", name="small", zone=ZONE, size_gb=20)


def test_disks_by_a_filter(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.names("disk", "name = d1", zone=ZONE) == ["d1"]
    assert ansible.names("disk", "name = d1", "sizeGb > 100", zone=ZONE) == []


def test_a_disk_in_no_zone_is_refused(ansible: Ansible) -> None:
    said = ansible.refused("disk", name="d2", zone="mars-a", size_gb=10)
    assert "mars-a" in said


SNAPSHOT = {"name": "s1", "source_disk": {"name": "d1"}, "zone": ZONE, "labels": {"team": "a"}}


def test_a_snapshot_is_made(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.changes("snapshot", **SNAPSHOT)
    found = ansible.ok("snapshot_info", filters=["name = s1"])["resources"][0]
    assert (found["status"], found["diskSizeGb"]) == ("READY", "12")


def test_labels_of_a_snapshot_change(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.changes("snapshot", **SNAPSHOT | {"labels": {"team": "b"}})
    found = ansible.ok("snapshot_info", filters=["labels.team = b"])["resources"]
    assert [one["name"] for one in found] == ["s1"]


def test_a_disk_of_a_snapshot(ansible: Ansible, site: Site, disk: dict[str, Any]) -> None:
    link = f"{GOOGLE}projects/{site.project}/global/snapshots/s1"
    assert ansible.changes("disk", name="copy", zone=ZONE, source_snapshot={"selfLink": link})
    found = ansible.ok("disk_info", zone=ZONE, filters=["name = copy"])["resources"][0]
    assert (found["sizeGb"], found["sourceSnapshot"]) == ("12", link)


def test_an_image_is_made_and_removed_once(
    ansible: Ansible, site: Site, disk: dict[str, Any]
) -> None:
    link = f"{GOOGLE}projects/{site.project}/zones/{ZONE}/disks/d1"
    wanted = {"name": "i1", "family": "mine", "source_disk": {"selfLink": link}}
    assert ansible.changes("image", **wanted)
    assert not ansible.changes("image", **wanted)
    assert ansible.names("image", "family = mine") == ["i1"]
    assert ansible.changes("image", name="i1", state="absent")
    assert not ansible.changes("image", name="i1", state="absent")


def test_a_template_is_made_and_removed_once(ansible: Ansible) -> None:
    disk = {"auto_delete": True, "boot": True, "initialize_params": {"source_image": IMAGE}}
    network = {"network": {"selfLink": "global/networks/default"}}
    properties = {"machine_type": "e2-small", "disks": [disk], "network_interfaces": [network]}
    wanted = {"name": "t1", "properties": properties}
    assert ansible.changes("instance_template", **wanted)
    assert ansible.names("instance_template") == ["t1"]
    assert ansible.changes("instance_template", name="t1", state="absent")
    assert not ansible.changes("instance_template", name="t1", state="absent")


def test_a_snapshot_is_removed_once(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.changes("snapshot", **SNAPSHOT, state="absent")
    assert not ansible.changes("snapshot", **SNAPSHOT, state="absent")


def test_a_disk_is_removed_once(ansible: Ansible, disk: dict[str, Any]) -> None:
    assert ansible.changes("disk", name="copy", zone=ZONE, state="absent")
    assert not ansible.changes("disk", name="copy", zone=ZONE, state="absent")


# -- instances --


def test_a_machine_that_is_there_is_found(ansible: Ansible, machine: str) -> None:
    found = ansible.ok("instance_info", zone=ZONE, filters=["labels.owner = me"])["resources"]
    assert [(one["name"], one["status"]) for one in found] == [("vm1", "RUNNING")]
    assert found[0]["metadata"]["items"] == [{"key": "note", "value": "hello"}]


def test_labels_of_a_machine_change(ansible: Ansible, machine: str) -> None:
    assert ansible.changes("instance", **instance("vm1", labels={"owner": "you"}))
    assert ansible.names("instance", "labels.owner = you", zone=ZONE) == ["vm1"]
    again = {"name": "vm1", "zone": ZONE, "labels": {"owner": "you"}, "machine_type": "e2-small"}
    assert not ansible.changes("instance", **again)


def test_a_machine_is_protected(ansible: Ansible, machine: str) -> None:
    wanted = instance("vm1", labels={"owner": "you"})
    ansible.ok("instance", **wanted, deletion_protection=True)
    assert "protect" in ansible.refused("instance", name="vm1", zone=ZONE, state="absent")
    ansible.ok("instance", **wanted, deletion_protection=False)


@pytest.mark.parametrize("status", ["TERMINATED", "RUNNING"])
def test_a_machine_is_stopped_and_started(ansible: Ansible, machine: str, status: str) -> None:
    ansible.ok("instance", **instance("vm1", labels={"owner": "you"}), status=status)
    assert ansible.site.status_of("vm1") == status


def test_a_machine_changes_while_it_is_off(ansible: Ansible, machine: str) -> None:
    words = {"name": "vm1", "zone": ZONE, "labels": {"owner": "you"}}
    for status, kind in ("TERMINATED", "e2-small"), ("TERMINATED", "e2-medium"):
        ansible.ok("instance", **words, machine_type=kind, status=status)
    assert not ansible.changes("instance", **words, machine_type="e2-medium", status="TERMINATED")
    ansible.ok("instance", **words, machine_type="e2-medium", status="RUNNING")


def test_a_machine_without_live_migration(ansible: Ansible, site: Site) -> None:
    gpu = {"accelerator_count": 1, "accelerator_type": f"zones/{ZONE}/acceleratorTypes/nvidia-l4"}
    said = ansible.refused(
        "instance", **instance("gpu", machine_type="g2-standard-4", guest_accelerators=[gpu])
    )
    assert "do not support live migration" in said


def test_a_stockout_fails_the_task(ansible: Ansible, site: Site) -> None:
    site.cloud.fault(kind="stockout", zone=ZONE, calls=1)
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in ansible.refused("instance", **instance("nowhere"))
    assert "nowhere" not in ansible.names("instance", zone=ZONE)


def test_the_inventory_groups_by_label(ansible: Ansible, machine: str) -> None:
    (ansible.folder / "here.gcp.yml").write_text(
        f"plugin: google.cloud.gcp_compute\nprojects: [{ansible.site.project}]\n"
        f"auth_kind: accesstoken\naccess_token: {ansible.site.token}\n"
        "filters: [labels.owner = you]\nhostnames: [name]\n"
        "keyed_groups: [{key: labels.owner, prefix: owner}]\n"
    )
    done = ansible.run("ansible-inventory", "-i", "here.gcp.yml", "--list")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["owner_you"]["hosts"] == ["vm1"]
    assert found["_meta"]["hostvars"]["vm1"]["status"] == {"__ansible_unsafe": "RUNNING"}


def test_a_playbook_that_is_played_twice_changes_once(ansible: Ansible) -> None:
    tasks = [
        {"google.cloud.gcp_compute_address": {"name": "a2", "region": REGION}},
        {"google.cloud.gcp_compute_firewall": RULE | {"name": "web2"}},
    ]
    play = [{"hosts": "localhost", "gather_facts": False, "tasks": tasks}]
    (ansible.folder / "play.yml").write_text(json.dumps(play))
    for changed in (2, 0):
        done = ansible.run("ansible-playbook", "play.yml")
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"changed={changed} " in done.stdout, done.stdout


def test_a_machine_is_removed_once(ansible: Ansible, machine: str) -> None:
    assert ansible.changes("instance", name="vm1", zone=ZONE, state="absent")
    assert not ansible.changes("instance", name="vm1", zone=ZONE, state="absent")
    assert ansible.names("disk", "name = vm1", zone=ZONE) == []


# -- refusals --


def test_a_method_that_is_not_there_is_refused_by_name(ansible: Ansible) -> None:
    assert "compute.routers.list" in ansible.refused("router_info", region=REGION)
