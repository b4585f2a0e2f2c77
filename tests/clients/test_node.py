"""@google-cloud/compute, Google's client for node, which speaks to the API in REST."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .conftest import IMAGE, REGION, ZONE, Site

ROOT = Path(__file__).parents[2]
# The client says each HTTP status in gRPC's numbers.
STATUS = {3: 400, 5: 404, 9: 412, 10: 409}


class Refused(Exception):
    """What the client threw: Google's words, and the HTTP status."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['type']}: {error['message']}")
        self.code = STATUS.get(error.get("code", 0))


@dataclass
class Node:
    """The client in its process; `node.Instances.get(...)` is a call of it."""

    process: subprocess.Popen[str]
    where: dict[str, str]

    def __call__(self, client: str, method: str, how: str = "once", **request: Any) -> Any:
        """Call a method; `project` is in every request."""
        line = {"client": client, "method": method, "how": how}
        asked = {"project": self.where["project"], **request}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({**line, "request": asked}) + "\n")
        self.process.stdin.flush()
        said = json.loads(self.process.stdout.readline())
        if "error" in said:
            raise Refused(said["error"])
        return said["value"]

    def zone(self, client: str, method: str, how: str = "once", **request: Any) -> Any:
        return self(client, method, how, zone=ZONE, **request)

    def get(self, name: str = "vm1") -> Any:
        return self.zone("Instances", "get", instance=name)


@pytest.fixture(scope="module")
def node(site: Site) -> Iterator[Node]:
    environ = {
        **os.environ,
        "EMULATOR": f"{site.host}:{site.port}",
        "TOKEN": site.token,
        "NODE_EXTRA_CA_CERTS": site.certificate,
        "NODE_MODULES": str(ROOT / ".venv-clients" / "node"),
    }
    program = ["node", str(Path(__file__).with_name("node_client.mjs"))]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ
    ) as process:
        yield Node(process, {"project": site.project})
        assert process.stdin is not None
        process.stdin.close()


def body(name: str, **more: Any) -> dict[str, Any]:
    """A small machine."""
    return {
        "name": name,
        "machineType": f"zones/{ZONE}/machineTypes/e2-small",
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
        "networkInterfaces": [
            {"network": "global/networks/default", "accessConfigs": [{"name": "External NAT"}]}
        ],
        **more,
    }


@pytest.fixture(scope="module")
def machine(node: Node) -> str:
    """A machine that runs."""
    made = body("vm1", labels={"owner": "me"}, tags={"items": ["web"]})
    ended = node.zone("Instances", "insert", "wait", instanceResource=made)
    assert ended["progress"] == 100
    return "vm1"


@pytest.fixture(scope="module")
def disks(node: Node) -> list[str]:
    names = ["d0", "d1", "d2"]
    for name in names:
        labels = {"team": "a"} if name == "d0" else {}
        made = {"name": name, "sizeGb": "10", "labels": labels}
        node.zone("Disks", "insert", "wait", diskResource=made)
    return names


# -- what is offered --


def test_zones(node: Node) -> None:
    found = node("Zones", "list", filter=f'name eq "{REGION}-.*"')
    assert {zone["name"] for zone in found} == {f"{REGION}-{letter}" for letter in "bcd"}
    assert node.zone("Zones", "get")["status"] == "UP"


def test_regions(node: Node) -> None:
    assert REGION in {region["name"] for region in node("Regions", "list")}


def test_quotas_of_a_region(node: Node) -> None:
    quotas = node("Regions", "get", region=REGION)["quotas"]
    assert {"NVIDIA_T4_GPUS", "CPUS"} <= {quota["metric"] for quota in quotas}


def test_the_project_by_its_name_and_its_number(node: Node) -> None:
    found = node("Projects", "get")
    again = node("Projects", "get", project=str(found["id"]))
    assert again["name"] == found["name"] == node.where["project"]


def test_machine_types_in_pages(node: Node) -> None:
    pages = node.zone("MachineTypes", "list", "pages", maxResults=20)
    names = [kind["name"] for page in pages for kind in page]
    assert len(pages) > 2
    assert len(names) == len(set(names))


def test_machine_types_by_the_iterator(node: Node) -> None:
    found = node.zone("MachineTypes", "list", "all", filter="guestCpus = 4 AND name:n1-*")
    assert {kind["name"] for kind in found} == {"n1-standard-4", "n1-highmem-4", "n1-highcpu-4"}


