"""A Spot VM that Google takes back is noticed and named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.harness.crash_points import HeldCloud
from tests.harness.eventually import eventually


@pytest.fixture(scope="module")
def cloud() -> Iterator[HeldCloud]:
    with HeldCloud.opened("spot", name="crash") as made:
        yield made


def test_status_names_a_preemption_until_the_vm_runs_again(cloud: HeldCloud) -> None:
    cloud("up", "--spot")
    (vm,) = cloud.all("instances")
    assert vm["scheduling"]["provisioningModel"] == "SPOT"
    assert vm["scheduling"]["instanceTerminationAction"] == "STOP"
    assert cloud.laptop.json("status", cwd=cloud.folder)["stop_reason"] is None
    zone = vm["zone"].rpartition("/")[2]
    cloud.ask("POST", "/emulator/v1/preempt", {"zone": zone, "instance": vm["name"]})
    eventually(lambda: cloud.all("instances")[0]["status"] == "TERMINATED", "preempted")
    told = cloud("status").stdout
    assert "Google preempted it" in told
    assert "preempted" in told
    stopped = cloud.laptop.json("status", cwd=cloud.folder)["stop_reason"]
    assert stopped["cause"] == "preempted"

    cloud("up", "--spot")
    assert cloud.laptop.json("status", cwd=cloud.folder)["stop_reason"] is None
    cloud("down")
    assert cloud.laptop.json("status", cwd=cloud.folder)["stop_reason"] is None
    assert "preempted it" not in cloud("status").stdout


def test_a_shutdown_from_inside_is_named(cloud: HeldCloud) -> None:
    cloud("up")
    cloud("exec", "--", "sudo", "poweroff", code=None)
    eventually(lambda: cloud.all("instances")[0]["status"] == "TERMINATED", "off")
    assert "shut down from inside" in cloud("status").stdout
    cloud("down", "--delete", "--yes")
