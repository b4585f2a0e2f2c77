"""What Compute Engine refuses, and in which words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from .conftest import ZONE, Cloud

Change = Callable[[Cloud], dict[str, Any]]


def gpu(machine: str, name: str = "nvidia-tesla-t4", count: int = 1, zone: str = ZONE) -> Change:
    def body(cloud: Cloud) -> dict[str, Any]:
        return dict(
            cloud.gpu_body(
                gpu=name,
                count=count,
                zone=zone,
                machineType=f"zones/{zone}/machineTypes/{machine}",
            )
        )

    return body


def changed(**more: Any) -> Change:
    return lambda cloud: cloud.body(**more)


def with_disk(**parameters: Any) -> Change:
    def body(cloud: Cloud) -> dict[str, Any]:
        made = cloud.body()
        made["disks"][0]["initializeParams"].update(parameters)
        return made

    return body


def with_unknown_key_in_disk(cloud: Cloud) -> dict[str, Any]:
    made = cloud.body()
    made["disks"][0]["autodelete"] = True
    return made


def with_live_migration(cloud: Cloud) -> dict[str, Any]:
    return dict(cloud.gpu_body(scheduling={"automaticRestart": False}))


REFUSALS: list[tuple[str, Change, int, str, str]] = [
    (
        "unknown machine type",
        changed(machineType=f"zones/{ZONE}/machineTypes/n9-standard-4"),
        400,
        "invalid",
        f"Invalid value for field 'resource.machineType': 'zones/{ZONE}/machineTypes/n9-standard-4'"
        f". Machine type with name 'n9-standard-4' does not exist in zone '{ZONE}'.",
    ),
    (
        "machine type of another zone",
        changed(machineType=f"zones/{ZONE}/machineTypes/a2-highgpu-1g"),
        400,
        "invalid",
        "Machine type with name 'a2-highgpu-1g' does not exist",
    ),
    (
        "unknown accelerator",
        gpu("n1-standard-4", "nvidia-x"),
        400,
        "invalid",
        "Invalid value for field 'resource.guestAccelerators[0].acceleratorType'",
    ),
    (
        "accelerator that the zone lacks",
        gpu("n1-standard-4", "nvidia-tesla-v100"),
        400,
        "invalid",
        "Invalid value for field 'resource.guestAccelerators[0].acceleratorType'",
    ),
    (
        "GPU on a series that takes none",
        gpu("e2-standard-4"),
        400,
        "badRequest",
        "[e2-standard-4, nvidia-tesla-t4] features are not compatible for creating instance.",
    ),
    (
        "GPU that a series does not carry",
        gpu("g2-standard-4"),
        400,
        "badRequest",
        "[g2-standard-4, nvidia-tesla-t4] features are not compatible for creating instance.",
    ),
    (
        "GPU of a fixed series on N1",
        gpu("n1-standard-4", "nvidia-l4"),
        400,
        "badRequest",
        "[n1-standard-4, nvidia-l4] features are not compatible for creating instance.",
    ),
    (
        "count a machine cannot have",
        gpu("n1-standard-4", count=3),
        400,
        "invalid",
        "Invalid value for field 'resource.guestAccelerators[0].acceleratorCount': '3'.",
    ),
    (
        "host too large for the GPU",
        gpu("n1-standard-96"),
        400,
        "badRequest",
        "features are not compatible for creating instance.",
    ),
    (
        "GPU with live migration",
        with_live_migration,
        400,
        "badRequest",
        "Instances with guest accelerators do not support live migration.",
    ),
    (
        "Spot that restarts",
        changed(scheduling={"provisioningModel": "SPOT", "automaticRestart": True}),
        400,
        "invalid",
        "Scheduling must have preemptible be false when AutomaticRestart is true.",
    ),
    (
        "name with capitals",
        changed(name="VM"),
        400,
        "invalid",
        "Invalid value for field 'resource.name': 'VM'. Must be a match of regex",
    ),
    (
        "misspelt key",
        changed(machinetype="x"),
        400,
        "badRequest",
        'Invalid JSON payload received. Unknown name "machinetype": Cannot find field.',
    ),
    (
        "misspelt key further down",
        with_unknown_key_in_disk,
        400,
        "badRequest",
        "Unknown name \"autodelete\" at 'resource.disks[0]': Cannot find field.",
    ),
    (
        "text for a truth value",
        changed(canIpForward="yes"),
        400,
        "badRequest",
        "Invalid value at 'resource.canIpForward' (TYPE_BOOL), \"yes\"",
    ),
    (
        "unknown enum value",
        changed(scheduling={"provisioningModel": "CHEAP"}),
        400,
        "badRequest",
        "Invalid value at 'resource.scheduling.provisioningModel' (TYPE_ENUM), \"CHEAP\"",
    ),
    (
        "label with capitals",
        changed(labels={"Owner": "me"}),
        400,
        "invalid",
        "Label keys start with a lowercase letter",
    ),
    (
        "metadata key twice",
        changed(metadata={"items": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}),
        400,
        "invalid",
        "Duplicate metadata key 'a' found.",
    ),
    (
        "metadata value too large",
        changed(metadata={"items": [{"key": "a", "value": "x" * 262145}]}),
        400,
        "invalid",
        "Value exceeds the limit of 262144 bytes.",
    ),
    (
        "run limit too short",
        changed(scheduling={"maxRunDuration": {"seconds": "5"}}),
        400,
        "invalid",
        "Invalid value for field 'resource.scheduling.maxRunDuration.seconds': '5'.",
    ),
    (
        "two run limits",
        changed(
            scheduling={
                "maxRunDuration": {"seconds": "60"},
                "terminationTime": "2099-01-01T00:00:00Z",
            }
        ),
        400,
        "badRequest",
        "Only one of maxRunDuration and terminationTime can be specified.",
    ),
    (
        "run limit in the past",
        changed(scheduling={"terminationTime": "2001-01-01T00:00:00Z"}),
        400,
        "badRequest",
        "is in the past",
    ),
    (
        "unknown image family",
        with_disk(sourceImage="projects/debian-cloud/global/images/family/debian-99"),
        404,
        "notFound",
        "The resource 'projects/debian-cloud/global/images/family/debian-99' was not found",
    ),
    (
        "unknown image",
        with_disk(sourceImage="projects/debian-cloud/global/images/nothing"),
        400,
        "invalid",
        "Invalid value for field 'resource.disks[0].initializeParams.sourceImage'",
    ),
    (
        "disk smaller than its image",
        with_disk(diskSizeGb="5"),
        400,
        "invalid",
        "Requested disk size cannot be smaller than the image size (10 GB)",
    ),
    (
        "unknown disk type",
        with_disk(diskType=f"zones/{ZONE}/diskTypes/floppy"),
        400,
        "invalid",
        "Disk type 'floppy' does not exist",
    ),
    (
        "machine type of another project",
        changed(machineType=f"projects/another-one/zones/{ZONE}/machineTypes/e2-small"),
        400,
        "invalid",
        "Zone and project must match the instance's",
    ),
    (
        "disk name that leads out of its folder",
        with_disk(diskName="../../x"),
        400,
        "invalid",
        "Invalid value for field 'resource.disks[0].initializeParams.diskName': '../../x'",
    ),
    (
        "name with a newline",
        changed(name="vm1\n"),
        400,
        "invalid",
        "Invalid value for field 'resource.name'",
    ),
    ("no disk", changed(disks=[]), 400, "invalid", "At least one disk is required"),
    ("no network", changed(networkInterfaces=[]), 400, "invalid", "network interface is required"),
    (
        "unknown network",
        changed(networkInterfaces=[{"network": "global/networks/mine"}]),
        400,
        "invalid",
        "Invalid value for field 'resource.networkInterfaces[0].network': 'global/networks/mine'",
    ),
]


@pytest.mark.parametrize(
    ("change", "code", "reason", "message"),
    [pytest.param(*row[1:], id=row[0].replace(" ", "-")) for row in REFUSALS],
)
def test_insert_refuses(cloud: Cloud, change: Change, code: int, reason: str, message: str) -> None:
    with pytest.raises(HttpError) as refused:
        cloud.insert(change(cloud))
    error = json.loads(refused.value.content)["error"]
    assert error["code"] == refused.value.status_code == code
    assert message in error["message"]
    assert error["errors"][0] == {
        "message": error["message"],
        "domain": "global",
        "reason": reason,
    }
    left = cloud.api.disks().list(project=cloud.project, zone=ZONE).execute()
    assert "items" not in left, "a refused insert left a disk behind"


def test_names_are_unique_in_a_zone_only(cloud: Cloud) -> None:
    cloud.granted()
    with pytest.raises(HttpError) as refused:
        cloud.insert(cloud.body())
    assert refused.value.status_code == 409
    assert refused.value.reason == (
        f"The resource 'projects/{cloud.project}/zones/{ZONE}/instances/vm1' already exists"
    )
    cloud.granted(cloud.body(zone="europe-west1-c"), "europe-west1-c")


@pytest.mark.parametrize(
    ("ask", "code", "message"),
    [
        (lambda api, p: api.zones().get(project=p, zone="mars-a"), 404, "zones/mars-a"),
        (lambda api, p: api.regions().get(project=p, region="mars"), 404, "regions/mars"),
        (
            lambda api, p: api.instances().list(project=p, zone="mars-a"),
            400,
            "Invalid value for field 'zone': 'mars-a'. Unknown zone.",
        ),
        (
            lambda api, p: api.instances().get(project=p, zone=ZONE, instance="nobody"),
            404,
            f"/zones/{ZONE}/instances/nobody' was not found",
        ),
        (
            lambda api, p: api.acceleratorTypes().get(
                project=p, zone=ZONE, acceleratorType="nvidia-x"
            ),
            404,
            "acceleratorTypes/nvidia-x",
        ),
        (
            lambda api, p: api.machineTypes().get(project=p, zone=ZONE, machineType="x1"),
            404,
            "machineTypes/x1",
        ),
        (
            lambda api, p: api.zoneOperations().wait(project=p, zone=ZONE, operation="operation-1"),
            404,
            "operations/operation-1",
        ),
        (
            lambda api, p: api.networks().get(project=p, network="mine"),
            404,
            "global/networks/mine",
        ),
        (
            lambda api, p: api.instances().list(project=p, zone=ZONE, filter="status"),
            400,
            "Invalid list filter expression.",
        ),
        (
            lambda api, p: api.routers().list(project=p, region="europe-west1"),
            400,
            "does not implement compute.routers.list",
        ),
    ],
)
def test_what_is_not_there_is_named(cloud: Cloud, ask: Any, code: int, message: str) -> None:
    with pytest.raises(HttpError) as refused:
        ask(cloud.api, cloud.project).execute()
    assert refused.value.status_code == code
    assert message in refused.value.reason
