"""What is sent to Compute Engine and how its replies are read."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from importlib import resources
from typing import Any

import pytest

from vmctl.cloud.compute.requests import insert_body, metadata_body, scheduling_body
from vmctl.cloud.compute.responses import host_keys_in_log, host_keys_of, instance_of
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import Instance, Status, labels_for
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import choose_machine

T4 = Gpu("nvidia-tesla-t4")
ED25519 = "AAAAC3NzaC1lZDI1NTE5AAAAIEvXlm1TlGMCqtNSKhsF0J4d9N0YxS2n0Z1mVbUZtJ8R"
PLAN = InstanceSpec(
    name="ada-unet",
    zone="europe-west1-b",
    machine=choose_machine(T4, None),
    gpu=T4,
    image=Image.parse("pytorch"),
    disk_gb=100,
    max_run_s=43200,
    ssh_keys="ada:ssh-ed25519 AAAA google-ssh {}",
    labels=labels_for("ada", "unet"),
)


def variant(gpu: str, **changes: Any) -> InstanceSpec:
    wanted = Gpu.parse(gpu)
    return replace(PLAN, gpu=wanted, machine=choose_machine(wanted, None), **changes)


def test_a_t4_is_asked_for_exactly_so() -> None:
    assert insert_body(PLAN) == {
        "name": "ada-unet",
        "machineType": "zones/europe-west1-b/machineTypes/n1-standard-4",
        "guestAccelerators": [
            {
                "acceleratorType": "zones/europe-west1-b/acceleratorTypes/nvidia-tesla-t4",
                "acceleratorCount": 1,
            }
        ],
        "scheduling": {
            "onHostMaintenance": "TERMINATE",
            "automaticRestart": False,
            "maxRunDuration": {"seconds": "43200"},
            "instanceTerminationAction": "STOP",
        },
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "type": "PERSISTENT",
                "mode": "READ_WRITE",
                "initializeParams": {
                    "sourceImage": "projects/deeplearning-platform-release/global/images/family/"
                    "pytorch-2-9-cu129-ubuntu-2404-nvidia-580",
                    "diskSizeGb": "100",
                    "diskType": "zones/europe-west1-b/diskTypes/pd-balanced",
                    "labels": {"vmctl": "1", "vmctl-owner": "ada", "vmctl-name": "unet"},
                },
            }
        ],
        "networkInterfaces": [
            {
                "network": "global/networks/default",
                "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}],
            }
        ],
        "metadata": {
            "items": [
                {"key": "ssh-keys", "value": "ada:ssh-ed25519 AAAA google-ssh {}"},
                {"key": "block-project-ssh-keys", "value": "TRUE"},
                {"key": "enable-oslogin", "value": "FALSE"},
                {"key": "enable-guest-attributes", "value": "TRUE"},
                {"key": "install-nvidia-driver", "value": "True"},
            ]
        },
        "labels": {"vmctl": "1", "vmctl-owner": "ada", "vmctl-name": "unet"},
        "tags": {"items": ["vmctl", "ada-unet"]},
        "shieldedInstanceConfig": {
            "enableSecureBoot": False,
            "enableVtpm": True,
            "enableIntegrityMonitoring": True,
        },
    }


@pytest.mark.parametrize(
    ("plan", "path", "value"),
    [
        (variant("t4", spot=True), ["scheduling", "provisioningModel"], "SPOT"),
        (variant("t4:2"), ["guestAccelerators", 0, "acceleratorCount"], 2),
        (
            variant("t4", subnetwork="mine"),
            ["networkInterfaces", 0],
            {
                "subnetwork": "regions/europe-west1/subnetworks/mine",
                "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT"}],
            },
        ),
        (
            variant("t4", network="projects/host/global/networks/vpc"),
            ["networkInterfaces", 0, "network"],
            "projects/host/global/networks/vpc",
        ),
        (variant("l4"), ["networkInterfaces", 0, "nicType"], "GVNIC"),
        (
            variant("h200:8"),
            ["disks", 0, "initializeParams", "diskType"],
            "zones/europe-west1-b/diskTypes/hyperdisk-balanced",
        ),
        (variant("none"), ["scheduling", "onHostMaintenance"], "MIGRATE"),
        (variant("none", spot=True), ["scheduling", "onHostMaintenance"], "TERMINATE"),
        (
            variant("a100-80gb"),
            ["scheduling", "onInstanceStopAction"],
            {"discardLocalSsd": True},
        ),
    ],
)
def test_other_machines_differ_where_they_must(
    plan: InstanceSpec, path: list[Any], value: Any
) -> None:
    found: Any = insert_body(plan)
    for step in path:
        found = found[step]
    assert found == value


def test_a_machine_without_gpu_asks_for_no_accelerator_and_no_driver() -> None:
    body = insert_body(variant("none"))
    assert "guestAccelerators" not in body
    assert "install-nvidia-driver" not in str(body)
    assert "serviceAccounts" not in body


@lru_cache
def schemas() -> dict[str, Any]:
    """Google's own description of the API, as googleapiclient ships it."""
    file = resources.files("googleapiclient.discovery_cache.documents") / "compute.v1.json"
    loaded: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["schemas"]
    return loaded


