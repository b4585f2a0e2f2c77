"""Disks of a machine that come, go and grow, and its address, while it is there."""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys, nat_ip

SCRIPT = {"key": "startup-script", "value": "#!/bin/sh\necho it holds $(cat /mnt/disks/data/it)\n"}
DEVICES = (
    "curl -s -H Metadata-Flavor:Google http://metadata.google.internal/"
    "computeMetadata/v1/instance/disks/?recursive=true"
)


@pytest.fixture(scope="module")
def cloud(emulator: Emulator, key: Key) -> Iterator[Cloud]:
    """One machine, and a disk of no use yet."""
    made = Cloud(emulator, f"p-{uuid.uuid4().hex[:10]}")
    made.create(made.body(metadata={"items": [key.item, GUEST_ATTRIBUTES, SCRIPT]}))
    where = {"project": made.project, "zone": ZONE}
    made.wait(made.api.disks().insert(**where, body={"name": "d", "sizeGb": "10"}).execute())
    yield made
    made.clear()


def attach(cloud: Cloud, **more: Any) -> None:
    body = {"source": f"zones/{ZONE}/disks/d", "deviceName": "data", **more}
    ended = cloud.do("attachDisk", body=body)
    assert "error" not in ended, ended["error"]


def test_a_disk_comes_goes_grows_and_lasts(cloud: Cloud, key: Key) -> None:
    keys = host_keys(cloud)

    def run(command: str) -> str:
        done = key.run(cloud.get(), keys, command)
        return done.stdout + done.stderr

    attach(cloud)
    assert run("echo 42 >/mnt/disks/data/it; cat /mnt/disks/data/it") == "42\n"
    assert '"deviceName":"data"' in run(DEVICES).replace(" ", "")
    run("tmux new -d -s busy 'cd /mnt/disks/data && sleep 1000'")  # it is in use
    cloud.do("detachDisk", deviceName="data")
    assert run("ls /mnt/disks") == ""
    disks = cloud.api.disks()
    where = {"project": cloud.project, "zone": ZONE, "disk": "d"}
    assert disks.get(**where).execute()["users"] == []

    attach(cloud, mode="READ_ONLY")
    assert run("cat /mnt/disks/data/it") == "42\n"
    assert "Read-only" in run("sudo touch /mnt/disks/data/it")
    cloud.do("detachDisk", deviceName="data")

    attach(cloud)
    cloud.wait(disks.resize(**where, body={"sizeGb": "20"}).execute())
    assert cloud.get()["disks"][1]["diskSizeGb"] == "20"
    with pytest.raises(HttpError, match="must be stopped before its boot disk"):
        cloud.do("detachDisk", deviceName="persistent-disk-0")

    run("echo mine >here")
    cloud.do("stop")
    boot = cloud.get()["disks"][0]
    cloud.do("detachDisk", deviceName="persistent-disk-0")
    with pytest.raises(HttpError, match="has no boot disk"):
        cloud.do("start")
    cloud.do("attachDisk", body={"source": boot["source"], "boot": True, "autoDelete": True})
    assert cloud.get()["disks"][0] == boot
    cloud.do("start")
    serial = cloud.api.instances().getSerialPortOutput(
        project=cloud.project, zone=ZONE, instance="vm1"
    )
    eventually(lambda: "it holds 42" in serial.execute()["contents"], "its script reads the disk")
    assert run("cat here") == "mine\n"
    assert run("echo 43 >/mnt/disks/data/it; cat /mnt/disks/data/it") == "43\n"
    assert "Read-only" in run("sudo touch /mnt/disks/other")


def test_an_address_changes_while_a_machine_runs(cloud: Cloud, key: Key) -> None:
    keys, region = host_keys(cloud), {"project": cloud.project, "region": ZONE[:-2]}
    if cloud.status() != "RUNNING":
        cloud.do("start")
    was = cloud.get()
    made = cloud.api.addresses().insert(**region, body={"name": "a"}).execute()
    operations = cloud.api.regionOperations()
    operations.wait(**region, operation=made["name"]).execute()
    address = cloud.api.addresses().get(**region, address="a").execute()["address"]
    cloud.do("deleteAccessConfig", networkInterface="nic0", accessConfig="External NAT")
    cloud.do("addAccessConfig", networkInterface="nic0", body={"natIP": address})
    now = cloud.get()
    assert nat_ip(now) == address
    assert key.run(now, keys, "hostname").stdout == "vm1\n"
    items = {item["key"]: item["value"] for item in was["metadata"]["items"]}
    old = (nat_ip(was), int(items.get("vmctl-ssh-port", 22)))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(old)
