"""The real gcloud against the emulator: an oracle that parses every reply on its own.

Each call of it takes most of a second, so it judges each kind of reply once: a machine and its
operations, two names in one batch, ssh and scp, lists with a filter and of all scopes, refusals
and failed operations. What more is offered is asked for over REST (test_lists.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.harness.emulator import Emulator

from .conftest import ZONE, Cloud

IMAGE = ("--image-family=debian-12", "--image-project=debian-cloud")
METADATA = "--metadata=enable-guest-attributes=TRUE"


@dataclass
class Gcloud:
    """gcloud with a configuration and a home of its own, pointed at the emulator."""

    program: str
    folder: Path
    cloud: Cloud

    def __call__(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        environ = {k: v for k, v in os.environ.items() if not k.startswith("CLOUDSDK_")} | {
            "HOME": str(self.folder / "home"),
            "CLOUDSDK_CONFIG": str(self.folder / "config"),
            "CLOUDSDK_CORE_PROJECT": self.cloud.project,
            "CLOUDSDK_COMPUTE_ZONE": ZONE,
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
            **self.cloud.emulator.gcloud,
        }
        done = subprocess.run(
            [self.program, *words],
            env=environ,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == code, f"gcloud {' '.join(words)}\n{done.stdout}{done.stderr}"
        return done

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--format=json").stdout)


@pytest.fixture(scope="module")
def gcloud(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gcloud]:
    program = shutil.which("gcloud")
    if program is None:
        reason = "gcloud is not installed: the emulator was not checked against it"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(reason)
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("gcloud")
    (folder / "home").mkdir()
    cloud = Cloud(emulator, f"p-{uuid.uuid4().hex[:10]}")
    yield Gcloud(program, folder, cloud)
    cloud.clear()


pytestmark = pytest.mark.gcloud


@pytest.mark.exhaustive
def test_two_are_made_entered_copied_from_stopped_started_and_deleted(gcloud: Gcloud) -> None:
    cloud = gcloud.cloud
    gpu = ("--machine-type=n1-standard-4", "--accelerator=type=nvidia-tesla-t4,count=1")
    create = ("compute", "instances", "create", "vm1", "vm2", *gpu, *IMAGE, METADATA)
    refused = gcloud(*create, code=1)
    assert "Instances with guest accelerators do not support live migration." in refused.stderr
    assert "items" not in cloud.api.disks().list(project=cloud.project, zone=ZONE).execute()

    # two names go through the batch endpoint
    created = gcloud.json(*create, "--maintenance-policy=TERMINATE", "--labels=owner=me")
    assert sorted((i["name"], i["status"]) for i in created) == [
        ("vm1", "RUNNING"), ("vm2", "RUNNING"),
    ]  # fmt: skip
    assert created[0]["guestAccelerators"][0]["acceleratorCount"] == 1

    line = "echo there and back >made; hostname; id -un; sudo id -un"
    answer = gcloud("compute", "ssh", "tester@vm1", f"--command={line}")
    assert answer.stdout.split()[-3:] == ["vm1", "tester", "root"]  # before it: the new key
    gcloud("compute", "instances", "add-metadata", "vm1", "--metadata=a=b")
    assert {"key": "a", "value": "b"} in cloud.get()["metadata"]["items"]
    assert "vm1" in gcloud("compute", "instances", "get-serial-port-output", "vm1").stdout

    gcloud("compute", "instances", "stop", "vm1")
    listed = gcloud.json("compute", "instances", "list", "--filter=labels.owner=me")
    assert sorted(listed, key=lambda i: i["name"]) == [cloud.get("vm1"), cloud.get("vm2")]
    assert cloud.status() == "TERMINATED"
    gcloud("compute", "instances", "set-machine-type", "vm1", "--machine-type=n1-standard-8")
    gcloud("compute", "instances", "start", "vm1")
    assert cloud.get()["machineType"].endswith("/n1-standard-8")
    gcloud("compute", "scp", "tester@vm1:made", "back")
    assert (gcloud.folder / "back").read_text() == "there and back\n"

    gcloud("compute", "instances", "delete", "vm1", "vm2")
    where = {"project": cloud.project, "zone": ZONE}
    assert "items" not in cloud.api.instances().list(**where).execute()
    assert "items" not in cloud.api.disks().list(**where).execute()
    told = gcloud.json("compute", "operations", "list")  # of all scopes
    assert {"insert", "stop", "start", "delete"} <= {one["operationType"] for one in told}


def test_a_stockout_reads_as_on_google(gcloud: Gcloud) -> None:
    create = ("compute", "instances", "create", "dry", "--machine-type=e2-small", *IMAGE)
    with gcloud.cloud.emulator.fault(kind="stockout", zone=ZONE):
        failed = gcloud(*create, code=1)
    said = " ".join(failed.stderr.split())
    assert "does not have enough resources available to fulfill the request." in said
    assert "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS" in said


@pytest.mark.exhaustive
def test_two_are_made_in_bulk_suspended_copied_and_given_a_disk(gcloud: Gcloud) -> None:
    cloud = gcloud.cloud
    made = gcloud.json(
        "compute", "instances", "bulk", "create", "--name-pattern=vm#", "--count=2",
        f"--zone={ZONE}", "--machine-type=e2-small", *IMAGE, METADATA,
    )  # fmt: skip
    (result,) = made if isinstance(made, list) else [made]
    assert (result["createdInstanceCount"], result["failedInstanceCount"]) == (2, 0)
    assert sorted(vm["name"] for vm in result["instances"]) == ["vm1", "vm2"]

    gcloud("compute", "instances", "suspend", "vm1")
    assert cloud.status() == "SUSPENDED"
    source = (f"--source-disk-zone={ZONE}", "--source-disk=vm2")
    (image,) = gcloud.json("compute", "images", "create", "mine", *source, "--force")
    assert (image["name"], image["status"]) == ("mine", "READY")

    (disk,) = gcloud.json("compute", "disks", "create", "data", "--size=10GB")
    gcloud("compute", "instances", "attach-disk", "vm2", "--disk=data", "--device-name=more")
    assert cloud.get("vm2")["disks"][1]["source"] == disk["selfLink"]
    (grown,) = gcloud.json("compute", "disks", "resize", "data", "--size=20GB")
    assert grown["sizeGb"] == "20"
    refused = gcloud("compute", "disks", "delete", "data", code=1)
    assert "is already being used by" in refused.stderr
    gcloud("compute", "instances", "detach-disk", "vm2", "--disk=data")
    gcloud("compute", "disks", "delete", "data")
