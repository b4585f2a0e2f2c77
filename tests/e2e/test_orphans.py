"""`vmctl ls --orphans` and `vmctl gc`: what is left behind is found, priced and removed."""

from __future__ import annotations

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud
from tests.harness.eventually import eventually

OURS = {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "old"}
THEIRS = OURS | {"vmctl-owner": "somebody"}
ZONE = "zones/europe-west1-b"


def leave_behind(cloud: HeldCloud, labels: dict[str, str], suffix: str) -> None:
    """A disk, its snapshot, an address and a firewall rule that no VM uses."""
    disk = {
        "name": f"disk-{suffix}",
        "sizeGb": "200",
        "type": f"{ZONE}/diskTypes/pd-ssd",
        "labels": labels,
    }
    cloud.api("POST", f"{ZONE}/disks", disk)
    snapshot = {"name": f"snapshot-{suffix}", "labels": labels}
    cloud.api("POST", f"{ZONE}/disks/disk-{suffix}/createSnapshot", snapshot)
    address = {"name": f"address-{suffix}", "labels": labels}
    cloud.api("POST", "regions/europe-west1/addresses", address)
    rule = {
        "name": f"vmctl-{suffix}",
        "description": f"made by vmctl for {labels['vmctl-owner']}",
        "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "targetTags": ["vmctl"],
    }
    cloud.api("POST", "global/firewalls", rule)
    eventually(
        lambda: all(s["status"] == "READY" for s in cloud.all("snapshots")), "snapshot READY"
    )


def names(cloud: HeldCloud) -> set[str]:
    kinds = ("disks", "snapshots", "addresses", "firewalls")
    found = {item["name"] for kind in kinds for item in cloud.all(kind)}
    return {name for name in found if not name.startswith("default-")}


def test_what_nothing_uses_is_listed_with_its_price_and_removed(cloud: HeldCloud) -> None:
    leave_behind(cloud, OURS, "mine")
    leave_behind(cloud, THEIRS, "theirs")
    shown = cloud("ls", "--orphans").stdout
    assert "disk-mine" in shown
    assert "$34.00" in shown  # 200 GB of SSD
    assert "theirs" not in shown
    found = cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)
    listed = {one["name"]: one["usd_per_month"] for one in found["orphans"]}
    assert listed == {
        "disk-mine": 34.0,
        "snapshot-mine": 0.0,  # empty
        "address-mine": 7.3,
        "vmctl-mine": 0.0,
    }
    assert found["usd_per_month"] == 41.3

    told = cloud("gc", "--yes")
    assert "Removed 4 things: $41.30 a month less." in told.stdout
    assert names(cloud) == {"disk-theirs", "snapshot-theirs", "address-theirs", "vmctl-theirs"}
    assert "Nothing to remove" in cloud("gc").stdout
    cloud.api("DELETE", "global/firewalls/vmctl-theirs")


def test_without_a_terminal_nothing_goes_without_yes(cloud: HeldCloud) -> None:
    leave_behind(cloud, OURS, "mine")
    before = names(cloud)
    told = cloud("gc", code=2).stderr
    assert "Nothing was removed" in told
    assert "vmctl gc --yes" in told
    assert names(cloud) == before
    assert len(cloud.laptop.json("gc", "--yes", cwd=cloud.folder)["deleted"]) == 4


def test_a_machine_and_what_it_uses_are_left_alone(cloud: HeldCloud) -> None:
    def orphans() -> list[str]:
        found = cloud.laptop.json("ls", "--orphans", cwd=cloud.folder)["orphans"]
        return [one["name"] for one in found]

    cloud.fault(kind="slow-boot", seconds=3)
    client = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(lambda: cloud.all("disks"), "the creation has begun")
    assert orphans() == [], "the disk of a machine that is being created"
    client.communicate()
    assert client.returncode == 0
    cloud.api(
        "POST",
        "global/firewalls",
        {
            "name": "vmctl-ssh",
            "description": "made by vmctl for tester",
            "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
            "targetTags": ["vmctl"],
        },
    )
    assert orphans() == []
    cloud("down")
    assert "Nothing to remove" in cloud("gc", "--yes").stdout
    assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["status"] == "TERMINATED"
    cloud("down", "--delete", "--yes")
    assert "vmctl-ssh" in cloud("gc", "--yes").stderr


def test_what_a_machine_took_meanwhile_stays(cloud: HeldCloud) -> None:
    """Between the list and the deletion a VM takes the disk: Google refuses, and that is said."""
    leave_behind(cloud, OURS, "mine")
    cloud.fault(
        kind="http",
        method="compute.disks.delete",
        status=400,
        reason="resourceInUseByAnotherResource",
        message="The disk resource 'disk-mine' is already being used by 'vm'",
    )
    told = cloud("gc", "--yes", code=4).stderr
    assert "disk-mine was not deleted" in told
    assert "3 of 4 were removed" in told
    assert {item["name"] for item in cloud.all("disks")} == {"disk-mine"}


def test_gc_killed_after_each_change_and_typed_again(cloud: HeldCloud) -> None:
    leave_behind(cloud, OURS, "mine")
    for left in (3, 2, 1, 0):
        assert cloud.killed_at(1, "after", "gc", "--yes", changes=True) is not None
        eventually(lambda left=left: len(names(cloud)) == left, f"{left} are left")
    assert "Nothing to remove" in cloud("gc", "--yes").stdout


@pytest.mark.exhaustive
@pytest.mark.parametrize("when", MOMENTS)
def test_gc_killed_at_every_change_and_typed_again(cloud: HeldCloud, when: str) -> None:
    def left_behind() -> None:
        cloud("gc", "--yes")
        leave_behind(cloud, OURS, "mine")

    seen = []
    for at in cloud.at_every_call(when, "gc", "--yes", changes=True, before_each=left_behind):
        cloud("gc", "--yes")
        assert names(cloud) == set(), at
        seen.append(at)
    assert len(seen) == 4
