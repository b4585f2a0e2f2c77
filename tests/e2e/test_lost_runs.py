"""A VM that goes away under a run: `run` and `logs -f` say why and when, and what to do."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.eventually import eventually
from tests.harness.stepped_clock import SteppedCloud

JOB = """
[jobs.train]
command = "echo begun; sleep 1000"
"""
UP = ("up", "--spot", "--max-hours", "2")


class Cloud(SteppedCloud):
    """A project whose job does not end by itself, and a clock that stands still."""

    def followed(self, *words: str) -> subprocess.Popen[bytes]:
        """A command that follows the run, once the job's first line has come."""
        process = self.laptop.start(*words, cwd=self.folder)
        assert process.stdout is not None
        for line in process.stdout:
            if line == b"begun\n":
                return process
        pytest.fail(f"it ended before the job began: {ended(process)}")

    def up_again(self) -> None:
        """Start the machine a while later: what happened to it before is of another start."""
        self.jump(60)
        self(*UP)

    @property
    def vm(self) -> dict[str, Any]:
        (found,) = self.endpoint.admin("GET", "status")["instances"]
        return dict(found)

    def console(self, verb: str) -> None:
        """Of Compute Engine, as somebody at the console does."""
        path = f"projects/vmctl-local/zones/{self.vm['zone']}/instances/{self.vm['name']}"
        method, last = ("DELETE", "") if verb == "delete" else ("POST", f"/{verb}")
        status, answer = self.endpoint.send(method, f"/compute/v1/{path}{last}")
        assert status == 200, answer


def ended(process: subprocess.Popen[bytes]) -> str:
    """What a command said to its end."""
    try:
        return process.communicate(timeout=60)[1].decode()
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()[1].decode()


@pytest.fixture(scope="module")
def cloud() -> Iterator[Cloud]:
    """One machine, which loses a run in each test and is up again after it."""
    with Cloud.opened("lost", name="vm", toml=JOB) as made:
        made(*UP)
        made("push")
        yield made


def test_the_run_limit_is_named_by_logs(cloud: Cloud) -> None:
    cloud("run", "--detach", "train")
    following = cloud.followed("logs", "-f")
    cloud.endpoint.admin("POST", "clock", {"advance_s": 2 * 3600 + 1})
    told = ended(following)
    assert following.returncode == 7, told
    assert "its run limit was reached" in told
    cloud.up_again()


def test_a_preemption_is_named_by_run_and_later_by_logs(cloud: Cloud) -> None:
    following = cloud.followed("run", "train")
    cloud.endpoint.admin("POST", "clock", {"advance_s": 600})
    cloud("emulator", "fault", "preempt", f"instance={cloud.vm['name']}")
    told = ended(following)
    assert following.returncode == 7, told
    assert "was lost. Google preempted it on" in told
    assert "it is a Spot VM" in told
    assert "vmctl up" in told
    assert "checkpoints" in told
    eventually(lambda: cloud.vm["status"] == "TERMINATED")
    assert "Google preempted it" in cloud("logs", code=4).stderr

    cloud.up_again()
    again = cloud("logs")
    told = again.stderr
    assert "Google preempted it on" in told, "it runs again, and the run was lost all the same"
    assert "vmctl run train" in told
    assert "begun\n" in again.stdout, "what it wrote is still there"


def test_a_stop_from_the_console_is_named(cloud: Cloud) -> None:
    following = cloud.followed("run", "train")
    cloud.console("stop")
    told = ended(following)
    assert following.returncode == 7, told
    assert "Its VM was stopped on" in told
    assert "gcloud or the console" in told
    assert "vmctl up" in told
    cloud.up_again()


def test_a_deleted_vm_is_named(cloud: Cloud) -> None:
    following = cloud.followed("run", "train")
    cloud.console("delete")
    told = ended(following)
    assert following.returncode == 7, told
    assert "Its VM was deleted" in told
    assert "Start again: vmctl up" in told
