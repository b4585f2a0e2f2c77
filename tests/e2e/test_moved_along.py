"""What a user has set on a VM himself goes along when it moves to another zone."""

from __future__ import annotations

from tests.harness.crash_points import HeldCloud
from tests.harness.laptop import project

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'
OLD = "europe-west1-b"
OWN = {"team": "vision", "startup-script": "#!/bin/sh\ntouch /var/tmp/mine\n"}


def metadata(vm: dict[str, dict[str, list[dict[str, str]]]]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in vm["metadata"]["items"]}


def test_a_users_own_metadata_goes_along_and_ours_is_made_anew(cloud: HeldCloud) -> None:
    project(cloud.folder, BASE)
    cloud("up", "--zone", OLD, "--idle", "40m")
    (old,) = cloud.all("instances")
    items = [{"key": key, "value": value} for key, value in {**metadata(old), **OWN}.items()]
    path = f"zones/{OLD}/instances/{old['name']}"
    body = {"fingerprint": old["metadata"]["fingerprint"], "items": items}
    cloud.api("POST", f"{path}/setMetadata", body)
    cloud("down")
    cloud.fault(kind="stockout", zone=OLD)
    cloud("up", "--move")
    (new,) = cloud.all("instances")
    assert new["zone"] != old["zone"]
    now = metadata(new)
    assert {key: now.get(key) for key in OWN} == OWN
    assert set(now) == {*metadata(old), "team"}
    assert now["ssh-keys"].count("ssh-ed25519") == 1
    assert "2400" not in now["vmctl-watchdog"], "the settings of this `up`, not of the last"
    assert cloud("exec", "ls", "/var/tmp/mine").stdout == "/var/tmp/mine\n"