def unknown_fields(schema: dict[str, Any], value: Any, where: str = "") -> list[str]:
    """What Google's schema does not know, or knows with another type or other values."""
    schema = schemas()[schema["$ref"]] if "$ref" in schema else schema
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value} is none of {schema['enum']}"]
    if isinstance(value, dict):
        rest = schema.get("additionalProperties")
        found = []
        for key, inner in value.items():
            known = schema.get("properties", {}).get(key, rest)
            path = f"{where}.{key}"
            found += unknown_fields(known, inner, path) if known else [f"{path}: unknown"]
        return found
    if isinstance(value, list):
        return [bad for item in value for bad in unknown_fields(schema["items"], item, where)]
    kinds = {"string": str, "integer": int, "boolean": bool, "number": float}
    right = isinstance(value, kinds[schema["type"]])
    return [] if right else [f"{where}: {value!r} is no {schema['type']}"]


@pytest.mark.parametrize(
    "plan",
    [PLAN, *(variant(gpu, spot=True) for gpu in ("none", "l4", "a100-80gb", "b200:8", "t4:4"))],
)
def test_google_knows_every_field_that_is_sent(plan: InstanceSpec) -> None:
    assert unknown_fields({"$ref": "Instance"}, insert_body(plan)) == []
    assert unknown_fields({"$ref": "Scheduling"}, scheduling_body(instance(), 60)) == []
    assert unknown_fields({"$ref": "Metadata"}, metadata_body(instance(), {"a": "b"})) == []
    assert unknown_fields({"$ref": "Instance"}, {"nmae": "x"}) == [".nmae: unknown"]


def reply(**changes: Any) -> dict[str, Any]:
    base = "https://www.googleapis.com/compute/v1/projects/p/zones/europe-west1-b"
    return {
        "kind": "compute#instance",
        "id": "4711",
        "name": "ada-unet",
        "zone": base,
        "status": "RUNNING",
        "machineType": f"{base}/machineTypes/n1-standard-4",
        "creationTimestamp": "2026-11-30T02:00:00.000-08:00",
        "lastStartTimestamp": "2026-11-30T02:00:05.000-08:00",
        "guestAccelerators": [
            {"acceleratorType": f"{base}/acceleratorTypes/nvidia-tesla-t4", "acceleratorCount": 2}
        ],
        "disks": [{"boot": True, "diskSizeGb": "100"}],
        "networkInterfaces": [{"networkIP": "10.0.0.2", "accessConfigs": [{"natIP": "192.0.2.7"}]}],
        "metadata": {
            "fingerprint": "abc=",
            "items": [
                {"key": "ssh-keys", "value": "k"},
                {"key": "vmctl-ssh-port", "value": "2201"},
            ],
        },
        "labels": labels_for("ada", "unet"),
        "scheduling": {"maxRunDuration": {"seconds": "43200"}, "provisioningModel": "SPOT"},
        "resourceStatus": {"scheduling": {"terminationTimestamp": "2026-11-30T22:00:05Z"}},
        **changes,
    }


