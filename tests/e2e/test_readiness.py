"""The way up on bad boots: what comes late is waited for, what never comes is named."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.harness.attempts import cleared
from tests.harness.climbing import DRIVERLESS, Sky
from tests.harness.eventually import eventually

DRIVEN = "ubuntu-os-accelerator-images/ubuntu-accelerator-2404-amd64-with-nvidia-580"
NOTICED_S = 1.0
COARSE = "coarse"  # for what is only to be waited out


@pytest.fixture(scope="module")
def one_sky() -> Iterator[Sky]:
    with Sky.opened("readiness") as made:
        yield made


@pytest.fixture
def sky(one_sky: Sky) -> Iterator[Sky]:
    with cleared(one_sky):
        yield one_sky


def told_until(sky: Sky, words: str, *options: str) -> tuple[subprocess.Popen[bytes], str]:
    """An `up` that goes on, and what it has told up to these words."""
    climbing = sky.laptop.start("up", *options, cwd=sky.folder)
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


def test_each_rung_is_noticed_within_a_second_of_its_time(sky: Sky) -> None:
    boot_s = 24
    running_s = boot_s / 4
    sky.fault(kind="slow-boot", seconds=running_s)
    sky.fault(kind="slow-ssh", seconds=boot_s / 2)
    sky.fault(kind="slow-driver", seconds=boot_s * 3 / 4)
    reached = {rung["rung"]: rung for rung in sky.up(DRIVEN)["rungs"]}
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


def test_a_rule_for_our_tag_alone_is_seen_while_the_port_takes_its_time(sky: Sky) -> None:
    rule = sky.api("GET", "global/firewalls/default-allow-ssh")
    sky.api("DELETE", "global/firewalls/default-allow-ssh")
    names = ("name", "network", "direction", "priority", "allowed", "sourceRanges")
    kept = {name: rule[name] for name in names}
    sky.api("POST", "global/firewalls", kept | {"name": "allow-ssh", "targetTags": ["vmctl"]})
    try:
        sky.fault(kind="slow-ssh", seconds=8)
        assert "key" in {rung["rung"] for rung in sky.up(DRIVEN)["rungs"]}
    finally:
        sky.api("DELETE", "global/firewalls/allow-ssh")
        sky.api("POST", "global/firewalls", kept)


def test_a_port_that_the_firewall_shuts_is_named_with_the_rule_to_make(sky: Sky) -> None:
    rule = sky.api("GET", "global/firewalls/default-allow-ssh")
    sky.api("DELETE", "global/firewalls/default-allow-ssh")
    try:
        error = sky.fails(DRIVERLESS, "t4", COARSE)
    finally:  # the tests after this one share the cloud
        kept = {key: rule[key] for key in ("name", "allowed", "sourceRanges", "priority")}
        sky.api("POST", "global/firewalls", kept)
    assert error["exit_code"] == 7, error
    assert "port 22 is missing" in error["message"]
    assert "No firewall rule" in error["message"]
    assert "gcloud compute firewall-rules create" in error["hint"]
    assert any(line.startswith("serial port: ") for line in error["evidence"]), error["evidence"]
    assert sky.up()["action"] == "running"


def test_a_dead_guest_agent_is_named(sky: Sky) -> None:
    sky.fault(kind="agent", state="dead", calls=1)
    error = sky.fails(DRIVERLESS, "t4", COARSE)
    assert "key is missing" in error["message"]
    assert "guest agent" in error["message"]
    assert "vmctl down && vmctl up" in error["hint"]
    assert any("google-guest-agent.service: Failed" in line for line in error["evidence"])
    sky.laptop("down", cwd=sky.folder)
    assert sky.up()["action"] == "started", "what the hint says helps"


def test_a_startup_script_is_waited_for_and_named_with_its_words_if_it_fails(sky: Sky) -> None:
    sky.fault(kind="slow-boot", seconds=60, calls=1)
    climbing = sky.laptop.start("up", cwd=sky.folder)
    eventually(lambda: [vm for vm in sky.machines() if vm["status"] == "STAGING"])
    sky.set_metadata(**{"startup-script": "echo no such disk; exit 3"})
    sky.jump(60)
    told = ended(climbing)
    assert climbing.returncode == 4, told
    assert "start-up is missing" in told
    assert "exit status 3" in told
    assert "no such disk" in told
    sky.laptop("down", cwd=sky.folder)

    script = "until [ -e /tmp/go-on ]; do sleep 0.05; done"
    sky.set_metadata(**{"startup-script": script})
    climbing, told = told_until(sky, "startup-script is at work")
    sky.laptop("exec", "touch", "/tmp/go-on", cwd=sky.folder)
    rest = ended(climbing)
    assert climbing.returncode == 0, told + rest


def test_a_driver_whose_installation_fails_is_named_with_its_log(sky: Sky) -> None:
    sky.fault(kind="driver", state="failed")
    error = sky.fails(DRIVEN)
    assert "driver is missing" in error["message"]
    assert "nothing installs one" in error["message"]
    assert "vmctl down --delete" in error["hint"]
    assert any("ERROR: Installation has failed" in line for line in error["evidence"])


def test_a_gpu_too_few_is_counted(sky: Sky) -> None:
    sky.fault(kind="driver", count=1)
    error = sky.fails(DRIVEN, "t4:2")
    assert "nvidia-smi sees 1 of 2 GPUs" in error["message"]
    assert "another host" in error["hint"]


def test_an_image_without_a_driver_is_the_users_choice(sky: Sky) -> None:
    sky.fault(kind="driver", state="missing")
    result = sky.up(DRIVERLESS)
    assert result["gpu_driver"] is None
    assert any("brings none" in line for line in result["told"])


def test_a_vm_taken_back_while_it_boots_is_named(sky: Sky) -> None:
    sky.fault(kind="slow-ssh")
    climbing = sky.climb(DRIVERLESS, "t4", "spot")
    vm = eventually(lambda: next((vm for vm in sky.machines() if vm["status"] == "RUNNING"), None))
    zone = vm["zone"].rpartition("/")[2]
    sky.door.admin("POST", "preempt", {"zone": zone, "instance": vm["name"]})
    error = climbing.error()
    assert "Google took it back" in error["message"]
    assert error["hint"] == "vmctl up"
    assert error["exit_code"] == 4


def test_a_host_that_fails_under_the_drivers_installation_is_named(sky: Sky) -> None:
    sky.fault(kind="slow-driver", seconds=300)
    climbing, told = told_until(sky, "Waiting for NVIDIA's driver", "--image", DRIVEN)
    vm = sky.vm()
    sky.door.admin("POST", "crash", {"zone": vm["zone"], "instance": vm["name"]})
    rest = ended(climbing)
    assert climbing.returncode == 4, told + rest
    assert "driver is missing" in rest
    assert "The computer under it failed" in rest


def test_a_push_does_not_wait_for_the_driver_and_a_held_lock_is_named(sky: Sky) -> None:
    sky.fault(kind="slow-driver", seconds=30)
    sky.fault(kind="dpkg-lock", seconds=60)
    climbing, told = told_until(sky, "unattended-upgr (process", "--push", "--image", DRIVEN)
    assert "holds the package manager's lock" in told
    here = ("exec", "--", "sh", "-c", "cat here.txt 2>/dev/null; true")
    eventually(lambda: sky.laptop(*here, cwd=sky.folder).stdout == "pushed\n", "up --push")
    sky.laptop("push", cwd=sky.folder)  # and one from elsewhere
    assert climbing.poll() is None, "the driver is not there yet"
    sky.door.admin("POST", "clock", {"advance_s": 60})
    rest = ended(climbing)
    assert climbing.returncode == 0, told + rest
    assert "files at ~/Workspace" in told + rest
    assert "driver 580.00-simulated" in rest
    assert "Ready: operation" in rest
    assert "driver +" in rest


@pytest.mark.slow
def test_a_driver_too_old_for_torch_is_named(sky: Sky) -> None:
    """Real torch, which sees no CUDA here: a driver that names a version is no excuse."""
    sky.fault(kind="driver", cuda="9.2")
    words = ("up", "--image", "pytorch", "--json")
    error = sky.laptop(*words, cwd=sky.folder, code=4, timeout_s=600).stderr
    assert "torch is missing" in error
    assert "The driver speaks CUDA 9.2, torch" in error
    assert "vmctl up --image pytorch" in error
