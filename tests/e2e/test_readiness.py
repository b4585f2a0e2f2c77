"""The way up on bad boots: what comes late is waited for, what never comes is named."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.bringup_process import DRIVERLESS, BringUpCloud
from tests.harness.eventually import eventually

DRIVEN = "ubuntu-os-accelerator-images/ubuntu-accelerator-2404-amd64-with-nvidia-580"
TWO = "t4:2"  # what the machine has that is booted again and again
NOTICED_S = 1.0
AGAIN = ("--image", DRIVEN, "--gpu", TWO)
COARSE = "coarse"  # for what is only to be waited out


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[BringUpCloud]:
    with BringUpCloud.opened("readiness") as made:
        yield made


@pytest.fixture
def cloud(one_cloud: BringUpCloud) -> Iterator[BringUpCloud]:
    """There is no machine yet."""
    one_cloud.clear()
    yield one_cloud
    one_cloud.no_faults()


@pytest.fixture
def off(one_cloud: BringUpCloud) -> Iterator[BringUpCloud]:
    """Its machine, of an image with a driver and with two GPUs, was ready once and is off."""
    one_cloud.no_faults()
    vms = one_cloud.machines()
    if not (vms and vms[0].get("guestAccelerators", [{}])[0].get("acceleratorCount") == 2):
        one_cloud.clear()
        one_cloud.up(DRIVEN, TWO)
    if one_cloud.machines()[0]["status"] != "TERMINATED":
        one_cloud.laptop("down", cwd=one_cloud.folder)
    yield one_cloud
    one_cloud.no_faults()


@contextlib.contextmanager
def ssh_let_in_by(cloud: BringUpCloud, **changed: Any) -> Iterator[None]:
    """The rule that lets everybody in is another one for the length of a block, or none."""
    rule = cloud.api("GET", "global/firewalls/default-allow-ssh")
    names = ("name", "network", "direction", "priority", "allowed", "sourceRanges")
    kept = {name: rule[name] for name in names}
    cloud.api("DELETE", "global/firewalls/default-allow-ssh")
    if changed:
        cloud.api("POST", "global/firewalls", kept | changed)
    try:
        yield
    finally:
        if changed:
            cloud.api("DELETE", f"global/firewalls/{changed['name']}")
        cloud.api("POST", "global/firewalls", kept)


def told_until(
    cloud: BringUpCloud, words: str, *options: str
) -> tuple[subprocess.Popen[bytes], str]:
    """An `up` that goes on, and what it has told up to these words."""
    climbing = cloud.laptop.start("up", *AGAIN, *options, cwd=cloud.folder)
    assert climbing.stderr is not None
    told = ""
    while words not in told and (line := climbing.stderr.readline().decode()):
        told += line
    if words not in told:
        ended(climbing)
    assert words in told, told
    return climbing, told


def ended(climbing: subprocess.Popen[bytes]) -> str:
    """The rest of what it tells."""
    try:
        return climbing.communicate(timeout=60)[1].decode()
    except subprocess.TimeoutExpired:
        climbing.kill()
        return climbing.communicate()[1].decode()


def test_each_stage_is_noticed_within_a_second_of_its_time(cloud: BringUpCloud) -> None:
    """Where a rule for our tag alone lets us in, too: it is seen while the port takes its time."""
    boot_s = 12
    running_s = boot_s / 4
    cloud.fault(kind="slow-boot", seconds=running_s)
    cloud.fault(kind="slow-ssh", seconds=boot_s / 2)
    cloud.fault(kind="slow-driver", seconds=boot_s * 3 / 4)
    with ssh_let_in_by(cloud, name="allow-ssh", targetTags=["vmctl"]):
        reached = {stage["stage"]: stage for stage in cloud.up(DRIVEN, TWO)["stages"]}
    assert list(reached)[:4] == ["operation", "running", "port", "key"]
    assert set(reached) == {"operation", "running", "port", "key", "startup", "driver", "torch"}
    operation, port = reached["operation"]["after_s"], reached["port"]["after_s"]
    assert running_s <= operation <= running_s + NOTICED_S
    assert reached["running"]["after_s"] <= operation + NOTICED_S
    assert boot_s / 2 <= port - running_s <= boot_s / 2 + NOTICED_S
    assert reached["key"]["took_s"] <= NOTICED_S
    # from here on the VM itself looks, three times a second of its own time
    assert reached["driver"]["after_s"] - running_s >= boot_s * 3 / 4
    assert reached["driver"]["note"] == "simulated"
    assert "simulated" in reached["torch"]["note"] or "no torch" in reached["torch"]["note"]


def test_a_port_that_the_firewall_shuts_is_named_and_behind_it_a_driver_that_fails(
    off: BringUpCloud,
) -> None:
    off.fault(kind="driver", state="failed")
    with ssh_let_in_by(off):
        error = off.fails(DRIVEN, TWO, COARSE)
    assert error["exit_code"] == 7, error
    assert "port 22 is missing" in error["message"]
    assert "No firewall rule" in error["message"]
    assert "gcloud compute firewall-rules create" in error["hint"]
    assert any(line.startswith("serial port: ") for line in error["evidence"]), error["evidence"]

    error = off.fails(DRIVEN, TWO)  # the rule is there: the port is no trouble any more
    assert "driver is missing" in error["message"]
    assert "nothing installs one" in error["message"]
    assert "vmctl down --delete" in error["hint"]
    assert any("ERROR: Installation has failed" in line for line in error["evidence"])


def test_a_startup_script_is_waited_for_and_named_with_its_words_if_it_fails(
    off: BringUpCloud,
) -> None:
    off.set_metadata(**{"startup-script": "echo no such disk; exit 3"})
    told = off.laptop("up", *AGAIN, cwd=off.folder, code=4).stderr
    assert "start-up is missing" in told
    assert "exit status 3" in told
    assert "no such disk" in told
    off.laptop("down", cwd=off.folder)

    script = "until [ -e /tmp/go-on ]; do sleep 0.05; done"
    off.set_metadata(**{"startup-script": script})
    climbing, told = told_until(off, "startup-script is running")
    off.laptop("exec", "touch", "/tmp/go-on", cwd=off.folder)
    rest = ended(climbing)
    assert climbing.returncode == 0, told + rest
    off.set_metadata(**{"startup-script": "true"})


def test_a_host_that_fails_under_the_drivers_installation_is_named(off: BringUpCloud) -> None:
    off.fault(kind="slow-driver", seconds=300)
    climbing, told = told_until(off, "Waiting for NVIDIA's driver")
    vm = off.vm()
    off.endpoint.admin("POST", "crash", {"zone": vm["zone"], "instance": vm["name"]})
    rest = ended(climbing)
    assert climbing.returncode == 4, told + rest
    assert "driver is missing" in rest
    assert "Its host failed" in rest


def test_a_push_does_not_wait_for_the_driver_and_a_held_lock_is_named(off: BringUpCloud) -> None:
    off.fault(kind="slow-driver", seconds=30)
    off.fault(kind="dpkg-lock", seconds=60)
    climbing, told = told_until(off, "unattended-upgr (process", "--push")
    assert "holds the package manager's lock" in told
    here = ("exec", "--", "sh", "-c", "cat here.txt 2>/dev/null; true")
    eventually(lambda: off.laptop(*here, cwd=off.folder).stdout == "pushed\n", "up --push")
    off.laptop("push", cwd=off.folder)  # and one from elsewhere
    assert climbing.poll() is None, "the driver is not there yet"
    off.endpoint.admin("POST", "clock", {"advance_s": 60})
    rest = ended(climbing)
    assert climbing.returncode == 0, told + rest
    assert "files at ~/Workspace" in told + rest
    assert "driver 580.00-simulated" in rest
    assert "Ready: operation" in rest
    assert "driver +" in rest


def test_a_dead_guest_agent_is_named_and_an_image_without_a_driver_is_lived_with(
    cloud: BringUpCloud,
) -> None:
    cloud.fault(kind="agent", state="dead", calls=1)
    error = cloud.fails(DRIVERLESS, "t4", COARSE)
    assert "key is missing" in error["message"]
    assert "guest agent" in error["message"]
    assert "vmctl down && vmctl up" in error["hint"]
    assert any("google-guest-agent.service: Failed" in line for line in error["evidence"])
    cloud.laptop("down", cwd=cloud.folder)
    cloud.fault(kind="driver", state="missing")
    result = cloud.up()
    assert result["action"] == "started", "what the hint says helps"
    # that this image brings no driver is the user's choice
    assert result["gpu_driver"] is None
    assert any("brings none" in line for line in result["lines"])


def test_a_vm_taken_back_while_it_boots_is_named(cloud: BringUpCloud) -> None:
    cloud.fault(kind="slow-ssh")
    climbing = cloud.start_up(DRIVERLESS, "t4", "spot")
    vm = eventually(
        lambda: next((vm for vm in cloud.machines() if vm["status"] == "RUNNING"), None)
    )
    zone = vm["zone"].rpartition("/")[2]
    cloud.endpoint.admin("POST", "preempt", {"zone": zone, "instance": vm["name"]})
    error = climbing.error()
    assert "Google preempted it" in error["message"]
    assert error["hint"] == "vmctl up"
    assert error["exit_code"] == 4


@pytest.mark.slow
def test_a_driver_too_old_for_torch_is_named(cloud: BringUpCloud) -> None:
    """Real torch, which sees no CUDA here: a driver that names a version is no excuse."""
    cloud.fault(kind="driver", cuda="9.2")
    words = ("up", "--image", "pytorch", "--json")
    error = cloud.laptop(*words, cwd=cloud.folder, code=4, timeout_s=600).stderr
    assert "torch is missing" in error
    assert "The driver supports CUDA 9.2, torch" in error
    assert "vmctl up --image pytorch" in error
