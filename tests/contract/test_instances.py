"""The life of instances as Google's own client sees it, on machines that are really there."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.eventually import eventually

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys, nat_ip


def operations(cloud: Cloud, text: str) -> list[dict[str, Any]]:
    calls = cloud.api.zoneOperations()
    answer = calls.list(project=cloud.project, zone=ZONE, filter=text).execute()
    return list(answer.get("items", ()))


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


def test_a_key_in_metadata_logs_in_and_host_keys_come_from_guest_attributes(
    cloud: Cloud, key: Key
) -> None:
    instance = cloud.create(cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]}))
    done = key.run(instance, host_keys(cloud), "hostname; id -un; sudo id -un")
    assert done.stdout.split() == ["vm1", "tester", "root"], done.stderr


def test_a_key_added_later_logs_in(cloud: Cloud, key: Key) -> None:
    instance = cloud.create(cloud.body(metadata={"items": [GUEST_ATTRIBUTES]}))
    keys = host_keys(cloud)
    assert key.run(instance, keys, "true").returncode == 255
    metadata = {
        "fingerprint": instance["metadata"]["fingerprint"],
        "items": [GUEST_ATTRIBUTES, key.item],
    }
    assert "error" not in cloud.do("setMetadata", body=metadata)
    eventually(lambda: key.run(cloud.get(), keys, "true").returncode == 0)


def test_shutdown_inside_is_a_stopped_instance(cloud: Cloud, key: Key) -> None:
    instance = cloud.create(cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]}))
    key.run(instance, host_keys(cloud), "sudo shutdown -h now")
    eventually(lambda: cloud.status() == "TERMINATED")
    stopped = cloud.get()
    assert nat_ip(stopped) is None
    assert stopped["lastStopTimestamp"] >= stopped["lastStartTimestamp"]
    found = operations(cloud, 'operationType="compute.instances.guestTerminate"')
    assert [(o["targetId"], o["user"]) for o in found] == [(instance["id"], "system")]


def test_the_disk_survives_stop_and_start_and_the_address_is_released(
    cloud: Cloud, key: Key
) -> None:
    first = cloud.create(cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]}))
    keys = host_keys(cloud)
    assert key.run(first, keys, "echo kept > file").returncode == 0
    cloud.do("stop")
    stopped = cloud.get()
    assert stopped["status"] == "TERMINATED"
    assert nat_ip(stopped) is None
    cloud.do("start")
    second = cloud.get()
    assert second["status"] == "RUNNING"
    assert second["lastStartTimestamp"] > stopped["lastStopTimestamp"]
    assert key.run(second, keys, "cat file").stdout == "kept\n"


def test_reset_keeps_address_and_state(cloud: Cloud) -> None:
    before = cloud.create()
    cloud.do("reset")
    after = cloud.get()
    assert (after["status"], nat_ip(after)) == ("RUNNING", nat_ip(before))
    cloud.do("stop")
    with pytest.raises(HttpError, match="is not ready"):
        cloud.do("reset")


def test_start_and_stop_can_be_repeated(cloud: Cloud) -> None:
    before = cloud.create()
    assert "error" not in cloud.do("start")
    assert nat_ip(cloud.get()) == nat_ip(before)
    cloud.do("stop")
    stopped = cloud.get()
    assert "error" not in cloud.do("stop")
    assert cloud.get()["lastStopTimestamp"] == stopped["lastStopTimestamp"]


def test_nothing_starts_while_it_is_stopping(cloud: Cloud) -> None:
    cloud.create()
    calls = cloud.api.instances()
    where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
    stopping = calls.stop(**where).execute()
    with pytest.raises(HttpError) as refused:
        calls.start(**where).execute()
    cloud.wait(stopping)
    assert refused.value.status_code == 400
    assert refused.value.error_details[0]["reason"] == "resourceNotReady"


def test_delete_takes_the_boot_disk_along_only_if_told(cloud: Cloud) -> None:
    kept = cloud.body("kept")
    kept["disks"][0]["autoDelete"] = False
    for body in (cloud.body("gone"), kept):
        cloud.create(body)
        cloud.do("delete", body["name"])
    disks = cloud.api.disks().list(project=cloud.project, zone=ZONE).execute()["items"]
    assert [(d["name"], d.get("users", [])) for d in disks] == [("kept", [])]
    with pytest.raises(HttpError, match="was not found"):
        cloud.get("gone")


def test_a_kept_disk_boots_again_with_its_content(cloud: Cloud, key: Key) -> None:
    body = cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]})
    body["disks"][0]["autoDelete"] = False
    instance = cloud.create(body)
    assert key.run(instance, host_keys(cloud), "echo kept > file").returncode == 0
    cloud.do("delete")
    again = cloud.create(body)  # a disk of that name exists: it is attached, not created
    assert again["id"] != instance["id"]
    assert key.run(again, host_keys(cloud), "cat file").stdout == "kept\n"


def test_a_disk_in_use_can_be_neither_deleted_nor_attached(cloud: Cloud) -> None:
    cloud.create()
    with pytest.raises(HttpError, match="already being used by"):
        cloud.api.disks().delete(project=cloud.project, zone=ZONE, disk="vm1").execute()
    other = cloud.body("vm2")
    other["disks"] = [{"boot": True, "source": f"zones/{ZONE}/disks/vm1"}]
    with pytest.raises(HttpError, match="already being used by"):
        cloud.insert(other)


def test_the_same_request_id_starts_nothing_new(cloud: Cloud) -> None:
    request_id = str(uuid.uuid4())
    first = cloud.insert(cloud.body(), requestId=request_id)
    second = cloud.insert(cloud.body(), requestId=request_id)
    cloud.wait(first)
    third = cloud.insert(cloud.body(), requestId=request_id)
    assert first["name"] == second["name"] == third["name"]
    assert third["clientOperationId"] == request_id
    with pytest.raises(HttpError) as refused:
        cloud.insert(cloud.body(), requestId=str(uuid.uuid4()))
    assert refused.value.status_code == 409


@pytest.mark.parametrize("request_id", ["00000000-0000-0000-0000-000000000000", "mine"])
def test_a_request_id_must_be_a_uuid(cloud: Cloud, request_id: str) -> None:
    with pytest.raises(HttpError, match="requestId"):
        cloud.insert(cloud.body(), requestId=request_id)


def test_labels_and_metadata_change_only_under_their_fingerprint(cloud: Cloud) -> None:
    instance = cloud.create(cloud.body(labels={"a": "1"}))
    cloud.do(
        "setLabels",
        body={"labelFingerprint": instance["labelFingerprint"], "labels": {"a": "2"}},
    )
    assert cloud.get()["labels"] == {"a": "2"}
    stale = {"labelFingerprint": instance["labelFingerprint"], "labels": {"a": "3"}}
    with pytest.raises(HttpError) as refused:
        cloud.do("setLabels", body=stale)
    assert refused.value.status_code == 412
    assert refused.value.error_details[0]["reason"] == "conditionNotMet"
    with pytest.raises(HttpError, match="does not match current metadata fingerprint"):
        cloud.do("setMetadata", body={"fingerprint": "AAAAAAAAAAA=", "items": []})
    assert cloud.get()["labels"] == {"a": "2"}


def test_scheduling_changes_only_while_terminated(cloud: Cloud) -> None:
    cloud.create()
    new = {"maxRunDuration": {"seconds": "3600"}, "instanceTerminationAction": "STOP"}
    with pytest.raises(HttpError, match="TERMINATED"):
        cloud.do("setScheduling", body=new)
    cloud.do("stop")
    cloud.do("setScheduling", body=new)
    assert "terminationTimestamp" not in cloud.get()["resourceStatus"]["scheduling"]
    cloud.do("start")
    assert cloud.get()["resourceStatus"]["scheduling"]["terminationTimestamp"]


def test_guest_attributes_need_to_be_enabled(cloud: Cloud) -> None:
    cloud.create()
    with pytest.raises(HttpError) as refused:
        host_keys(cloud)
    assert refused.value.status_code == 403


def test_an_attribute_that_is_not_there_is_a_404_with_its_path(cloud: Cloud) -> None:
    cloud.create(cloud.body(metadata={"items": [GUEST_ATTRIBUTES]}))
    calls = cloud.api.instances()
    where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
    with pytest.raises(HttpError, match="'nothing/' of type 'Guest Attribute' was not found"):
        calls.getGuestAttributes(**where, queryPath="nothing/").execute()
    one = calls.getGuestAttributes(**where, variableKey="hostkeys/ssh-ed25519").execute()
    assert one["variableValue"].startswith("AAAA")


def test_the_startup_script_writes_to_the_serial_port_at_each_boot(cloud: Cloud) -> None:
    script = {"key": "startup-script", "value": "#!/bin/sh\necho it-is $((40 + 2))\n"}
    cloud.create(cloud.body(metadata={"items": [script]}))

    def runs() -> int:
        calls = cloud.api.instances()
        where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
        return int(calls.getSerialPortOutput(**where).execute()["contents"].count("it-is 42"))

    eventually(lambda: runs() == 1)
    cloud.do("stop")
    cloud.do("start")
    eventually(lambda: runs() == 2)


def test_serial_output_can_be_read_on_from_where_it_ended(cloud: Cloud) -> None:
    cloud.create()
    calls = cloud.api.instances()
    where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
    whole = calls.getSerialPortOutput(**where).execute()
    rest = calls.getSerialPortOutput(**where, start=whole["next"]).execute()
    assert whole["contents"]
    assert rest["start"] == whole["next"]
    assert not rest["contents"].startswith(whole["contents"][:20])


def test_an_instance_without_access_config_has_no_external_address(cloud: Cloud) -> None:
    instance = cloud.create(cloud.body(networkInterfaces=[{}]))
    assert "accessConfigs" not in instance["networkInterfaces"][0]


def test_local_ssds_make_stop_ask_what_to_do_with_them(cloud: Cloud) -> None:
    body = cloud.gpu_body()
    scratch = {
        "type": "SCRATCH",
        "interface": "NVME",
        "autoDelete": True,
        "initializeParams": {"diskType": f"zones/{ZONE}/diskTypes/local-ssd"},
    }
    body["disks"].append(scratch)
    cloud.create(body)
    with pytest.raises(HttpError, match="Local SSD"):
        cloud.do("stop")
    assert "error" not in cloud.do("stop", discardLocalSsd=True)


def test_a_gpu_machine_has_its_driver_stand_in_and_says_so(cloud: Cloud, key: Key) -> None:
    body = cloud.gpu_body(count=2, metadata={"items": [key.item, GUEST_ATTRIBUTES]})
    instance = cloud.create(body)
    done = key.run(
        instance,
        host_keys(cloud),
        "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader",
    )
    assert done.stdout.lower().count("simulated") >= 2, done
    assert len(done.stdout.splitlines()) == 2
