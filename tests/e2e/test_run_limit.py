"""A VM is not started where nothing would ever stop it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.attempts import run_failing
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'
VM = "/compute/v1/projects/vmctl-local/zones/europe-west1-b/instances/tester-vm"
REFUSED = "compute.instances.setScheduling is denied to you"


@pytest.fixture(scope="module")
def stopped(one_cloud: LocalCloud) -> LocalCloud:
    """A stopped VM with a limit of two hours."""
    one_cloud("up", "--max-hours", "2")
    one_cloud("down")
    return one_cloud


@pytest.fixture
def cloud(stopped: LocalCloud) -> Iterator[LocalCloud]:
    """The same VM, stopped again after each test, and no faults are left."""
    yield stopped
    stopped.no_faults()
    stopped("down")


def no_limit_may_be_set(cloud: LocalCloud) -> None:
    method = "compute.instances.setScheduling"
    cloud.fault(kind="http", method=method, status=403, reason="forbidden", message=REFUSED)


def scheduling(cloud: LocalCloud) -> dict[str, Any]:
    found: dict[str, Any] = cloud.ask("GET", VM)["scheduling"]
    return found


def test_one_that_has_a_limit_starts_with_that(cloud: LocalCloud) -> None:
    no_limit_may_be_set(cloud)
    told = cloud("up", "--max-hours", "3").stderr
    assert "The run limit is unchanged" in told
    assert scheduling(cloud)["maxRunDuration"]["seconds"] == "7200"


def test_a_vm_without_a_limit_that_cannot_be_given_one_stays_off(cloud: LocalCloud) -> None:
    cloud.ask("POST", f"{VM}/setScheduling", {"automaticRestart": False})
    eventually(lambda: "maxRunDuration" not in scheduling(cloud), what="it has no limit")
    no_limit_may_be_set(cloud)
    error = run_failing(cloud, code=5)
    assert REFUSED in error["message"]
    assert [vm["status"] for vm in cloud.machines()] == ["TERMINATED"]
