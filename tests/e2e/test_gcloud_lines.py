"""The lines of --print-gcloud, run with the real gcloud: the same machine, the same result."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.instances import instance, metadata_of
from tests.harness.laptop import PROGRAM, project

TOML = """
[vm]
image = "debian-cloud/debian-12"
[jobs.train]
directory = "src"
setup = ["echo prepared >prepared"]
command = "cat data.txt prepared >out.txt; echo trained"
outputs = ["out.txt"]
"""


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[LocalCloud]:
    if shutil.which("gcloud") is None:
        reason = "gcloud is not installed: the lines of --print-gcloud were not run"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(reason)
        pytest.skip(reason)
    with LocalCloud.opened("lines") as made:
        (made.laptop.home.parent / "home").mkdir()
        project(made.folder, TOML, {"src/data.txt": "pushed\n"})
        yield made


@pytest.fixture
def cloud(one_cloud: LocalCloud) -> Iterator[LocalCloud]:
    yield one_cloud
    one_cloud.clear()


pytestmark = pytest.mark.gcloud


def lines(cloud: LocalCloud, *words: str) -> list[list[str]]:
    told = cloud(words[0], "--print-gcloud", "--json", *words[1:]).stdout
    return [step["argv"] for step in json.loads(told)["steps"]]


def script(cloud: LocalCloud, *words: str) -> str:
    return cloud(words[0], "--print-gcloud", *words[1:]).stdout


def shell(cloud: LocalCloud, text: str) -> str:
    """Run lines as they are printed, gcloud being pointed at the emulator by them."""
    home = cloud.laptop.home.parent / "home"
    environ = {k: v for k, v in cloud.laptop.environ.items() if not k.startswith("CLOUDSDK_")} | {
        "HOME": str(home),
        "CLOUDSDK_CONFIG": str(home / "gcloud"),
        "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
        "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        "PATH": f"{PROGRAM.parent}:{os.environ['PATH']}",
    }
    done = subprocess.run(
        ["bash", "-euc", text], env=environ, cwd=cloud.folder, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{text}\n{done.stdout}{done.stderr}"
    return done.stdout


def once_named(text: str) -> str:
    """The lines but for those that give the VM a name, which push has run already."""
    head, login, named, *rest = text.split("\n\n")
    assert "gcloud compute ssh" in login
    assert "gcloud compute config-ssh" in named
    return "\n\n".join([head, *rest])


CHANGES = ("id", "creationTimestamp", "lastStartTimestamp", "fingerprint", "labelFingerprint",
           "resourceStatus", "selfLink", "lastStopTimestamp")  # fmt: skip


def compared(vm: dict[str, Any]) -> dict[str, Any]:
    """What two machines made by the same wish have in common."""
    kept = {key: value for key, value in vm.items() if key not in CHANGES}
    kept["metadata"] = metadata_of(vm) | {"ssh-keys": metadata_of(vm)["ssh-keys"].split()[:2]}
    kept["metadata"].pop("vmctl-ssh-port", None)
    kept["tags"] = sorted(vm["tags"]["items"])
    kept["networkInterfaces"] = [
        {"network": nic["network"], "nicType": nic.get("nicType"),
         "external": [access["type"] for access in nic.get("accessConfigs", [])]}
        for nic in vm["networkInterfaces"]
    ]  # fmt: skip
    kept["disks"] = [
        {key: disk.get(key) for key in ("boot", "autoDelete", "diskSizeGb", "mode", "type")}
        for disk in vm["disks"]
    ]
    return kept


def disk(cloud: LocalCloud) -> dict[str, Any]:
    found = cloud.ask("GET", "/compute/v1/projects/vmctl-local/aggregated/disks")["items"]
    (one,) = [one for scope in found.values() for one in scope.get("disks", [])]
    return {key: one.get(key) for key in ("type", "sizeGb", "labels", "sourceImage")}


@pytest.mark.slow
def test_the_printed_lines_make_the_same_machine_push_run_fetch_and_stop(cloud: LocalCloud) -> None:
    words = ("--spot", "--max-hours", "3")
    printed = lines(cloud, "up", *words)
    cloud("up", *words)
    by_vmctl, its_disk = compared(instance(cloud)), disk(cloud)
    cloud.clear()
    text = script(cloud, "up", *words)
    first, create, labels = text.split("\n\n")[:3]
    assert "instances create" in create
    shell(cloud, "\n".join([first, create, labels]))
    assert compared(instance(cloud)) == by_vmctl
    assert disk(cloud) == its_disk
    assert printed[0][:4] == ["gcloud", "compute", "instances", "create"]
    # vmctl takes it for its own, as it is
    again = json.loads(cloud("up", *words, "--json").stdout)
    assert again["action"] == "running"

    # config-ssh writes where gcloud's HOME is; ssh itself reads the password database's
    config = cloud.laptop.home.parent / "home" / ".ssh" / "config"
    with_config = (
        f'ssh() {{ command ssh -F "{config}" "$@"; }}; export RSYNC_RSH="ssh -F {config}"\n'
    )
    shell(cloud, with_config + script(cloud, "push"))
    told = once_named(script(cloud, "run", "train"))
    shell(cloud, with_config + told[: told.rindex("#")])  # to attach takes a terminal
    eventually(lambda: "trained" in cloud("exec", "cat", "../../train.log").stdout)
    said = shell(cloud, with_config + once_named(script(cloud, "fetch")))
    assert (cloud.folder / "out.txt").read_text() == "pushed\nprepared\n"
    there, here = re.findall(r"^[0-9a-f]{64}(?=  )", said, re.MULTILINE)
    assert there == here
    (login,) = lines(cloud, "ssh")
    assert [*login, "--command=true"] == lines(cloud, "push")[0], "as it was logged in already"
    shell(cloud, script(cloud, "down"))
    assert instance(cloud)["status"] == "TERMINATED"
    shell(cloud, script(cloud, "down", "--delete"))
    assert cloud.machines() == []


def test_nothing_is_done(cloud: LocalCloud) -> None:
    cloud("up", "--print-gcloud")
    cloud("push", "--print-gcloud")
    cloud("tunnel", "tensorboard", "--print-gcloud")
    cloud("run", "train", "--print-gcloud")  # where other commands take it
    assert cloud.machines() == []
    assert "no job 'nope'" in cloud("run", "--print-gcloud", "nope", code=3).stderr
