"""The life of instances as Google's own client sees it, on machines that are really there."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys, nat_ip


def operations(cloud: Cloud, text: str) -> list[dict[str, Any]]:
    calls = cloud.api.zoneOperations()
    answer = calls.list(project=cloud.project, zone=ZONE, filter=text).execute()
    return list(answer.get("items", ()))


SCRIPT = {"key": "startup-script", "value": "#!/bin/sh\necho it-is $((40 + 2))\n"}


@pytest.fixture(scope="module")
def lasting(emulator: Emulator, key: Key) -> Iterator[Cloud]:
    """One machine for all that does it no lasting harm: a boot is most of what a test costs."""
    made = Cloud(emulator, f"p-{uuid.uuid4().hex[:10]}")
    items = [key.item, GUEST_ATTRIBUTES, SCRIPT]
    made.create(made.body(metadata={"items": items}, labels={"a": "1"}))
    yield made
    made.clear()


@pytest.fixture
def running(lasting: Cloud) -> Cloud:
    """Its vm1 runs."""
    if lasting.status() != "RUNNING":
        lasting.do("start")
    return lasting


@pytest.fixture
def stopped(lasting: Cloud) -> Cloud:
    """Its vm1 is off."""
    if lasting.status() != "TERMINATED":
        lasting.do("stop")
    return lasting


def where(cloud: Cloud) -> dict[str, str]:
    return {"project": cloud.project, "zone": ZONE, "instance": "vm1"}


# -- being made ------------------------------------------------------------------------------


def test_insert_answers_at_once_and_ends_in_a_running_machine(cloud: Cloud) -> None:
    started = cloud.insert(cloud.body())
    assert started["status"] in ("PENDING", "RUNNING")
    assert cloud.status() in ("PROVISIONING", "STAGING", "RUNNING")
    ended = cloud.wait(started)
    assert "error" not in ended
    assert ended["progress"] == 100
    instance = cloud.get()
    assert instance["status"] == "RUNNING"
    assert instance["id"] == ended["targetId"]
    assert nat_ip(instance)

    # and its guest attributes need to be enabled
    with pytest.raises(HttpError) as refused:
        host_keys(cloud)
    assert refused.value.status_code == 403


def test_the_same_request_id_starts_nothing_new(cloud: Cloud) -> None:
    cloud.emulator.admin("POST", "faults", {"kind": "slow-boot", "seconds": 86_400, "calls": 1})
    request_id = str(uuid.uuid4())
    first = cloud.insert(cloud.body(), requestId=request_id)
    second = cloud.insert(cloud.body(), requestId=request_id)
    cloud.do("delete")
    cloud.wait(first)
    third = cloud.insert(cloud.body(), requestId=request_id)
    assert first["name"] == second["name"] == third["name"]
    assert third["clientOperationId"] == request_id


def test_another_request_id_is_another_request(lasting: Cloud) -> None:
    with pytest.raises(HttpError) as refused:
        lasting.insert(lasting.body(), requestId=str(uuid.uuid4()))
    assert refused.value.status_code == 409


@pytest.mark.parametrize("request_id", ["00000000-0000-0000-0000-000000000000", "mine"])
def test_a_request_id_must_be_a_uuid(cloud: Cloud, request_id: str) -> None:
    with pytest.raises(HttpError, match="requestId"):
        cloud.insert(cloud.body(), requestId=request_id)


def test_an_instance_without_access_config_has_no_external_address(cloud: Cloud) -> None:
    instance = cloud.granted(cloud.body(networkInterfaces=[{}]))
    assert "accessConfigs" not in instance["networkInterfaces"][0]


# -- while it runs ---------------------------------------------------------------------------


def test_a_key_in_metadata_logs_in_and_host_keys_come_from_guest_attributes(
    running: Cloud, key: Key
) -> None:
    done = key.run(running.get(), host_keys(running), "hostname; id -un; sudo id -un")
    assert done.stdout.split() == ["vm1", "tester", "root"], done.stderr


def test_a_key_added_later_logs_in(running: Cloud, key: Key) -> None:
    keys = host_keys(running)

    def lets_in(*items: dict[str, str]) -> bool:
        fingerprint = running.get()["metadata"]["fingerprint"]
        body = {"fingerprint": fingerprint, "items": [GUEST_ATTRIBUTES, SCRIPT, *items]}
        assert "error" not in running.do("setMetadata", body=body)
        wanted = 0 if items else 255
        eventually(lambda: key.run(running.get(), keys, "true").returncode == wanted)
        return bool(items)

    assert not lets_in()
    assert lets_in(key.item)


def test_labels_and_metadata_change_only_under_their_fingerprint(running: Cloud) -> None:
    instance = running.get()
    assert instance["labels"] == {"a": "1"}
    running.do(
        "setLabels",
        body={"labelFingerprint": instance["labelFingerprint"], "labels": {"a": "2"}},
    )
    assert running.get()["labels"] == {"a": "2"}
    stale = {"labelFingerprint": instance["labelFingerprint"], "labels": {"a": "3"}}
    with pytest.raises(HttpError) as refused:
        running.do("setLabels", body=stale)
    assert refused.value.status_code == 412
    assert refused.value.error_details[0]["reason"] == "conditionNotMet"
    with pytest.raises(HttpError, match="does not match current metadata fingerprint"):
        running.do("setMetadata", body={"fingerprint": "AAAAAAAAAAA=", "items": []})
    assert running.get()["labels"] == {"a": "2"}


def test_an_attribute_that_is_not_there_is_a_404_with_its_path(running: Cloud) -> None:
    calls = running.api.instances()
    with pytest.raises(HttpError, match="'nothing/' of type 'Guest Attribute' was not found"):
        calls.getGuestAttributes(**where(running), queryPath="nothing/").execute()
    asked = calls.getGuestAttributes(**where(running), variableKey="hostkeys/ssh-ed25519")
    assert asked.execute()["variableValue"].startswith("AAAA")


def test_serial_output_can_be_read_on_from_where_it_ended(running: Cloud) -> None:
    calls = running.api.instances()
    whole = calls.getSerialPortOutput(**where(running)).execute()
    rest = calls.getSerialPortOutput(**where(running), start=whole["next"]).execute()
    assert whole["contents"]
    assert rest["start"] == whole["next"]
    # not by its first characters: the lines of one second begin alike
    assert whole["contents"].splitlines()[0] not in rest["contents"]


def test_a_disk_in_use_can_be_neither_deleted_nor_attached(lasting: Cloud) -> None:
    with pytest.raises(HttpError, match="already being used by"):
        lasting.api.disks().delete(project=lasting.project, zone=ZONE, disk="vm1").execute()
    other = lasting.body("vm2")
    other["disks"] = [{"boot": True, "source": f"zones/{ZONE}/disks/vm1"}]
    with pytest.raises(HttpError, match="already being used by"):
        lasting.insert(other)


# -- off and on ------------------------------------------------------------------------------


def test_the_disk_survives_stop_and_start_and_the_address_is_released(
    running: Cloud, key: Key
) -> None:
    def runs_of_the_script() -> int:
        asked = running.api.instances().getSerialPortOutput(**where(running))
        return int(asked.execute()["contents"].count("it-is 42"))

    first, keys = running.get(), host_keys(running)
    assert key.run(first, keys, "echo kept > file").returncode == 0
    runs = eventually(runs_of_the_script)
    running.do("stop")
    stopped = running.get()
    assert stopped["status"] == "TERMINATED"
    assert nat_ip(stopped) is None
    running.do("start")
    second = running.get()
    assert second["status"] == "RUNNING"
    assert second["lastStartTimestamp"] > stopped["lastStopTimestamp"]
    assert key.run(second, keys, "cat file").stdout == "kept\n"
    # the startup script writes to the serial port at each boot
    eventually(lambda: runs_of_the_script() == runs + 1)


def test_shutdown_inside_is_a_stopped_instance(running: Cloud, key: Key) -> None:
    instance = running.get()
    key.run(instance, host_keys(running), "sudo shutdown -h now")
    eventually(lambda: running.status() == "TERMINATED")
    stopped = running.get()
    assert nat_ip(stopped) is None
    assert stopped["lastStopTimestamp"] >= stopped["lastStartTimestamp"]
    found = operations(running, 'operationType="compute.instances.guestTerminate"')
    assert [(o["targetId"], o["user"]) for o in found] == [(instance["id"], "system")]


def test_stop_can_be_repeated(stopped: Cloud) -> None:
    before = stopped.get()
    assert "error" not in stopped.do("stop")
    assert stopped.get()["lastStopTimestamp"] == before["lastStopTimestamp"]


def test_scheduling_changes_only_while_terminated(stopped: Cloud) -> None:
    new = {"maxRunDuration": {"seconds": "36000"}, "instanceTerminationAction": "STOP"}
    stopped.do("setScheduling", body=new)
    assert "terminationTimestamp" not in stopped.get()["resourceStatus"]["scheduling"]
    stopped.do("start")
    assert stopped.get()["resourceStatus"]["scheduling"]["terminationTimestamp"]
    with pytest.raises(HttpError, match="TERMINATED"):
        stopped.do("setScheduling", body=new)


def test_start_can_be_repeated(running: Cloud) -> None:
    before = running.get()
    assert "error" not in running.do("start")
    assert nat_ip(running.get()) == nat_ip(before)


def test_reset_keeps_address_and_state_and_nothing_starts_while_it_is_stopping(
    running: Cloud,
) -> None:
    before = running.get()
    running.do("reset")
    after = running.get()
    assert (after["status"], nat_ip(after)) == ("RUNNING", nat_ip(before))

    calls = running.api.instances()
    stopping = calls.stop(**where(running)).execute()
    with pytest.raises(HttpError) as refused:
        calls.start(**where(running)).execute()
    running.wait(stopping)
    assert refused.value.status_code == 400
    assert refused.value.error_details[0]["reason"] == "resourceNotReady"
    with pytest.raises(HttpError, match="is not ready"):
        running.do("reset")


# -- disks and GPUs --------------------------------------------------------------------------


def test_a_kept_disk_boots_again_and_is_deleted_only_on_request(cloud: Cloud, key: Key) -> None:
    def disks() -> list[tuple[str, list[str]]]:
        found = cloud.api.disks().list(project=cloud.project, zone=ZONE).execute()
        return [(disk["name"], disk.get("users", [])) for disk in found.get("items", ())]

    body = cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]})
    body["disks"][0]["autoDelete"] = False
    instance = cloud.create(body)
    assert key.run(instance, host_keys(cloud), "echo kept > file").returncode == 0
    cloud.do("delete")
    assert disks() == [("vm1", [])]
    with pytest.raises(HttpError, match="was not found"):
        cloud.get()

    body["disks"][0]["autoDelete"] = True
    again = cloud.create(body)  # a disk of that name exists: it is attached, not created
    assert again["id"] != instance["id"]
    assert key.run(again, host_keys(cloud), "cat file").stdout == "kept\n"
    cloud.do("delete")
    assert disks() == []


def test_a_gpu_machine_has_its_driver_stand_in_and_its_local_ssds_make_stop_ask(
    cloud: Cloud, key: Key
) -> None:
    body = cloud.gpu_body(count=2, metadata={"items": [key.item, GUEST_ATTRIBUTES]})
    scratch = {
        "type": "SCRATCH",
        "interface": "NVME",
        "autoDelete": True,
        "initializeParams": {"diskType": f"zones/{ZONE}/diskTypes/local-ssd"},
    }
    body["disks"].append(scratch)
    instance = cloud.create(body)
    done = key.run(
        instance,
        host_keys(cloud),
        "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader",
    )
    assert done.stdout.lower().count("simulated") >= 2, done
    assert len(done.stdout.splitlines()) == 2
    with pytest.raises(HttpError, match="Local SSD"):
        cloud.do("stop")
    assert "error" not in cloud.do("stop", discardLocalSsd=True)
