"""`vmctl adopt`: a VM that the console or gcloud made becomes the project's, and stays whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.attempts import ZONE_B, ZONE_C
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.laptop import BASE, project

IMPOSTOR = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH" + "A" * 42
ROOT = "/compute/v1/projects/vmctl-local"


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[LocalCloud]:
    with LocalCloud.opened("adopt") as made:
        yield made


@pytest.fixture
def cloud(one_cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The same cloud; whatever VM a test made in it is deleted as its maker would."""
    yield one_cloud
    one_cloud.clear()


def make_unbooted(cloud: LocalCloud, name: str, zone: str = ZONE_B, **more: Any) -> None:
    """A VM of which only the list matters: it is still on its way to RUNNING."""
    cloud.fault(kind="slow-boot", seconds=3600, instance=name, zone=zone)
    begin(cloud, name, zone, **more)
    reached(cloud, name, "STAGING", zone)


def make(cloud: LocalCloud, name: str, zone: str = ZONE_B, **more: Any) -> None:
    """A VM that runs."""
    begin(cloud, name, zone, **more)
    reached(cloud, name, "RUNNING", zone)


def begin(cloud: LocalCloud, name: str, zone: str, **more: Any) -> None:
    """A VM as the console makes it: no labels, no run limit, somebody's key."""
    body = {
        "name": name,
        "machineType": f"zones/{zone}/machineTypes/e2-small",
        "disks": [
            {
                "boot": True,
                "autoDelete": True,
                "initializeParams": {
                    "sourceImage": "projects/debian-cloud/global/images/family/debian-12"
                },
            }
        ],
        "networkInterfaces": [
            {"network": "global/networks/default", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]}
        ],
        "metadata": {"items": [{"key": "ssh-keys", "value": "bob:ssh-ed25519 AAAA bob@x"}]},
        "labels": {"team": "vision"},
        "tags": {"items": ["http"]},
        **more,
    }
    cloud.ask("POST", f"{ROOT}/zones/{zone}/instances", body)


def look(cloud: LocalCloud, name: str, zone: str = ZONE_B) -> dict[str, Any]:
    found: dict[str, Any] = cloud.ask("GET", f"{ROOT}/zones/{zone}/instances/{name}")
    return found


def reached(cloud: LocalCloud, name: str, status: str, zone: str = ZONE_B) -> None:
    eventually(lambda: look(cloud, name, zone)["status"] == status, what=f"{name} is {status}")


def metadata(instance: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in instance["metadata"]["items"]}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return project(tmp_path / "lab", BASE.replace("[vm]\n", '[vm]\ngpu = "none"\n'))


def test_a_running_vm_is_shown_changed_and_made_ready(cloud: LocalCloud, lab: Path) -> None:
    make(cloud, "console-vm")
    before = look(cloud, "console-vm")
    told = cloud.laptop("adopt", "console-vm", "--dry-run", cwd=lab)
    assert "vmctl-owner=tester" in told.stderr
    assert "no run limit" in told.stderr
    assert look(cloud, "console-vm") == before, "a dry run changes nothing"

    said = cloud.laptop.json("adopt", "console-vm", cwd=lab)
    assert (said["done"], said["ready"], said["project"]) == (True, True, "lab")
    after = look(cloud, "console-vm")
    assert after["id"] == before["id"]
    assert after["labels"] == {
        "team": "vision", "vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "lab"
    }  # fmt: skip
    disk = cloud.ask("GET", f"{ROOT}/zones/{ZONE_B}/disks/console-vm")
    assert disk["labels"]["vmctl-name"] == "lab"
    assert set(after["tags"]["items"]) == {"http", "vmctl"}
    keys = metadata(after)["ssh-keys"].splitlines()
    assert keys[0] == "bob:ssh-ed25519 AAAA bob@x"
    assert "expireOn" in keys[1]

    eventually(lambda: cloud.laptop.json("status", cwd=lab)["watchdog"], what="its watchdog tells")
    assert cloud.laptop("exec", "hostname", cwd=lab).stdout.strip() == "console-vm"
    assert cloud.laptop.json("status", cwd=lab)["machine"]["name"] == "console-vm"
    (lab / "a.txt").write_text("a")
    cloud.laptop("push", cwd=lab)
    assert cloud.laptop("exec", "cat", "a.txt", cwd=lab).stdout == "a"

    again = cloud.laptop.json("adopt", "console-vm", cwd=lab)
    assert again["changed"] == []
    gone = cloud.laptop("down", "--delete", "--yes", cwd=lab)
    assert "console-vm: deleted" in gone.stdout


