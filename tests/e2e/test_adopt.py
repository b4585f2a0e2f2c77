"""`vmctl adopt`: a VM that the console or gcloud made becomes the project's, and stays whole."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness.attempts import B, C
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.laptop import BASE, project

IMPOSTOR = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIH" + "A" * 42
ROOT = "/compute/v1/projects/vmctl-local"


@pytest.fixture(scope="module")
def one_sky() -> Iterator[LocalCloud]:
    with LocalCloud.opened("adopt") as made:
        yield made


@pytest.fixture
def sky(one_sky: LocalCloud) -> Iterator[LocalCloud]:
    """The same cloud; whatever VM a test made in it is deleted as its maker would."""
    yield one_sky
    one_sky.clear()


def make_unbooted(sky: LocalCloud, name: str, zone: str = B, **more: Any) -> None:
    """A VM of which only the list matters: it is still on its way to RUNNING."""
    sky.fault(kind="slow-boot", seconds=3600, instance=name, zone=zone)
    begin(sky, name, zone, **more)
    reached(sky, name, "STAGING", zone)


def make(sky: LocalCloud, name: str, zone: str = B, **more: Any) -> None:
    """A VM that runs."""
    begin(sky, name, zone, **more)
    reached(sky, name, "RUNNING", zone)


def begin(sky: LocalCloud, name: str, zone: str, **more: Any) -> None:
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
    sky.ask("POST", f"{ROOT}/zones/{zone}/instances", body)


def look(sky: LocalCloud, name: str, zone: str = B) -> dict[str, Any]:
    found: dict[str, Any] = sky.ask("GET", f"{ROOT}/zones/{zone}/instances/{name}")
    return found


def reached(sky: LocalCloud, name: str, status: str, zone: str = B) -> None:
    eventually(lambda: look(sky, name, zone)["status"] == status, what=f"{name} is {status}")


def metadata(instance: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in instance["metadata"]["items"]}


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return project(tmp_path / "lab", BASE.replace("[vm]\n", '[vm]\ngpu = "none"\n'))


def test_a_running_vm_is_told_changed_and_made_ready(sky: LocalCloud, lab: Path) -> None:
    make(sky, "console-vm")
    before = look(sky, "console-vm")
    told = sky.laptop("adopt", "console-vm", "--dry-run", cwd=lab)
    assert "vmctl-owner=tester" in told.stderr
    assert "no run limit" in told.stderr
    assert look(sky, "console-vm") == before, "a dry run changes nothing"

    said = sky.laptop.json("adopt", "console-vm", cwd=lab)
    assert (said["done"], said["ready"], said["project"]) == (True, True, "lab")
    after = look(sky, "console-vm")
    assert after["id"] == before["id"]
    assert after["labels"] == {
        "team": "vision", "vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "lab"
    }  # fmt: skip
    disk = sky.ask("GET", f"{ROOT}/zones/{B}/disks/console-vm")
    assert disk["labels"]["vmctl-name"] == "lab"
    assert set(after["tags"]["items"]) == {"http", "vmctl"}
    keys = metadata(after)["ssh-keys"].splitlines()
    assert keys[0] == "bob:ssh-ed25519 AAAA bob@x"
    assert "expireOn" in keys[1]

    eventually(lambda: sky.laptop.json("status", cwd=lab)["watch"], what="its watchdog tells")
    assert sky.laptop("exec", "hostname", cwd=lab).stdout.strip() == "console-vm"
    assert sky.laptop.json("status", cwd=lab)["machine"]["name"] == "console-vm"
    (lab / "a.txt").write_text("a")
    sky.laptop("push", cwd=lab)
    assert sky.laptop("exec", "cat", "a.txt", cwd=lab).stdout == "a"

    again = sky.laptop.json("adopt", "console-vm", cwd=lab)
    assert again["changed"] == []
    gone = sky.laptop("down", "--delete", "--yes", cwd=lab)
    assert "console-vm: deleted" in gone.stdout


def test_a_stopped_vm_gets_its_limit_after_a_refusal_too_and_stays_off(
    sky: LocalCloud, lab: Path
) -> None:
    make(sky, "asleep")
    sky.ask("POST", f"{ROOT}/zones/{B}/instances/asleep/stop")
    reached(sky, "asleep", "TERMINATED")
    sky.fault(kind="http", method="compute.disks.setLabels", status=403, reason="forbidden")
    sky.laptop("adopt", "asleep", cwd=lab, code=5)
    assert "vmctl" not in look(sky, "asleep")["labels"], "not ours yet"
    sky.no_faults()

    said = sky.laptop.json("adopt", "asleep", cwd=lab)
    assert not any(change["what"] == "ssh keys" for change in said["changed"]), "done before"
    assert (said["status"], said["ready"]) == ("TERMINATED", False)
    scheduling = look(sky, "asleep")["scheduling"]
    assert scheduling["maxRunDuration"]["seconds"] == "43200"
    assert scheduling["automaticRestart"] is False
    sky.laptop("up", cwd=lab)
    assert sky.laptop.json("status", cwd=lab)["machine"]["stops_at"] is not None
    assert sky.laptop("exec", "hostname", cwd=lab).stdout == "asleep\n", "it lets us in"


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_a_vm_that_gcloud_made(sky: LocalCloud, lab: Path, tmp_path: Path) -> None:
    environ = {
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
        "CLOUDSDK_CORE_PROJECT": "vmctl-local",
        "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        **sky.door.gcloud,
        "PATH": os.environ["PATH"],
    }
    line = ("gcloud", "compute", "instances", "create", "by-gcloud", f"--zone={B}",
            "--machine-type=e2-small", "--image-family=debian-12", "--image-project=debian-cloud",
            "--no-service-account", "--no-scopes")  # fmt: skip
    subprocess.run(line, env=environ, check=True, capture_output=True, timeout=120)
    said = sky.laptop.json("adopt", "by-gcloud", cwd=lab)
    assert said["ready"]
    assert sky.laptop("exec", "hostname", cwd=lab).stdout.strip() == "by-gcloud"


def test_what_cannot_be_had_is_refused_and_a_host_key_that_is_given_counts(
    sky: LocalCloud, lab: Path
) -> None:
    make_unbooted(sky, "theirs", labels={"vmctl": "1", "vmctl-owner": "eve", "vmctl-name": "x"})
    before = look(sky, "theirs")
    assert "'eve'" in sky.laptop("adopt", "theirs", cwd=lab, code=4).stderr
    assert look(sky, "theirs") == before
    assert "instances list" in sky.laptop("adopt", "nothing", cwd=lab, code=3).stderr
    make_unbooted(sky, "twin")
    make(sky, "twin", C)
    assert f"--zone {B}" in sky.laptop("adopt", "twin", cwd=lab, code=4).stderr
    assert f"is in {B}, {C}" in sky.laptop("adopt", "twin", "--zone", "europe-west1-d",
                                           cwd=lab, code=3).stderr  # fmt: skip
    there = ("adopt", "twin", "--zone", C)
    refused = sky.laptop(*there, "--host-key", "AAAA", cwd=lab, code=2)
    assert "ssh-ed25519" in refused.stderr
    refused = sky.laptop(*there, "--host-key", IMPOSTOR, cwd=lab, code=7)
    assert "host key" in refused.stderr, "the one that is given is the one that counts"
    told = sky.laptop("adopt", "twin", "--zone", B, cwd=lab, code=4).stderr
    assert "has a VM already" in told
    assert "labels" not in look(sky, "twin", B) or "vmctl" not in look(sky, "twin", B)["labels"]


def test_what_is_otherwise_than_vmctl_makes_it_is_put_right_or_told(
    sky: LocalCloud, tmp_path: Path
) -> None:
    """A disk that would have stayed, OS Login in force, and no GPU where the settings want one."""
    image = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    make(
        sky, "other",
        disks=[{"boot": True, "initializeParams": image}],
        metadata={"items": [{"key": "enable-oslogin", "value": "TRUE"}]},
    )  # fmt: skip
    lab = project(tmp_path / "lab", BASE)
    told = sky.laptop("adopt", "other", cwd=lab).stderr
    assert 'write gpu = "none" under [vm]' in told
    assert "down --delete, then vmctl up" not in told, "nobody wants to lose what was adopted"
    assert metadata(look(sky, "other"))["enable-oslogin"] == "FALSE"
    assert sky.laptop("exec", "true", cwd=lab).returncode == 0
    assert look(sky, "other")["disks"][0]["autoDelete"] is True
    sky.laptop("down", "--delete", "--yes", cwd=lab)
    assert sky.ask("GET", f"{ROOT}/zones/{B}/disks").get("items", []) == []
