"""Changes of instances: accepted and refused as Google does; a refused one changes nothing."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.api import REGION, ZONE, Api, instance, open_api

Json = dict[str, Any]
PATH = f"zones/{ZONE}/instances"
GPU = {"acceleratorType": "nvidia-tesla-t4", "acceleratorCount": 1}
GPU_VM = {"guestAccelerators": [GPU], "scheduling": {"onHostMaintenance": "TERMINATE"}}
STOPPED = {
    "setMachineType": {"machineType": f"zones/{ZONE}/machineTypes/custom-2-4096"},
    "setMachineResources": {"guestAccelerators": []},
    "setServiceAccount": {"email": "default", "scopes": []},
    "setMinCpuPlatform": {"minCpuPlatform": "Intel Skylake"},
    "updateShieldedInstanceConfig": {"enableSecureBoot": True},
}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        for name, more in (("vm1", {}), ("gpu", GPU_VM), ("off", {}), ("gpu-off", GPU_VM)):
            assert "error" not in opened.done("POST", PATH, instance(name, **more))
        for name in ("off", "gpu-off"):
            opened.done("POST", f"{PATH}/{name}/stop")
        yield opened


def get(api: Api, name: str) -> Json:
    return copy.deepcopy(api.call("GET", f"{PATH}/{name}")[1])


def refused(api: Api, http_method: str, name: str, verb: str, body: Json, **query: Any) -> str:
    """The words of a 400, which left the instance as it was."""
    was = get(api, name)
    status, reply = api.call(http_method, f"{PATH}/{name}{verb}", body, **query)
    assert status == 400, reply
    assert get(api, name) == was
    return str(reply["error"]["message"])


def verb_of(method: str) -> str:
    return "PATCH" if method.startswith("update") else "POST"


@pytest.mark.parametrize("method", STOPPED)
def test_hardware_is_changed_only_while_an_instance_is_off(api: Api, method: str) -> None:
    words = refused(api, verb_of(method), "vm1", f"/{method}", STOPPED[method])
    assert words.startswith("The instance must be stopped before the ")
    was = get(api, "off")
    assert "error" not in api.done(verb_of(method), f"{PATH}/off/{method}", STOPPED[method])
    now = get(api, "off")
    assert now["status"] == "TERMINATED"
    if method != "setMachineResources":  # it had no GPU before
        assert now["fingerprint"] != was["fingerprint"]


@pytest.mark.parametrize(
    ("name", "method", "body", "words"),
    [
        ("off", "setMachineType", {}, "Required field 'machineType' not specified"),
        ("off", "setMachineType", {"machineType": "n1-standard-3"}, "does not exist in zone"),
        ("off", "setMachineType", {"machineType": "custom-3-4096"}, "does not exist in zone"),
        ("off", "setMachineType", {"machineType": "zones/us-central1-a/machineTypes/e2-small"},
         "Zone and project must match"),
        ("off", "setMachineType", {"machineType": "a2-ultragpu-1g"}, "does not exist"),
        ("gpu-off", "setMachineType", {"machineType": "e2-small"}, "[e2-small, nvidia-tesla-t4]"),
        ("gpu-off", "setMachineType", {"machineType": "n1-standard-96"}, "At most"),
        ("off", "setMachineResources", {"guestAccelerators": [GPU]}, "live migration"),
        ("gpu-off", "setMachineResources", {"guestAccelerators": [GPU | {"acceleratorCount": 3}]},
         "must be one of 1, 2, 4"),
        ("off", "setServiceAccount", {"email": "me", "scopes": []}, "for field 'email': 'me'"),
        ("off", "setServiceAccount", {"email": "default", "scopes": ["storage"]}, "scopes[0]"),
        ("off", "setMinCpuPlatform", {"minCpuPlatform": "Intel 80386"}, "no such CPU platform"),
        ("off", "updateShieldedInstanceConfig", {"enableVtpm": False}, "requires the vTPM"),
    ],
)  # fmt: skip
def test_hardware_that_does_not_fit_is_refused(
    api: Api, name: str, method: str, body: Json, words: str
) -> None:
    assert words in refused(api, verb_of(method), name, f"/{method}", body)


def test_hardware_fits_together_and_starts(api: Api) -> None:
    def change(method: str, body: Json) -> Json:
        assert "error" not in api.done(verb_of(method), f"{PATH}/gpu-off/{method}", body)
        return get(api, "gpu-off")

    two = [GPU | {"acceleratorCount": 2}]
    assert change("setMachineResources", {"guestAccelerators": two})["guestAccelerators"][0][
        "acceleratorCount"] == 2  # fmt: skip
    now = change("setMinCpuPlatform", {"minCpuPlatform": "Intel Skylake"})
    assert (now["minCpuPlatform"], now["cpuPlatform"]) == ("Intel Skylake", "Intel Skylake")
    assert "guestAccelerators" not in change("setMachineResources", {"guestAccelerators": []})
    # E2 has no platforms to choose from, and does not stop for maintenance
    assert "minimum CPU platform" in refused(
        api, "POST", "gpu-off", "/setMachineType", {"machineType": "e2-medium"}
    )
    assert "minCpuPlatform" not in change("setMinCpuPlatform", {})
    now = change("setMachineType", {"machineType": f"zones/{ZONE}/machineTypes/custom-4-16384-ext"})
    assert now["machineType"].endswith(f"/zones/{ZONE}/machineTypes/custom-4-16384-ext")
    scope = "https://www.googleapis.com/auth/cloud-platform"
    now = change("setServiceAccount", {"email": "default", "scopes": [scope]})
    (account,) = now["serviceAccounts"]
    assert account["email"].endswith("-compute@developer.gserviceaccount.com")
    assert account["scopes"] == [scope]
    assert "serviceAccounts" not in change("setServiceAccount", {"scopes": []})
    assert "error" not in api.done("POST", f"{PATH}/gpu-off/start")


# -- instances.update ----------------------------------------------------------------------------


def test_an_update_restarts_an_instance_only_where_it_may(api: Api) -> None:
    was = get(api, "vm1")
    larger = was | {"machineType": f"zones/{ZONE}/machineTypes/n1-standard-2"}
    words = refused(api, "PUT", "vm1", "", larger, mostDisruptiveAllowedAction="REFRESH")
    assert "requires the action RESTART" in words
    assert "error" not in api.done("PUT", f"{PATH}/vm1", larger)
    now = get(api, "vm1")
    assert now["machineType"].endswith("/n1-standard-2") and now["status"] == "RUNNING"
    assert now["lastStartTimestamp"] > was["lastStartTimestamp"]

    light = now | {"labels": {"a": "b"}, "description": "mine", "deletionProtection": True}
    assert "error" not in api.done(
        "PUT", f"{PATH}/vm1", light, mostDisruptiveAllowedAction="REFRESH"
    )
    after = get(api, "vm1")
    assert (after["labels"], after["description"], after["deletionProtection"]) == (
        {"a": "b"}, "mine", True,
    )  # fmt: skip
    assert after["lastStartTimestamp"] == now["lastStartTimestamp"]
    status, reply = api.call("PUT", f"{PATH}/vm1", light)
    assert (status, reply["error"]["errors"][0]["reason"]) == (412, "conditionNotMet")
    # without changes, only what is asked for
    api.done("PUT", f"{PATH}/vm1", after)
    assert get(api, "vm1") == after
    api.done("PUT", f"{PATH}/vm1", after, minimalAction="RESTART")
    assert get(api, "vm1")["lastStartTimestamp"] > after["lastStartTimestamp"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "other"}, "The name cannot be changed."),
        ({"disks": []}, "attachDisk"),
        ({"networkInterfaces": []}, "addAccessConfig"),
        ({"machineType": ""}, "A machine type must be specified"),
        ({"labels": {"A": "b"}}, "Label keys"),
        ({"scheduling": {"preemptible": True, "automaticRestart": True}}, "AutomaticRestart"),
        ({"guestAccelerators": [GPU]}, "live migration"),
    ],
)
def test_an_update_that_means_nothing_is_refused(api: Api, change: Json, words: str) -> None:
    assert words in refused(api, "PUT", "off", "", get(api, "off") | change)


# -- disks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disks(api: Api) -> str:
    """The path of disks d1 and d2, of 20 GB, which nothing uses."""
    path = f"zones/{ZONE}/disks"
    for name in ("d1", "d2"):
        api.done("POST", path, {"name": name, "sizeGb": "20"})
    return path


@pytest.mark.parametrize(
    ("body", "query", "words"),
    [
        ({}, {}, "Required field 'source' not specified"),
        ({"source": "zones/us-central1-a/disks/d1"}, {}, "Zone and project must match"),
        ({"source": "d1", "boot": True}, {}, "must be stopped before a boot disk"),
        ({"source": "d1", "type": "SCRATCH"}, {}, "Local SSDs"),
        ({"source": "d1", "mode": "SOMETIMES"}, {}, "mode"),
        ({"source": "d1", "initializeParams": {"diskName": "x"}}, {}, "at the same time"),
        ({"source": "d1"}, {"forceAttach": "true"}, "regional"),
        ({"source": "d1", "deviceName": "../x"}, {}, "Must be a match of regex"),
        ({"source": "d1", "deviceName": "persistent-disk-0"}, {}, "already in use"),
        ({"source": "off"}, {}, f"is already being used by 'projects/p1/{PATH}/off'"),
        ({"source": "vm1"}, {}, f"is already being used by 'projects/p1/{PATH}/vm1'"),
    ],
)
def test_a_disk_that_cannot_be_attached_is_refused(
    api: Api, disks: str, body: Json, query: Json, words: str
) -> None:
    assert words in refused(api, "POST", "vm1", "/attachDisk", body, **query)
    assert "users" not in api.call("GET", f"{disks}/d1")[1]


def test_one_instance_writes_to_a_disk_or_several_read_it(api: Api, disks: str) -> None:
    def attach(name: str, mode: str) -> None:
        body = {"source": f"{disks}/d1", "mode": mode, "autoDelete": True}
        assert "error" not in api.done("POST", f"{PATH}/{name}/attachDisk", body)

    for mode in ("READ_WRITE", "READ_ONLY"):
        attach("vm1", mode)
        (shown,) = get(api, "vm1")["disks"][1:]
        assert (shown["deviceName"], shown["mode"]) == ("persistent-disk-1", mode)
        for other in ("READ_WRITE", "READ_ONLY"):
            if other != mode or mode == "READ_WRITE":
                body = {"source": "d1", "mode": other}
                assert "already being used" in refused(api, "POST", "off", "/attachDisk", body)
        if mode == "READ_WRITE":
            detached = {"deviceName": "persistent-disk-1"}
            api.done("POST", f"{PATH}/vm1/detachDisk", **detached)
    attach("off", "READ_ONLY")
    assert len(api.call("GET", f"{disks}/d1")[1]["users"]) == 2
    api.done("POST", PATH, instance("short", disks=[
        instance()["disks"][0], {"source": f"{disks}/d1", "mode": "READ_ONLY", "autoDelete": True},
    ]))  # fmt: skip
    api.done("DELETE", f"{PATH}/short")  # others have it, so it stays
    assert api.call("DELETE", f"{disks}/d1")[0] == 400
    for name in ("vm1", "off"):
        api.done("POST", f"{PATH}/{name}/detachDisk", **detached)
    assert "No attached disk found" in refused(api, "POST", "off", "/detachDisk", {}, **detached)
    first = {"deviceName": "persistent-disk-0"}
    assert "must be stopped" in refused(api, "POST", "vm1", "/detachDisk", {}, **first)
    assert api.call("GET", f"{disks}/d1")[1]["users"] == []


def test_a_disk_only_grows_and_within_the_quota(api: Api, disks: str) -> None:
    for body, words in (
        ({}, "Required field 'sizeGb' not specified"),
        ({"sizeGb": "20"}, "New disk size '20' must be larger than existing size '20'."),
        ({"sizeGb": "-1"}, "must be larger"),
        ({"sizeGb": "70000"}, "is not between 10 GB and 65536 GB"),
        ({"sizeGb": "many"}, "sizeGb"),
    ):
        status, reply = api.call("POST", f"{disks}/d2/resize", body)
        assert (status, words in reply["error"]["message"]) == (400, True), reply
    ended = api.done("POST", f"{disks}/d2/resize", {"sizeGb": "65000"})
    assert ended["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED"
    assert api.call("GET", f"{disks}/d2")[1]["sizeGb"] == "20"
    assert "error" not in api.done("POST", f"{disks}/vm1/resize", {"sizeGb": "30"})
    assert api.call("GET", f"{disks}/vm1")[1]["sizeGb"] == "30"
    assert get(api, "vm1")["disks"][0]["diskSizeGb"] == "30"


def test_a_detachment_cut_short_has_not_happened(tmp_path: Path) -> None:
    with open_api(tmp_path) as api:
        api.done("POST", PATH, instance())
        (record,) = api.store.find("instances")
        for kind in ("detachDisk", "attachDisk"):  # an attached disk is saved at once
            api.cloud.operations.create(kind, record.key, record.body["id"])

        async def wake() -> None:
            api.lifecycle.wake()

        api.run(wake())
        told = api.call("GET", f"zones/{ZONE}/operations")[1]["items"]
        failed = {one["operationType"]: "error" in one for one in told}
        assert failed == {"insert": False, "attachDisk": False, "detachDisk": True}


# -- maintenance, addresses, permissions, subnetworks ---------------------------------------------


def test_maintenance_migrates_or_restarts(api: Api) -> None:
    for name, kinds in (
        ("vm1", {"migrateOnHostMaintenance"}),
        ("gpu", {"terminateOnHostMaintenance", "automaticRestart"}),
    ):
        was = get(api, name)
        assert "error" not in api.done("POST", f"{PATH}/{name}/simulateMaintenanceEvent")
        now = get(api, name)
        assert now["status"] == "RUNNING"
        assert (now["lastStartTimestamp"] > was["lastStartTimestamp"]) == (name == "gpu")
        told = api.call("GET", f"zones/{ZONE}/operations", filter=f'targetId="{now["id"]}"')[1]
        found = {one["operationType"].rpartition(".")[2] for one in told["items"]}
        assert kinds <= found
    assert "is not ready" in refused(api, "POST", "off", "/simulateMaintenanceEvent", {})


def test_an_address_is_given_and_taken(api: Api) -> None:
    where: Json = {"networkInterface": "nic0"}
    named = where | {"accessConfig": "External NAT"}
    api.done("POST", f"regions/{REGION}/addresses", {"name": "a", "address": "203.0.113.7"})
    static = {"natIP": "203.0.113.7"}
    words = refused(api, "POST", "vm1", "/addAccessConfig", static, **where)
    assert "At most one access config" in words
    for query, wrong in (
        (named | {"accessConfig": "other"}, "does not exist"),
        (named | {"networkInterface": "nic7"}, "does not exist"),
        (where, "Required field 'accessConfig' not specified"),
    ):
        assert wrong in refused(api, "POST", "vm1", "/deleteAccessConfig", {}, **query)

    for name in ("vm1", "off"):
        assert "error" not in api.done("POST", f"{PATH}/{name}/deleteAccessConfig", **named)
        assert "accessConfigs" not in get(api, name)["networkInterfaces"][0]
    other = {"natIP": "203.0.113.8"}
    assert "was not found" in refused(api, "POST", "vm1", "/addAccessConfig", other, **where)
    assert "error" not in api.done("POST", f"{PATH}/vm1/addAccessConfig", static, **where)
    (access,) = get(api, "vm1")["networkInterfaces"][0]["accessConfigs"]
    assert access["natIP"] == "203.0.113.7" and access["name"] == "External NAT"
    assert "already being used" in refused(api, "POST", "off", "/addAccessConfig", static, **where)
    assert api.call("GET", f"regions/{REGION}/addresses/a")[1]["status"] == "IN_USE"
    api.done("POST", f"{PATH}/vm1/deleteAccessConfig", **named)
    assert api.call("GET", f"regions/{REGION}/addresses/a")[1]["status"] == "RESERVED"
    api.done("POST", f"{PATH}/vm1/addAccessConfig", **where)
    assert "natIP" in get(api, "vm1")["networkInterfaces"][0]["accessConfigs"][0]


def test_the_owner_has_every_permission_of_an_instance(api: Api) -> None:
    assert api.call("GET", f"{PATH}/vm1/getIamPolicy") == (200, {"etag": "ACAB"})
    assert api.call("GET", f"{PATH}/none/getIamPolicy")[0] == 404
    asked = {"permissions": ["compute.instances.stop", "compute.instances.get"]}
    assert api.call("POST", f"{PATH}/vm1/testIamPermissions", asked) == (200, asked)
    assert api.call("POST", f"{PATH}/vm1/testIamPermissions") == (200, {})
    for wrong in ("compute.disks.get", "compute.instances.*", "owner"):
        words = refused(api, "POST", "vm1", "/testIamPermissions", {"permissions": [wrong]})
        assert "is not valid for this resource" in words


def test_each_region_has_one_subnetwork(api: Api) -> None:
    (one,) = api.call("GET", f"regions/{REGION}/subnetworks")[1]["items"]
    assert one == api.call("GET", f"regions/{REGION}/subnetworks/default")[1]
    assert one["selfLink"] == get(api, "vm1")["networkInterfaces"][0]["subnetwork"]
    scopes = api.call("GET", "aggregated/subnetworks")[1]["items"]
    assert scopes[f"regions/{REGION}"]["subnetworks"] == [one]
    assert len(scopes) == len(api.cloud.catalog.regions)
    assert api.call("GET", "regions/mars-north1/subnetworks")[0] == 400
