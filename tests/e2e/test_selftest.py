"""`vmctl selftest` against the embedded Compute Engine: all is seen, and nothing stays."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.harness.cloud import COLLECTIONS
from tests.harness.crash_points import MOMENTS, HeldCloud
from tests.harness.credentials import logged_out
from tests.harness.endpoint import LIMIT_S
from tests.harness.eventually import eventually
from vmctl.domain.google.assumptions import ASSUMPTIONS

SELFTEST = ("selftest", "--trace", "trace.jsonl")
NAME = "tester-vmctl-selftest"
ZONE = "europe-west1-b"
IMAGE = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
THEIRS = {
    "name": NAME,
    "machineType": f"zones/{ZONE}/machineTypes/e2-small",
    "labels": {"vmctl": "1", "vmctl-owner": "tester", "vmctl-name": "vmctl-selftest"},
    "disks": [{"boot": True, "autoDelete": True, "initializeParams": IMAGE}],
    "networkInterfaces": [{"network": "global/networks/default"}],
}


def outcomes(document: dict[str, Any]) -> dict[str, str]:
    return {one["id"]: one["outcome"] for one in document["findings"]}


def check_nothing(cloud: HeldCloud, at: str = "") -> None:
    for collection in COLLECTIONS:
        assert cloud.all(collection) == [], at


def interrupted_at(cloud: HeldCloud, call: int, when: str, **counted: Any) -> str | None:
    """Ctrl-C while the n-th call is held; its method, None where the test was over before.

    A call that is refused cannot be held after it acted: then the method is "".
    """
    cloud.ask("POST", "/emulator/v1/hold", {"call": call, "when": when, **counted})
    with tempfile.TemporaryFile() as file:
        client = cloud.laptop.start_forked(*SELFTEST, cwd=cloud.folder, output=file)
        held = cloud.held(client)
        if held is not None:
            os.kill(client.pid, signal.SIGINT)
            cloud.ask("DELETE", "/emulator/v1/hold")
        code = client.wait(LIMIT_S)
        file.seek(0)
        told = file.read().decode()
    if held is None:
        assert code == 0, told
        return None if cloud.ask("DELETE", "/emulator/v1/hold")["calls"] < call else ""
    assert code == 130, told
    assert "Deleting what the self-test made" in told
    return held


# on a busy computer the emulator may have ended what was to be looked at while under way
FLEETING = {"creation-listed", "start-while-stopping"}


def test_all_that_a_small_machine_can_show_holds_and_nothing_stays(cloud: HeldCloud) -> None:
    asked_for = [{"key": "enable-oslogin", "value": "TRUE"}]
    cloud.api("POST", "setCommonInstanceMetadata", {"items": asked_for})
    document = cloud.laptop.json(*SELFTEST, cwd=cloud.folder)
    cloud.api("POST", "setCommonInstanceMetadata", {"items": []})
    seen = outcomes(document)
    held = {name for name in seen if seen[name] == "holds"}
    assert held | FLEETING == {one.id for one in ASSUMPTIONS if one.how}
    assert document["differs"] == 0
    assert len(seen) == len(ASSUMPTIONS)
    check_nothing(cloud)
    check_the_trace_names_nobody(cloud)


def check_the_trace_names_nobody(cloud: HeldCloud) -> None:
    text = (cloud.folder / "trace.jsonl").read_text()
    calls = [json.loads(line) for line in text.splitlines()]
    assert {"POST", "GET", "DELETE"} <= {call.get("method") for call in calls}
    key = (cloud.laptop.home / "data").rglob("*.pub")
    blobs = [path.read_text().split()[1] for path in key]
    assert blobs
    for word in ("tester", "vmctl-local", "user@vmctl.local", *blobs):
        assert word not in text


def test_what_does_not_hold_is_named_and_what_a_killed_one_left_goes_with_the_next(
    cloud: HeldCloud,
) -> None:
    """In a zone that has run dry since: the next one is taken."""
    assert cloud.killed_at(1, "after", *SELFTEST, method="compute.instances.insert")
    check_what_was_left_ends_itself(cloud)
    method = "compute.images.getFromFamily"
    cloud.fault(kind="http", method=method, status=404, reason="notFound", calls=1)
    cloud.fault(kind="stockout", zone="europe-west1-b")
    done = cloud(*SELFTEST, code=1)
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("image-pytorch  ")]
    assert "does not hold" in line
    assert "1 do not" in done.stdout
    assert "self-test failed" in done.stderr
    check_nothing(cloud)


def test_what_ends_it_early_leaves_nothing_and_says_what_was_not_seen(cloud: HeldCloud) -> None:
    cloud.fault(kind="stockout", plain=True)
    done = cloud(*SELFTEST, "--json", code=6)
    seen = outcomes(json.loads(done.stdout))
    assert seen["image-ubuntu"] == "holds"
    assert seen["login"] == "could not be seen"
    assert "enough resources" in json.loads(done.stderr.splitlines()[-1])["message"]
    check_nothing(cloud)


@pytest.mark.parametrize("when", MOMENTS)
def test_ctrl_c_leaves_nothing(cloud: HeldCloud, when: str) -> None:
    method = "compute.instances.insert"
    assert interrupted_at(cloud, 1, when, method=method) == method
    check_nothing(cloud)


def test_ctrl_c_again_says_what_becomes_of_the_rest(cloud: HeldCloud) -> None:
    cloud.ask("POST", "/emulator/v1/hold", {"call": 1, "method": "compute.instances.start"})
    client = cloud.laptop.start(*SELFTEST, cwd=cloud.folder)
    eventually(
        lambda: cloud.ask("GET", "/emulator/v1/hold")["held"], "the machine is to be started"
    )
    # from now on its deletion takes for ever
    cloud.fault(kind="http", method="compute.instances.delete", status=503)
    client.send_signal(signal.SIGINT)
    cloud.ask("DELETE", "/emulator/v1/hold")
    assert client.stderr is not None
    told = ""
    while "Deleting tester" not in told:
        line = client.stderr.readline().decode()
        assert line, told
        told += line
    client.send_signal(signal.SIGINT)
    told += client.communicate()[1].decode()
    assert client.returncode == 130, told
    assert "Google itself deletes the VM" in told


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@pytest.mark.parametrize("when", MOMENTS)
def test_ctrl_c_at_every_change_leaves_nothing(cloud: HeldCloud, when: str) -> None:
    seen = set()
    for call in range(1, 100):
        method = interrupted_at(cloud, call, when, changes=True)
        check_nothing(cloud, f"{when} {call}, {method}")
        if method is None:
            break
        seen.add(method.removeprefix("compute."))
    assert {"disks.insert", "instances.insert", "instances.setScheduling", "instances.stop"} <= seen


def check_what_was_left_ends_itself(cloud: HeldCloud) -> None:
    """Should nobody come back, Google deletes the VM, disk and all."""
    for vm in cloud.all("instances"):
        assert vm["scheduling"]["instanceTerminationAction"] == "DELETE"
        assert vm["scheduling"]["maxRunDuration"]["seconds"] in ("1800", "1740")
        assert vm["disks"][0]["autoDelete"] is True


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["disks.insert", "instances.stop"])
def test_what_a_killed_one_left_at_other_moments_goes_with_the_next(
    cloud: HeldCloud, method: str
) -> None:
    assert cloud.killed_at(1, "after", *SELFTEST, method=f"compute.{method}")
    check_what_was_left_ends_itself(cloud)
    assert cloud.laptop.json(*SELFTEST, cwd=cloud.folder)["differs"] == 0
    check_nothing(cloud)


def test_a_machine_of_the_users_that_is_called_the_same_stays(cloud: HeldCloud) -> None:
    cloud.api("POST", f"zones/{ZONE}/instances", THEIRS)
    eventually(lambda: cloud.all("instances")[0]["status"] == "RUNNING", "it runs")
    told = cloud(*SELFTEST, code=4).stderr
    assert "your own VM" in told
    assert [vm["name"] for vm in cloud.all("instances")] == [NAME]


def test_the_real_one_is_not_the_local_one(cloud: HeldCloud) -> None:
    assert "vmctl --cloud selftest --real" in cloud("selftest", "--real", code=2).stderr
    check_nothing(cloud)


@pytest.fixture
def real(cloud: HeldCloud, tmp_path: Path) -> dict[str, str]:
    """gcloud's own login, with an endpoint that is the embedded one: the way of `--real`."""
    return {
        **logged_out(tmp_path),
        **cloud.endpoint.gcloud,
        "CLOUDSDK_CORE_PROJECT": "ada-lovelace-42",
    }


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_the_real_one_tells_its_price_first(cloud: HeldCloud, real: dict[str, str]) -> None:
    cloud.fault(kind="stockout", plain=True)  # it need not go on to its end
    words = (*SELFTEST, "--real")
    done = cloud.laptop(*words, cwd=cloud.folder, environ=real, code=6)
    assert "about $0.01 in all" in done.stderr
    assert "assumptions about Compute Engine" in done.stdout
    trace = (cloud.folder / "trace.jsonl").read_text()
    assert "ada-lovelace-42" not in trace
    assert len(trace.splitlines()) > 10  # what was said is in it, too
    assert json.loads(trace.splitlines()[0])["service"] == "Compute Engine"


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_a_no_creates_nothing(cloud: HeldCloud, real: dict[str, str]) -> None:
    import pty

    here, there = pty.openpty()
    client = cloud.laptop.start(
        *SELFTEST, "--real", cwd=cloud.folder, environ=real, stdin=there, stderr=there
    )
    os.close(there)
    said = b""
    while b"Go ahead?" not in said:
        said += os.read(here, 4096)
    cloud.ask("POST", "/emulator/v1/hold", {"call": 1, "changes": True})
    os.write(here, b"n\n")
    client.communicate()
    os.close(here)
    assert client.returncode == 2
    assert b"$0.05/h" in said
    assert cloud.ask("GET", "/emulator/v1/hold")["calls"] == 0
