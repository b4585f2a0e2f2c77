"""The emulator's methods by themselves, without machines: what they change and what they show."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.api import PROJECT, REGION, ZONE, Api, instance, open_api
from vmctl.emulator.http import urls

Json = dict[str, Any]
VM = f"zones/{ZONE}/instances/vm1"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    with open_api(tmp_path_factory.mktemp("api")) as opened:
        opened.done("POST", f"zones/{ZONE}/instances", instance())
        yield opened


def test_resources_are_found_by_their_numbers_too(api: Api) -> None:
    number = urls.project_number(PROJECT)
    status, operation = api.call("POST", f"{VM}/setLabels", _labels(api))
    assert status == 200
    for path in (VM, f"zones/{ZONE}/disks/vm1", f"zones/{ZONE}/operations/{operation['name']}"):
        one = api.call("GET", path)[1]
        by_id = f"{path.rpartition('/')[0]}/{one['id']}"
        assert api.call("GET", by_id)[1]["name"] == one["name"]
        assert api.send("GET", f"projects/{number}/{by_id}")[1]["name"] == one["name"]
    listed = api.send("GET", f"projects/{number}/zones/{ZONE}/instances")[1]
    assert listed["id"] == f"projects/{PROJECT}/zones/{ZONE}/instances"
    assert [one["name"] for one in listed["items"]] == ["vm1"]
    waited = api.call("POST", f"zones/{ZONE}/operations/{operation['id']}/wait")[1]
    assert waited["status"] == "DONE"
    assert api.send("GET", "projects/123456789012")[0] == 404


def test_a_change_by_number_is_a_change_of_the_named(api: Api) -> None:
    id_ = api.call("GET", VM)[1]["id"]
    api.done("POST", f"zones/{ZONE}/instances/{id_}/setLabels", _labels(api, a="b"))
    assert api.call("GET", VM)[1]["labels"] == {"a": "b"}


def test_a_global_method_starts_a_global_operation(api: Api) -> None:
    source = {"sourceDisk": f"projects/{PROJECT}/zones/{ZONE}/disks/vm1"}
    for path, where in (
        ("global/snapshots", "global"),
        (f"zones/{ZONE}/disks/vm1/createSnapshot", f"zones/{ZONE}"),
    ):
        name = where.replace("/", "-")
        # the disk's zone is in no document of Google's: Ansible sends it
        status, operation = api.call("POST", path, {"name": name, "zone": ZONE} | source)
        assert status == 200, operation
        assert f"/{where}/operations/" in operation["selfLink"]
        assert ("zone" in operation) == ("zones" in where)
        done = api.call("POST", f"{where}/operations/{operation['name']}/wait")[1]
        assert done["status"] == "DONE" and "error" not in done
        assert api.call("GET", f"global/snapshots/{name}")[1]["status"] == "READY"


def test_serial_output_goes_on_past_the_megabyte_that_is_kept(api: Api) -> None:
    def read(**start: int) -> tuple[int, str, int]:
        shown = api.call("GET", f"{VM}/serialPort", **start)[1]
        return int(shown["start"]), shown["contents"], int(shown["next"])

    line = "0123456789abcde\n"
    api.host.serial.write(line.encode() * 10)
    assert read(start=-20) == (140, "cde\n" + line, 160)
    assert read(start=-1000)[0] == read()[0] == 0
    heard = 160
    for _ in range(16):  # 4 MiB: what is kept is cut more than once
        api.host.serial.write(line.encode() * (1 << 14))
        start, contents, heard_now = read(start=heard)
        assert (start, len(contents), heard_now) == (heard, 1 << 18, heard + (1 << 18))
        heard = heard_now
    start, contents, end = read(start=0)
    assert (end, end - start, len(contents)) == (heard, 1 << 20, 1 << 20)
    assert read(start=end + 5) == (end, "", end)
    assert read(start=-16)[1] == line


def test_a_reserved_address_is_the_instances_until_it_is_deleted(api: Api) -> None:
    addresses = f"regions/{REGION}/addresses"
    api.done("POST", addresses, {"name": "a1", "address": "203.0.113.9"})
    status, refused = api.call("POST", addresses, {"name": "a2", "address": "203.0.113.9"})
    assert (status, "already reserved" in refused["error"]["message"]) == (400, True)
    assert api.call("POST", addresses, {"name": "a2", "address": "here"})[0] == 400
    api.done("POST", addresses, {"name": "a3"})
    for name in ("a1", "a3"):
        made = api.call("GET", f"{addresses}/{name}")[1]
        assert made["status"] == "RESERVED"
        nics = [{"accessConfigs": [{"natIP": made["address"]}]}]
        body = instance(f"with-{name}", networkInterfaces=nics)
        vm = f"zones/{ZONE}/instances/with-{name}"
        assert "error" not in api.done("POST", f"zones/{ZONE}/instances", body)
        assert _address(api, vm) == made["address"]
        used = api.call("GET", f"{addresses}/{name}")[1]
        assert (used["status"], used["users"][0].endswith(vm)) == ("IN_USE", True)
        assert api.call("DELETE", f"{addresses}/{name}")[0] == 400
        again = body | {"name": "again"}
        assert api.call("POST", f"zones/{ZONE}/instances", again)[0] == 400
        api.done("POST", f"{vm}/stop")
        assert _address(api, vm) == made["address"]
        api.done("DELETE", vm)
        api.done("DELETE", f"{addresses}/{name}")
    assert "items" not in api.call("GET", addresses)[1]


def test_an_address_in_use_can_be_reserved_for_good(api: Api) -> None:
    addresses = f"regions/{REGION}/addresses"
    api.done("POST", addresses, {"name": "kept", "address": _address(api, VM)})
    kept = api.call("GET", f"{addresses}/kept")[1]
    assert (kept["status"], kept["address"]) == ("IN_USE", _address(api, VM))


@pytest.mark.parametrize(
    ("machine", "more", "message"),
    [
        ("n1-standard-1", {"maxRunDuration": {"seconds": 60}}, "discardLocalSsd"),
        ("e2-small", {}, "[local-ssd, e2-small] features are not compatible"),
    ],
)
def test_local_ssds_are_refused_where_google_refuses_them(
    api: Api, machine: str, more: Json, message: str
) -> None:
    body = instance("ssd", machineType=f"zones/{ZONE}/machineTypes/{machine}")
    disk_type = {"diskType": f"zones/{ZONE}/diskTypes/local-ssd"}
    body["disks"].append({"type": "SCRATCH", "initializeParams": disk_type})
    body["scheduling"] = more | ({"instanceTerminationAction": "STOP"} if more else {})
    status, reply = api.call("POST", f"zones/{ZONE}/instances", body)
    assert (status, message in reply["error"]["message"]) == (400, True), reply
    if more:
        body["scheduling"]["onInstanceStopAction"] = {"discardLocalSsd": True}
        assert "error" not in api.done("POST", f"zones/{ZONE}/instances", body)
        api.done("DELETE", f"zones/{ZONE}/instances/ssd")


@pytest.mark.parametrize(
    ("name", "count"),
    [("a2-ultragpu-2g", 2), ("a3-highgpu-8g", 16), ("a2-highgpu-1g", 0), ("g2-standard-4", 0)],
)
def test_local_ssds_that_are_part_of_a_machine_are_shown_and_make_stop_ask(
    api: Api, name: str, count: int
) -> None:
    zone = "europe-west4-a" if name.startswith("a2") else ZONE
    shown = api.call("GET", f"zones/{zone}/machineTypes/{name}")[1]
    parts = {"defaultInterface": "NVME", "partitionCount": count} if count else None
    assert shown.get("bundledLocalSsds") == parts
    machine = f"zones/{zone}/machineTypes/{name}"
    body = instance("own", machineType=machine, scheduling={"onHostMaintenance": "TERMINATE"})
    vm = f"zones/{zone}/instances/own"
    assert "error" not in api.done("POST", f"zones/{zone}/instances", body)
    disks = api.call("GET", vm)[1]["disks"][1:]
    assert [(d["type"], d["interface"], d["diskSizeGb"]) for d in disks] == [
        ("SCRATCH", "NVME", "375")
    ] * count
    assert len({disk["deviceName"] for disk in disks}) == count
    if count:
        status, refused = api.call("POST", f"{vm}/stop")
        assert (status, "discard-local-ssd" in refused["error"]["message"]) == (400, True)
    api.done("POST", f"{vm}/stop", discardLocalSsd="true")
    assert api.call("GET", vm)[1]["status"] == "TERMINATED"
    api.done("DELETE", vm)


def test_e2_takes_no_minimum_platform(api: Api) -> None:
    machine = f"zones/{ZONE}/machineTypes/e2-small"
    body = instance("old", machineType=machine, minCpuPlatform="Intel Skylake")
    assert api.call("POST", f"zones/{ZONE}/instances", body)[0] == 400


def test_e2_migrates_unless_it_is_spot(api: Api) -> None:
    vms, machine = f"zones/{ZONE}/instances", f"zones/{ZONE}/machineTypes/e2-small"
    ended = {"onHostMaintenance": "TERMINATE"}
    body = instance("e2", machineType=machine, scheduling=ended)
    status, refused = api.call("POST", vms, body)
    message = "e2 instances do not support onHostMaintenance=TERMINATE unless they are preemptible."
    assert (status, refused["error"]["message"]) == (400, message)
    body["scheduling"] = {"provisioningModel": "SPOT", **ended}
    assert "error" not in api.done("POST", vms, body)
    api.done("POST", f"{vms}/e2/stop")
    status, refused = api.call("POST", f"{vms}/e2/setScheduling", ended)
    assert (status, refused["error"]["message"]) == (400, message)
    api.done("POST", f"{vms}/e2/setScheduling", {"onHostMaintenance": "MIGRATE"})
    api.done("DELETE", f"{vms}/e2")


def _address(api: Api, vm: str) -> str:
    access = api.call("GET", vm)[1]["networkInterfaces"][0]["accessConfigs"][0]
    return str(access["natIP"])


def _labels(api: Api, **labels: str) -> Json:
    return {"labels": labels, "labelFingerprint": api.call("GET", VM)[1]["labelFingerprint"]}


def test_a_disk_grows_and_its_instance_shows_it(api: Api) -> None:
    disk = f"zones/{ZONE}/disks/vm1"
    api.done("POST", f"{disk}/resize", {"sizeGb": "25"})
    assert api.call("GET", disk)[1]["sizeGb"] == "25"
    assert api.call("GET", VM)[1]["disks"][0]["diskSizeGb"] == "25"
    for wrong in ({"sizeGb": "25"}, {"sizeGb": "10"}, {"sizeGb": "999999"}, {}):
        assert api.call("POST", f"{disk}/resize", wrong)[0] == 400, wrong
    operation = api.call("POST", f"{disk}/resize", {"sizeGb": "60000"})[1]
    ended = api.call("POST", f"zones/{ZONE}/operations/{operation['name']}/wait")[1]
    assert ended["error"]["errors"][0]["code"] == "QUOTA_EXCEEDED"
    assert api.call("GET", disk)[1]["sizeGb"] == "25"