def test_a_custom_machine_type(node: Node) -> None:
    found = node.zone("MachineTypes", "get", machineType="custom-4-16384")
    assert (found["guestCpus"], found["memoryMb"]) == (4, 16384)


def test_gpus_of_all_zones(node: Node) -> None:
    found = node("AcceleratorTypes", "aggregatedList", "all", filter="name = nvidia-tesla-t4")
    scopes = {scope for scope, kinds in found if kinds["acceleratorTypes"]}
    assert f"zones/{ZONE}" in scopes


def test_one_gpu(node: Node) -> None:
    found = node.zone("AcceleratorTypes", "get", acceleratorType="nvidia-tesla-t4")
    assert found["maximumCardsPerInstance"] == 4


def test_disk_types(node: Node) -> None:
    assert {"pd-ssd", "pd-standard"} <= {kind["name"] for kind in node.zone("DiskTypes", "list")}


def test_images(node: Node) -> None:
    newest = node("Images", "getFromFamily", project="debian-cloud", family="debian-12")
    found = node("Images", "list", project="debian-cloud")
    assert newest["name"] in {image["name"] for image in found}


def test_networks(node: Node) -> None:
    network = node("Networks", "get", network="default")
    subnetwork = node("Subnetworks", "get", region=REGION, subnetwork="default")
    assert subnetwork["network"] == network["selfLink"]
    scopes = node("Subnetworks", "aggregatedList", "all")
    assert {one["selfLink"] for _, found in scopes for one in found["subnetworks"]} == {
        *network["subnetworks"]
    }


# -- instances --


def test_what_runs(node: Node, machine: str) -> None:
    found = node.get()
    assert (found["status"], found["labels"]) == ("RUNNING", {"owner": "me"})
    assert found["networkInterfaces"][0]["accessConfigs"][0]["natIP"]


def test_an_instance_by_its_number(node: Node, machine: str) -> None:
    assert node.get(str(node.get()["id"]))["name"] == machine


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("labels.owner=me", True),
        ("status = RUNNING", True),
        ('name eq "vm.*"', True),
        ("-labels.owner:*", False),
    ],
)
def test_instances_by_a_filter(node: Node, machine: str, text: str, is_found: bool) -> None:
    found = node.zone("Instances", "list", filter=text)
    assert (machine in {one["name"] for one in found}) == is_found


def test_instances_of_all_zones(node: Node, machine: str) -> None:
    found = dict(node("Instances", "aggregatedList", "all", maxResults=5))
    assert [one["name"] for one in found[f"zones/{ZONE}"]["instances"]] == [machine]
    assert found["zones/us-central1-a"]["warning"]["code"] == "NO_RESULTS_ON_PAGE"


def test_labels_need_the_current_fingerprint(node: Node, machine: str) -> None:
    wanted = {"labels": {"owner": "you"}, "labelFingerprint": node.get()["labelFingerprint"]}
    change = {"instance": machine, "instancesSetLabelsRequestResource": wanted}
    node.zone("Instances", "setLabels", "wait", **change)
    assert node.get()["labels"] == {"owner": "you"}
    with pytest.raises(Refused, match="fingerprint") as refused:
        node.zone("Instances", "setLabels", **change)
    assert refused.value.code == 412


def test_metadata(node: Node, machine: str) -> None:
    metadata = node.get()["metadata"]
    metadata["items"] = [*metadata.get("items", ()), {"key": "note", "value": "hello"}]
    node.zone("Instances", "setMetadata", "wait", instance=machine, metadataResource=metadata)
    assert {"key": "note", "value": "hello"}.items() <= node.get()["metadata"]["items"][-1].items()


def test_tags(node: Node, machine: str) -> None:
    tags = {**node.get()["tags"], "items": ["web", "db"]}
    node.zone("Instances", "setTags", "wait", instance=machine, tagsResource=tags)
    assert node.get()["tags"]["items"] == ["web", "db"]


def test_the_serial_port(node: Node, machine: str) -> None:
    said = node.zone("Instances", "getSerialPortOutput", instance=machine)
    assert said["contents"]
    more = node.zone("Instances", "getSerialPortOutput", instance=machine, start=said["next"])
    assert more["start"] == said["next"]


def test_protection(node: Node, machine: str) -> None:
    for wanted in (True, False):
        node.zone(
            "Instances", "setDeletionProtection", "wait", resource=machine,
            deletionProtection=wanted,
        )  # fmt: skip
        assert node.get()["deletionProtection"] == wanted