def instance(**changes: Any) -> Instance:
    return instance_of(reply(**changes))


def test_local_ssds_are_those_that_google_shows_whatever_the_machine() -> None:
    disks = [{"boot": True, "diskSizeGb": "100"}, {"type": "SCRATCH", "diskSizeGb": "375"}]
    for vm, consent in ((instance(), {}), (instance(disks=disks), {"discardLocalSsd": True})):
        assert vm.has_local_ssd == bool(consent)
        assert scheduling_body(vm, 60).get("onInstanceStopAction", {}) == consent


def test_a_reply_becomes_an_instance() -> None:
    vm = instance()
    assert (vm.name, vm.id, vm.zone, vm.region) == (
        "ada-unet",
        "4711",
        "europe-west1-b",
        "europe-west1",
    )
    assert vm.status is Status.RUNNING
    assert vm.gpu == Gpu("nvidia-tesla-t4", 2)
    assert (vm.address, vm.ssh_port, vm.disk_gb, vm.spot) == ("192.0.2.7", 2201, 100, True)
    assert vm.created_at == datetime(2026, 11, 30, 10, tzinfo=UTC)
    assert vm.stops_at == datetime(2026, 11, 30, 22, 0, 5, tzinfo=UTC)
    assert vm.max_run_s == 43200
    assert (vm.owner, vm.project_name, vm.ssh_keys) == ("ada", "unet", "k")


def test_a_stopped_vm_has_no_address_and_an_unknown_status_is_no_crash() -> None:
    stopped = instance(
        status="TERMINATED", networkInterfaces=[{"accessConfigs": [{"name": "External NAT"}]}]
    )
    assert stopped.address is None
    assert stopped.status.is_stopped
    assert instance(status="SOMETHING_NEW").status is Status.UNKNOWN


def test_a_machine_type_tells_its_gpu_when_the_reply_does_not() -> None:
    vm = instance(guestAccelerators=[], machineType="zones/z/machineTypes/g2-standard-24")
    assert vm.gpu == Gpu("nvidia-l4", 2)


def test_metadata_changes_keep_every_other_item() -> None:
    body = metadata_body(instance(), {"ssh-keys": "new"})
    assert body == {
        "fingerprint": "abc=",
        "items": [{"key": "ssh-keys", "value": "new"}, {"key": "vmctl-ssh-port", "value": "2201"}],
    }


@pytest.mark.parametrize(
    ("kind", "value", "kept"),
    [
        ("ssh-ed25519", ED25519, True),
        ("ssh-ed25519", f"{ED25519} root@vm", True),
        ("ssh-rsa", ED25519, False),
        ("ssh-ed25519", "not base64!", False),
        ("ssh-ed25519", "", False),
        ("something", ED25519, False),
    ],
)
def test_only_host_keys_are_taken_from_guest_attributes(kind: str, value: str, kept: bool) -> None:
    answer = {"queryValue": {"items": [{"namespace": "hostkeys", "key": kind, "value": value}]}}
    assert host_keys_of(answer) == ([f"ssh-ed25519 {ED25519}"] if kept else [])


def test_host_keys_on_the_serial_port_are_those_of_the_last_boot() -> None:
    def block(key: str) -> str:
        return (
            "[   12.1] cloud-init[1]: -----BEGIN SSH HOST KEY KEYS-----\r\n"
            f"[   12.1] cloud-init[1]: ssh-ed25519 {key} root@vm\r\n"
            "[   12.1] cloud-init[1]: -----END SSH HOST KEY KEYS-----\r\n"
        )

    older = ED25519[:-1] + "Q"
    assert host_keys_in_log(block(older) + "login: \r\n" + block(ED25519)) == [
        f"ssh-ed25519 {ED25519}"
    ]
    assert host_keys_in_log(block(ED25519).rpartition("[")[0]) == [], "an unfinished block"
    assert host_keys_in_log("") == []
