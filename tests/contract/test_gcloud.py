"""The real gcloud against the emulator: an oracle that parses every reply on its own."""

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
MACHINE = ("--machine-type=e2-small", "--metadata=enable-guest-attributes=TRUE")


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


def test_create_describe_ssh_scp_stop_start_delete(gcloud: Gcloud) -> None:
    created = gcloud.json("compute", "instances", "create", "vm1", *MACHINE, *IMAGE)
    assert [(i["name"], i["status"]) for i in created] == [("vm1", "RUNNING")]
    assert gcloud.json("compute", "instances", "describe", "vm1") == gcloud.cloud.get()

    answer = gcloud("compute", "ssh", "tester@vm1", "--command=hostname; id -un; sudo id -un")
    assert answer.stdout.split()[-3:] == ["vm1", "tester", "root"]  # before it: the new key
    (gcloud.folder / "sent").write_text("there and back\n")
    gcloud("compute", "scp", "sent", "tester@vm1:arrived")

    gcloud("compute", "instances", "stop", "vm1")
    assert gcloud.cloud.status() == "TERMINATED"
    gcloud("compute", "instances", "start", "vm1")
    gcloud("compute", "scp", "tester@vm1:arrived", "back")
    assert (gcloud.folder / "back").read_text() == "there and back\n"

    gcloud("compute", "instances", "delete", "vm1")
    missing = gcloud("compute", "instances", "describe", "vm1", code=1)
    assert f"/zones/{ZONE}/instances/vm1' was not found" in missing.stderr


def test_two_names_go_through_the_batch_endpoint(gcloud: Gcloud) -> None:
    created = gcloud.json("compute", "instances", "create", "a", "b", *MACHINE, *IMAGE)
    assert sorted(i["name"] for i in created) == ["a", "b"]
    gcloud("compute", "instances", "delete", "a", "b")
    where = {"project": gcloud.cloud.project, "zone": ZONE}
    assert "items" not in gcloud.cloud.api.instances().list(**where).execute()
    assert "items" not in gcloud.cloud.api.disks().list(**where).execute()


def test_a_gpu_machine_needs_the_same_flags_as_on_google(gcloud: Gcloud) -> None:
    words = (
        "--machine-type=n1-standard-4",
        "--accelerator=type=nvidia-tesla-t4,count=1",
        *IMAGE,
    )
    refused = gcloud("compute", "instances", "create", "gpu", *words, code=1)
    assert "Instances with guest accelerators do not support live migration." in refused.stderr
    created = gcloud.json(
        "compute", "instances", "create", "gpu", *words, "--maintenance-policy=TERMINATE"
    )
    assert created[0]["guestAccelerators"][0]["acceleratorCount"] == 1
    gcloud.cloud.do("delete", "gpu")


def test_a_stockout_reads_as_on_google(gcloud: Gcloud) -> None:
    with gcloud.cloud.emulator.fault(kind="stockout", zone=ZONE):
        failed = gcloud("compute", "instances", "create", "dry", *MACHINE, *IMAGE, code=1)
    said = " ".join(failed.stderr.split())
    assert "does not have enough resources available to fulfill the request." in said
    assert "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS" in said


def test_metadata_labels_and_the_serial_port(gcloud: Gcloud) -> None:
    gcloud.cloud.create(gcloud.cloud.body("off"))
    gcloud("compute", "instances", "add-metadata", "off", "--metadata=a=b")
    gcloud("compute", "instances", "add-labels", "off", "--labels=owner=me")
    assert {"key": "a", "value": "b"} in gcloud.cloud.get("off")["metadata"]["items"]
    serial = gcloud("compute", "instances", "get-serial-port-output", "off")
    assert "off" in serial.stdout
    described = gcloud.json("compute", "instances", "list", "--filter=labels.owner=me")
    assert [(i["name"], i["status"]) for i in described] == [("off", "RUNNING")]
    gcloud.cloud.do("delete", "off")


# one of each shape: an aggregated list with a filter, one of a zone, a region with its quotas,
# operations of all scopes, and a single image; test_offers.py asks for the rest
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("accelerator-types", "list", "--filter=zone:europe-west1-b"), "nvidia-tesla-t4"),
        (("machine-types", "list", f"--zones={ZONE}"), "n1-standard-8"),
        (("regions", "describe", "europe-west1"), "NVIDIA_T4_GPUS"),
        (("operations", "list"), "insert"),
        (
            (
                "images",
                "describe-from-family",
                "pytorch-2-9-cu129-ubuntu-2404-nvidia-580",
                "--project=deeplearning-platform-release",
            ),
            "pytorch-2-9-cu129-ubuntu-2404-nvidia-580-v",
        ),
    ],
)
def test_gcloud_reads_what_is_offered(gcloud: Gcloud, words: tuple[str, ...], wanted: str) -> None:
    assert wanted in json.dumps(gcloud.json("compute", *words))