def test_auto_delete_of_a_disk(node: Node, machine: str) -> None:
    device = node.get()["disks"][0]["deviceName"]
    for wanted in (False, True):
        node.zone(
            "Instances", "setDiskAutoDelete", "wait", instance=machine, deviceName=device,
            autoDelete=wanted,
        )  # fmt: skip
        assert node.get()["disks"][0]["autoDelete"] == wanted


def test_reset_stop_start_suspend_and_resume(node: Node, machine: str) -> None:
    states = {
        "reset": "RUNNING",
        "stop": "TERMINATED",
        "start": "RUNNING",
        "suspend": "SUSPENDED",
        "resume": "RUNNING",
    }
    for method, status in states.items():
        node.zone("Instances", method, "wait", instance=machine)
        assert node.get()["status"] == status


def test_a_name_is_taken_once(node: Node, machine: str) -> None:
    with pytest.raises(Refused, match="already exists") as refused:
        node.zone("Instances", "insert", instanceResource=body(machine))
    assert refused.value.code == 409


def test_a_stockout(node: Node, site: Site) -> None:
    site.cloud.fault(kind="stockout", zone=ZONE, calls=1)
    ended = node.zone("Instances", "insert", "wait", instanceResource=body("nowhere"))
    assert ended["httpErrorStatusCode"] == 503
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in ended["error"]["errors"][0]["code"]


def test_a_gpu_machine(node: Node, site: Site) -> None:
    gpu = {
        "acceleratorCount": 1,
        "acceleratorType": f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4",
    }
    kind = {"machineType": f"zones/{ZONE}/machineTypes/n1-standard-4", "guestAccelerators": [gpu]}
    with pytest.raises(Refused, match="do not support live migration"):
        node.zone("Instances", "insert", instanceResource=body("gpu", **kind))
    kind["scheduling"] = {"onHostMaintenance": "TERMINATE"}
    site.boots_never("gpu")
    node.zone("Instances", "insert", instanceResource=body("gpu", **kind))
    site.eventually_is("gpu", "STAGING")
    assert node.get("gpu")["guestAccelerators"][0]["acceleratorCount"] == 1
    node.zone("Instances", "delete", "wait", instance="gpu")


# -- disks, snapshots, addresses, firewall rules --


def test_disks_in_pages(node: Node, disks: list[str]) -> None:
    pages = node.zone("Disks", "list", "pages", maxResults=2, filter="name:d*")
    assert [[disk["name"] for disk in page] for page in pages] == [["d0", "d1"], ["d2"]]


def test_disks_of_all_zones(node: Node, disks: list[str]) -> None:
    scopes = node("Disks", "aggregatedList", "all", filter="labels.team = a")
    assert [disk["name"] for _, found in scopes for disk in found["disks"]] == ["d0"]


def test_labels_of_a_disk(node: Node, disks: list[str]) -> None:
    fingerprint = node.zone("Disks", "get", disk="d1")["labelFingerprint"]
    wanted = {"labels": {"team": "b"}, "labelFingerprint": fingerprint}
    node.zone("Disks", "setLabels", "wait", resource="d1", zoneSetLabelsRequestResource=wanted)
    assert node.zone("Disks", "get", disk="d1")["labels"] == {"team": "b"}


def test_a_disk_grows(node: Node, disks: list[str]) -> None:
    node.zone("Disks", "resize", "wait", disk="d2", disksResizeRequestResource={"sizeGb": "20"})
    assert node.zone("Disks", "get", disk="d2")["sizeGb"] == "20"


def test_snapshots_and_a_disk_of_one(node: Node, disks: list[str]) -> None:
    node.zone("Disks", "createSnapshot", "wait", disk="d0", snapshotResource={"name": "s1"})
    wanted = {"name": "s2", "sourceDisk": f"zones/{ZONE}/disks/d0"}
    node("Snapshots", "insert", "wait", snapshotResource=wanted)
    assert {one["name"] for one in node("Snapshots", "list")} == {"s1", "s2"}
    copy = {"name": "copy", "sourceSnapshot": "global/snapshots/s2"}
    node.zone("Disks", "insert", "wait", diskResource=copy)
    assert node.zone("Disks", "get", disk="copy")["sizeGb"] == "10"


