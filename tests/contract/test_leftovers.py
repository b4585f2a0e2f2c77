"""Snapshots, disks on their own and from snapshots, static addresses, held calls."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually

from .conftest import GUEST_ATTRIBUTES, ZONE, Cloud, Key, host_keys

OTHER = "europe-west1-d"
REGION = "europe-west1"


def snapshot(cloud: Cloud, disk: str = "vm1", name: str = "s1", **more: Any) -> dict[str, Any]:
    """Take a snapshot of a disk, wait for it and return it."""
    where = {"project": cloud.project, "zone": ZONE, "disk": disk}
    asked = cloud.api.disks().createSnapshot(**where, body={"name": name, **more}).execute()
    ended = cloud.wait(asked)
    assert "error" not in ended, ended["error"]
    assert ended["operationType"] == "createSnapshot"
    return dict(cloud.api.snapshots().get(project=cloud.project, snapshot=name).execute())


def from_snapshot(cloud: Cloud, key: Key, zone: str, **start: Any) -> dict[str, Any]:
    return cloud.body(
        "vm1",
        zone,
        disks=[
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {"sourceSnapshot": "global/snapshots/s1", **start},
            }
        ],
        metadata={"items": [key.item, GUEST_ATTRIBUTES]},
    )


def test_a_snapshot_carries_a_disk_into_another_zone(cloud: Cloud, key: Key) -> None:
    body = cloud.body(metadata={"items": [key.item, GUEST_ATTRIBUTES]})
    old = cloud.create(body)
    keys = host_keys(cloud, "vm1")
    assert key.run(old, keys, "echo precious > kept; chmod 640 kept; ln -s kept link").stderr == ""
    cloud.do("stop")
    made = snapshot(cloud, labels={"mine": "1"})
    assert made["status"] == "READY"
    assert made["labels"] == {"mine": "1"}
    assert made["sourceDisk"].endswith(f"zones/{ZONE}/disks/vm1")
    assert int(made["storageBytes"]) > 0

    new = cloud.create(from_snapshot(cloud, key, OTHER), OTHER)
    keys = eventually(lambda: published(cloud, OTHER))
    told = key.run(new, keys, "cat link; stat -c %a kept")
    assert told.stdout == "precious\n640\n", told.stderr
    # another instance has host keys of its own, whatever was on the disk
    assert not {k["value"] for k in keys} & {k["value"] for k in host_keys_of(cloud, ZONE)}
    cloud.api.snapshots().delete(project=cloud.project, snapshot="s1").execute()
    assert key.run(new, keys, "cat kept").stdout == "precious\n"


def host_keys_of(cloud: Cloud, zone: str) -> list[dict[str, str]]:
    where = {"project": cloud.project, "zone": zone, "instance": "vm1"}
    found = cloud.api.instances().getGuestAttributes(**where, queryPath="hostkeys/").execute()
    return list(found["queryValue"]["items"])


def published(cloud: Cloud, zone: str) -> list[dict[str, str]]:
    try:
        return host_keys_of(cloud, zone)
    except HttpError:
        return []


def with_a_disk(cloud: Cloud) -> None:
    """A disk "vm1" without an instance: enough to take snapshots of."""
    where = {"project": cloud.project, "zone": ZONE}
    cloud.wait(cloud.api.disks().insert(**where, body={"name": "vm1", "sizeGb": "10"}).execute())


def test_a_disk_from_a_snapshot_boots(cloud: Cloud, key: Key) -> None:
    cloud.create()
    cloud.do("stop")
    snapshot(cloud)
    body = {"name": "copy", "sourceSnapshot": "global/snapshots/s1", "sizeGb": "20"}
    where = {"project": cloud.project, "zone": OTHER}
    cloud.wait(cloud.api.disks().insert(**where, body=body).execute())
    disk = cloud.api.disks().get(**where, disk="copy").execute()
    assert (disk["status"], disk["sizeGb"]) == ("READY", "20")
    attached = {"boot": True, "autoDelete": True, "source": f"zones/{OTHER}/disks/copy"}
    vm = cloud.create(cloud.body("vm2", OTHER, disks=[attached]), OTHER)
    assert vm["disks"][0]["source"] == disk["selfLink"]


def test_a_disk_smaller_than_its_snapshot_is_refused(cloud: Cloud) -> None:
    with_a_disk(cloud)
    snapshot(cloud)
    body = {"name": "copy", "sourceSnapshot": "global/snapshots/s1", "sizeGb": "1"}
    with pytest.raises(HttpError, match="cannot be smaller than the snapshot size"):
        cloud.api.disks().insert(project=cloud.project, zone=OTHER, body=body).execute()


def test_snapshot_names_are_unique_and_missing_ones_are_named(cloud: Cloud, key: Key) -> None:
    with_a_disk(cloud)
    snapshot(cloud)
    where = {"project": cloud.project, "zone": ZONE, "disk": "vm1"}
    with pytest.raises(HttpError, match=r"snapshots/s1' already exists"):
        cloud.api.disks().createSnapshot(**where, body={"name": "s1"}).execute()
    cloud.wait(cloud.api.snapshots().delete(project=cloud.project, snapshot="s1").execute())
    with pytest.raises(HttpError, match=r"snapshots/s1' was not found"):
        cloud.api.snapshots().get(project=cloud.project, snapshot="s1").execute()
    with pytest.raises(HttpError, match="snapshot resource cannot be found"):
        cloud.insert(from_snapshot(cloud, key, OTHER), OTHER)


def test_a_stockout_leaves_no_disk_of_a_snapshot(cloud: Cloud, key: Key) -> None:
    with_a_disk(cloud)
    snapshot(cloud)
    with cloud.emulator.fault(kind="stockout", zone=OTHER):
        assert "error" in cloud.wait(cloud.insert(from_snapshot(cloud, key, OTHER), OTHER))
    assert "items" not in cloud.api.disks().list(project=cloud.project, zone=OTHER).execute()


def test_a_snapshot_outlives_a_disk_that_is_deleted_meanwhile(cloud: Cloud) -> None:
    cloud.create()
    where = {"project": cloud.project, "zone": ZONE}
    taking = cloud.api.disks().createSnapshot(**where, disk="vm1", body={"name": "s1"}).execute()
    cloud.do("delete")
    assert "error" not in cloud.wait(taking)
    made = cloud.api.snapshots().get(project=cloud.project, snapshot="s1").execute()
    assert made["status"] == "READY"
    assert int(made["storageBytes"]) > 0
    assert "items" not in cloud.api.disks().list(**where).execute()


def test_static_addresses_are_reserved_and_given_back(cloud: Cloud) -> None:
    where = {"project": cloud.project, "region": REGION}
    addresses = cloud.api.addresses()
    asked = addresses.insert(**where, body={"name": "a1", "labels": {"mine": "1"}}).execute()
    operation = {"operation": asked["name"], **where}
    assert cloud.api.regionOperations().wait(**operation).execute()["status"] == "DONE"
    (found,) = addresses.list(**where).execute()["items"]
    assert (found["status"], found["labels"]) == ("RESERVED", {"mine": "1"})
    everywhere = addresses.aggregatedList(project=cloud.project).execute()["items"]
    assert everywhere[f"regions/{REGION}"]["addresses"] == [found]
    addresses.delete(**where, address="a1").execute()
    assert "items" not in addresses.list(**where).execute()


def test_a_copy_cut_short_is_finished_by_the_next_emulator(
    own_emulator: Callable[..., Emulator],
) -> None:
    emulator = own_emulator()
    cloud = Cloud(emulator, "p1")
    cloud.create()
    cloud.do("stop")
    where = {"project": "p1", "zone": ZONE}
    body = {"name": "copy", "sourceSnapshot": "global/snapshots/s1"}

    def ended_by_the_next(request: Any) -> None:
        operation = request.execute()
        emulator.stop(signal.SIGKILL)
        ended = Cloud(emulator.start(), "p1").wait(operation)
        assert "error" not in ended, ended["error"]

    def is_whole(copy: dict[str, Any]) -> None:
        assert copy["status"] == "READY"
        folder = emulator.home / "machines" / copy["id"]
        assert (folder / "fs/etc").is_dir()
        assert not list(folder.parent.glob("*.copying"))

    ended_by_the_next(cloud.api.disks().createSnapshot(**where, disk="vm1", body={"name": "s1"}))
    is_whole(cloud.api.snapshots().get(project="p1", snapshot="s1").execute())
    ended_by_the_next(cloud.api.disks().insert(**where, body=body))
    is_whole(cloud.api.disks().get(**where, disk="copy").execute())


@pytest.mark.parametrize(("when", "made"), [("before", 0), ("after", 1)])
def test_a_held_call_ends_unanswered(cloud: Cloud, when: str, made: int) -> None:
    """Held before it acted it never acts, held after it has acted."""
    emulator = cloud.emulator
    emulator.admin("POST", "hold", {"call": 1, "when": when, "changes": True})
    path = f"/compute/v1/projects/{cloud.project}/regions/{REGION}/addresses"
    broken: list[Exception] = []

    def ask() -> None:
        try:
            emulator.send("POST", path, {"name": "a1"}, {"Content-Type": "application/json"})
        except Exception as error:  # however the connection's end looks
            broken.append(error)

    client = threading.Thread(target=ask)
    client.start()
    held = eventually(lambda: emulator.admin("GET", "hold")["held"])
    assert held == {"call": 1, "method": "compute.addresses.insert", "when": when}
    emulator.admin("DELETE", "hold")
    client.join(10)
    assert len(broken) == 1
    listed = cloud.api.addresses().list(project=cloud.project, region=REGION).execute()
    assert len(listed.get("items", [])) == made


def test_a_question_asked_again_and_again_counts_once(emulator: Emulator) -> None:
    emulator.admin("POST", "hold", {"call": 100, "repeats": False})
    for path in ("zones", "zones", "zones?maxResults=1", "regions", "zones"):
        emulator.send("GET", f"/compute/v1/projects/p-repeats/{path}")
    assert emulator.admin("DELETE", "hold")["calls"] == 4


def test_a_malformed_hold_is_refused(emulator: Emulator) -> None:
    for body in (
        {},
        {"call": 0},
        {"call": 1, "when": "later"},
        {"call": 1, "changes": 1},
        {"call": 1, "method": 2},
        {"call": 1, "repeats": 0},
    ):
        assert emulator.send("POST", "/emulator/v1/hold", body)[0] == 400