def test_a_stopped_vm_gets_its_limit_after_a_refusal_too_and_stays_off(
    cloud: LocalCloud, lab: Path
) -> None:
    make(cloud, "asleep")
    cloud.ask("POST", f"{ROOT}/zones/{ZONE_B}/instances/asleep/stop")
    reached(cloud, "asleep", "TERMINATED")
    cloud.fault(kind="http", method="compute.disks.setLabels", status=403, reason="forbidden")
    cloud.laptop("adopt", "asleep", cwd=lab, code=5)
    assert "vmctl" not in look(cloud, "asleep")["labels"], "not ours yet"
    cloud.no_faults()

    said = cloud.laptop.json("adopt", "asleep", cwd=lab)
    assert not any(change["what"] == "ssh keys" for change in said["changed"]), "done before"
    assert (said["status"], said["ready"]) == ("TERMINATED", False)
    scheduling = look(cloud, "asleep")["scheduling"]
    assert scheduling["maxRunDuration"]["seconds"] == "43200"
    assert scheduling["automaticRestart"] is False
    cloud.laptop("up", cwd=lab)
    assert cloud.laptop.json("status", cwd=lab)["machine"]["stops_at"] is not None
    assert cloud.laptop("exec", "hostname", cwd=lab).stdout == "asleep\n", "it lets us in"


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_a_vm_that_gcloud_made(cloud: LocalCloud, lab: Path, tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_PROJECT": "vmctl-local",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        **cloud.endpoint.gcloud,
        "PATH": os.environ["PATH"],
    }
    line = ("gcloud", "compute", "instances", "create", "by-gcloud", f"--zone={ZONE_B}",
            "--machine-type=e2-small", "--image-family=debian-12", "--image-project=debian-cloud",
            "--no-service-account", "--no-scopes")  # fmt: skip
    subprocess.run(line, env=environ, check=True, capture_output=True, timeout=120)
    said = cloud.laptop.json("adopt", "by-gcloud", cwd=lab)
    assert said["ready"]
    assert cloud.laptop("exec", "hostname", cwd=lab).stdout.strip() == "by-gcloud"


def test_what_cannot_be_had_is_refused_and_a_host_key_that_is_given_counts(
    cloud: LocalCloud, lab: Path
) -> None:
    make_unbooted(cloud, "theirs", labels={"vmctl": "1", "vmctl-owner": "eve", "vmctl-name": "x"})
    before = look(cloud, "theirs")
    assert "'eve'" in cloud.laptop("adopt", "theirs", cwd=lab, code=4).stderr
    assert look(cloud, "theirs") == before
    assert "instances list" in cloud.laptop("adopt", "nothing", cwd=lab, code=3).stderr
    make_unbooted(cloud, "twin")
    make(cloud, "twin", ZONE_C)
    assert f"--zone {ZONE_B}" in cloud.laptop("adopt", "twin", cwd=lab, code=4).stderr
    assert f"is in {ZONE_B}, {ZONE_C}" in cloud.laptop("adopt", "twin", "--zone", "europe-west1-d",
                                           cwd=lab, code=3).stderr  # fmt: skip
    there = ("adopt", "twin", "--zone", ZONE_C)
    refused = cloud.laptop(*there, "--host-key", "AAAA", cwd=lab, code=2)
    assert "ssh-ed25519" in refused.stderr
    refused = cloud.laptop(*there, "--host-key", IMPOSTOR, cwd=lab, code=7)
    assert "host key" in refused.stderr, "the one that is given is the one that counts"
    told = cloud.laptop("adopt", "twin", "--zone", ZONE_B, cwd=lab, code=4).stderr
    assert "already has a VM" in told
    assert (
        "labels" not in look(cloud, "twin", ZONE_B)
        or "vmctl" not in look(cloud, "twin", ZONE_B)["labels"]
    )


def test_what_is_otherwise_than_vmctl_makes_it_is_put_right_or_named(
    cloud: LocalCloud, tmp_path: Path
) -> None:
    """A disk that would have stayed, OS Login in force, and no GPU where the settings want one."""
    image = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    make(
        cloud, "other",
        disks=[{"boot": True, "initializeParams": image}],
        metadata={"items": [{"key": "enable-oslogin", "value": "TRUE"}]},
    )  # fmt: skip
    lab = project(tmp_path / "lab", BASE)
    told = cloud.laptop("adopt", "other", cwd=lab).stderr
    assert 'write gpu = "none" under [vm]' in told
    assert "down --delete, then vmctl up" not in told, "nobody wants to lose what was adopted"
    assert metadata(look(cloud, "other"))["enable-oslogin"] == "FALSE"
    assert cloud.laptop("exec", "true", cwd=lab).returncode == 0
    assert look(cloud, "other")["disks"][0]["autoDelete"] is True
    cloud.laptop("down", "--delete", "--yes", cwd=lab)
    assert cloud.ask("GET", f"{ROOT}/zones/{ZONE_B}/disks").get("items", []) == []