def test_an_image_of_a_disk(node: Node, disks: list[str]) -> None:
    wanted = {"name": "i1", "sourceDisk": f"zones/{ZONE}/disks/d0", "family": "mine"}
    node("Images", "insert", "wait", imageResource=wanted)
    assert node("Images", "getFromFamily", family="mine")["status"] == "READY"
    node("Images", "delete", "wait", image="i1")
    assert node("Images", "list") == []


def test_a_snapshot_and_a_disk_are_deleted(node: Node, disks: list[str]) -> None:
    node("Snapshots", "delete", "wait", snapshot="s2")
    node.zone("Disks", "delete", "wait", disk="copy")
    assert {one["name"] for one in node("Snapshots", "list")} == {"s1"}


def test_an_address(node: Node) -> None:
    wanted = {"name": "a1", "address": "203.0.113.9"}
    node("Addresses", "insert", "wait", region=REGION, addressResource=wanted)
    assert node("Addresses", "get", region=REGION, address="a1")["address"] == "203.0.113.9"
    scopes = node("Addresses", "aggregatedList", "all")
    assert [one["name"] for _, found in scopes for one in found["addresses"]] == ["a1"]
    node("Addresses", "delete", "wait", region=REGION, address="a1")


def test_a_firewall_rule(node: Node) -> None:
    allowed = [{"IPProtocol": "tcp", "ports": ["80"]}]
    node("Firewalls", "insert", "wait", firewallResource={"name": "web", "allowed": allowed})
    node("Firewalls", "patch", "wait", firewall="web", firewallResource={"priority": 900})
    found = node("Firewalls", "get", firewall="web")
    assert (found["priority"], found["allowed"][0]["ports"]) == (900, ["80"])
    node("Firewalls", "delete", "wait", firewall="web")


@pytest.mark.parametrize("wrong", [{"ports": ["ssh"]}, {"ports": ["70000"]}])
def test_a_wrong_firewall_rule_is_refused(node: Node, wrong: dict[str, Any]) -> None:
    rule = {"name": "p", "allowed": [{"IPProtocol": "tcp", **wrong}]}
    with pytest.raises(Refused) as refused:
        node("Firewalls", "insert", firewallResource=rule)
    assert refused.value.code == 400
    assert "p" not in {one["name"] for one in node("Firewalls", "list")}


# -- operations, refusals --


def test_operations_of_all_scopes(node: Node, disks: list[str]) -> None:
    scopes = dict(node("GlobalOperations", "aggregatedList", "all"))
    assert scopes[f"zones/{ZONE}"]["operations"]


def test_an_operation_by_its_number(node: Node, disks: list[str]) -> None:
    known = node.zone("ZoneOperations", "list")[0]
    found = node.zone("ZoneOperations", "get", operation=str(known["id"]))
    assert found["name"] == known["name"]


@pytest.mark.parametrize(
    ("client", "request_"),
    [
        ("Instances", {"zone": ZONE, "instance": "none"}),
        ("Disks", {"zone": ZONE, "disk": "none"}),
        ("Snapshots", {"snapshot": "none"}),
        ("Addresses", {"region": REGION, "address": "none"}),
        ("Zones", {"zone": "mars-a"}),
        ("Firewalls", {"firewall": "none"}),
    ],
)
def test_what_is_not_there_is_not_found(node: Node, client: str, request_: dict[str, str]) -> None:
    with pytest.raises(Refused) as refused:
        node(client, "get", **request_)
    assert refused.value.code == 404


def test_a_method_that_is_not_there_is_refused_by_name(node: Node) -> None:
    with pytest.raises(Refused, match=r"compute\.routers\.list") as refused:
        node("Routers", "list", region=REGION)
    assert refused.value.code == 400


def test_common_metadata_of_the_project(node: Node) -> None:
    wanted = {"items": [{"key": "shared", "value": "yes"}]}
    node("Projects", "setCommonInstanceMetadata", "wait", metadataResource=wanted)
    found = node("Projects", "get")["commonInstanceMetadata"]["items"]
    assert [(item["key"], item["value"]) for item in found] == [("shared", "yes")]


def test_an_instance_is_deleted_with_its_disk(node: Node, machine: str) -> None:
    node.zone("Instances", "delete", "wait", instance=machine)
    for client, what in ("Instances", "instance"), ("Disks", "disk"):
        with pytest.raises(Refused) as refused:
            node.zone(client, "get", **{what: machine})
        assert refused.value.code == 404
