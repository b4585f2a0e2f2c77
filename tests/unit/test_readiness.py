"""The stage_log: from what is observed of a VM to the missing stage, its culprit and one fix."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.harness.saved_outputs import saved_output
from vmctl.domain.errors import AccessDenied, Conflict, TimedOut, Unreachable, VmctlError
from vmctl.domain.google.serial_log import driver_lines, script_code, script_lines
from vmctl.domain.guest_replies import BOOT_REPORT
from vmctl.domain.readiness.nvidia import Driver
from vmctl.domain.readiness.readiness import (
    GRACE_S,
    REFUSED_GRACE_S,
    Diagnosis,
    Observation,
    Torch,
    diagnose,
)
from vmctl.domain.readiness.stages import Stage, StageLog
from vmctl.domain.reply_shapes import checked

LIMIT_S = 300.0
SEEN = Observation("ada-vm", "europe-west1-b", user="ada", gpus=2)
ONE, TWO = (Driver(("Tesla T4",) * count, "580.95") for count in (1, 2))
GOOD = Torch(version="2.9.0", cuda="12.9", available=True, count=2, python="/opt/python/bin/python")
LOCK = "unattended-upgr (process 612)"

SOON = 1.0
LATER = GRACE_S + 1
OVER = LIMIT_S + 1


def told(stage: Stage, waited_s: float, **seen: Any) -> Diagnosis | None:
    return diagnose(replace(SEEN, **seen), stage, waited_s, LIMIT_S)


@pytest.mark.parametrize(
    ("stage", "waited_s", "seen", "culprit", "fix", "code"),
    [
        # off
        (Stage.PORT, SOON, {"stopped": "It is TERMINATED."}, "TERMINATED", "vmctl up", 4),
        (
            Stage.DRIVER,
            SOON,
            {"stopped": "It was deleted in the meantime."},
            "deleted",
            "vmctl up",
            4,
        ),
        # nobody answers
        (Stage.PORT, LATER, {"allowed": False}, "firewall rule", "firewall-rules create", 7),
        (Stage.PORT, OVER, {"allowed": True}, "boot hangs", "restart", 8),
        (Stage.PORT, OVER, {"allowed": None}, "your own network blocks", "another network", 8),
        # the key
        (
            Stage.KEY,
            REFUSED_GRACE_S + 1,
            {"refused": True, "os_login": True},
            "OS Login is on",
            "enable-oslogin=FALSE",
            5,
        ),
        (Stage.KEY, LATER, {"agent_failed": True}, "guest agent on it has failed", "Restart", 5),
        (Stage.KEY, OVER, {"refused": True}, "refused vmctl's key for the user ada", "Restart", 5),
        (Stage.KEY, OVER, {}, "host keys", "Restart", 8),
        # start-up
        (Stage.STARTUP, SOON, {"script_code": 3}, "exit status 3", "startup-script=FILE", 4),
        (
            Stage.STARTUP,
            SOON,
            {"has_script": True, "startup": "failed"},
            "google-startup-scripts.service",
            "journalctl",
            4,
        ),
        (Stage.STARTUP, OVER, {"startup": "activating"}, "still running", "journalctl", 8),
        (Stage.STARTUP, OVER, {"startup": "inactive"}, "vmctl's set-up", "ps fx", 8),
        (
            Stage.STARTUP,
            OVER,
            {"startup": "activating", "lock": LOCK},
            f"{LOCK} holds the package manager's lock",
            "vmctl up",
            8,
        ),
        # the driver
        (Stage.DRIVER, LATER, {"driver_said": "nvidia-smi: not found"}, "not found", "--delete", 4),
        (Stage.DRIVER, LATER, {"cards": 0}, "no NVIDIA card", "another host", 4),
        (Stage.DRIVER, LATER, {"driver": ONE}, "sees 1 of 2 GPUs.", "another host", 4),
        (Stage.DRIVER, LATER, {"driver": ONE, "cards": 2}, "a GPU has failed", "another host", 4),
        (Stage.DRIVER, OVER, {"lock": LOCK}, LOCK, "Wait for it", 8),
        (Stage.DRIVER, OVER, {"starting": True}, "not installed", "list-jobs", 8),
        # torch
        (Stage.TORCH, OVER, {}, "not imported after 5 minutes", "vmstat", 8),
        (
            Stage.TORCH,
            SOON,
            {"torch": replace(GOOD, available=False, cuda="", version="2.9.0+cpu")},
            "torch 2.9.0+cpu at /opt/python/bin/python is a build without CUDA",
            "/opt/python/bin/python -m pip install",
            4,
        ),
        (
            Stage.TORCH,
            SOON,
            {"torch": replace(GOOD, available=False, driver_cuda="11.4")},
            "The driver supports CUDA 11.4, torch 2.9.0 needs 12.9",
            "--image pytorch",
            4,
        ),
        (
            Stage.TORCH,
            SOON,
            {"torch": replace(GOOD, available=False, driver_cuda="13.0", said="no device")},
            "sees no CUDA: no device",
            "--image pytorch",
            4,
        ),
        (Stage.TORCH, SOON, {"torch": replace(GOOD, count=1)}, "torch sees 1 of 2", "exec", 4),
        (
            Stage.TORCH,
            SOON,
            {"torch": Torch(said="OSError: libcudnn.so.9", python="/usr/bin/python3")},
            "cannot import torch: OSError: libcudnn.so.9",
            "--image pytorch",
            4,
        ),
    ],
)
def test_a_missing_stage_has_a_cause_one_fix_and_an_exit_code(
    stage: Stage, waited_s: float, seen: dict[str, Any], culprit: str, fix: str, code: int
) -> None:
    found = told(stage, waited_s, **seen)
    assert found is not None
    error = found.error(SEEN)
    assert culprit in error.message
    assert error.message.startswith(f"ada-vm is not ready: {stage.text} is missing.")
    assert fix in error.hint
    assert error.exit_code == code


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("", "create default-allow-ssh --network default --direction INGRESS"),
        ("projects/p/global/networks/lab", "create lab-allow-ssh --network lab --direction"),
        ("https://x/compute/v1/projects/host-p/global/networks/shared", " --project host-p"),
        (f"projects/p/global/networks/{'n' * 63}", f"create {'n' * 53}-allow-ssh --network nnn"),
    ],
)
def test_the_rule_to_make_is_for_the_network_of_the_vm(network: str, words: str) -> None:
    found = told(Stage.PORT, LATER, allowed=False, network=network)
    assert found is not None
    assert words in found.fix
    assert found.fix.endswith(" --target-tags vmctl")


@pytest.mark.parametrize(
    ("stage", "waited_s", "seen"),
    [
        (Stage.PORT, SOON, {"allowed": False}),  # a rule that is being made
        (Stage.PORT, LATER, {"allowed": True}),
        (Stage.PORT, LATER, {"allowed": None}),
        (Stage.KEY, SOON, {"refused": True, "os_login": True}),  # it may just have been turned off
        (Stage.KEY, LATER, {"refused": True}),  # the agent has not written it yet
        (Stage.STARTUP, LATER, {"startup": "activating"}),
        (Stage.STARTUP, SOON, {"script_code": 0}),
        (Stage.STARTUP, LATER, {"startup": "failed"}),  # there is no script: not our affair
        (Stage.DRIVER, SOON, {"driver_said": "not found"}),
        (Stage.DRIVER, LATER, {"starting": True}),
        (Stage.DRIVER, LATER, {"startup": "activating"}),
        (Stage.DRIVER, LATER, {"lock": LOCK}),
        (Stage.DRIVER, OVER, {"driver": TWO}),
        (Stage.TORCH, LATER, {}),
        (Stage.TORCH, OVER, {"torch": GOOD}),
        (Stage.TORCH, OVER, {"torch": Torch(simulated=True)}),
        (Stage.TORCH, OVER, {"torch": Torch(python="/usr/bin/python3")}),  # an image without torch
    ],
)
def test_what_may_still_come_is_waited_for(
    stage: Stage, waited_s: float, seen: dict[str, Any]
) -> None:
    assert told(stage, waited_s, **seen) is None


@pytest.mark.parametrize("stage", [Stage.PORT, Stage.KEY, Stage.STARTUP, Stage.DRIVER, Stage.TORCH])
def test_past_its_limit_every_stage_has_an_answer(stage: Stage) -> None:
    found = told(stage, OVER)
    assert found is not None
    assert found.stage is stage
    assert found.kind in {AccessDenied, Conflict, TimedOut, Unreachable}
    assert found.fix


def test_the_evidence_goes_with_the_error() -> None:
    found = told(Stage.DRIVER, LATER)
    assert found is not None
    error: VmctlError = found.error(replace(SEEN, evidence=("a log: ERROR",)))
    assert error.evidence == ("a log: ERROR",)


def seeing(report: object) -> Observation:
    """With a report of the VM's, checked as on its way here."""
    return SEEN.seen(checked(BOOT_REPORT, report, "a report"))


def test_what_a_vm_reports_is_read_and_cleaned() -> None:
    seen = seeing(
        {
            "starting": True,
            "startup": "activating",
            "lock": "evil\x1b[2J (process 1)\nerror: not ours",
            "driver": {"code": 9, "said": "NVIDIA-SMI has failed\nbecause it could not"},
            "cards": 2,
            "log": ["/var/log/x: a\x07b"],
            "torch": None,
        }
    )
    assert seen.busy
    assert seen.driver is None
    assert seen.driver_said == "because it could not"
    assert seen.cards == 2
    assert "\x1b" not in seen.lock
    assert "\n" not in seen.lock
    assert seen.evidence == ("/var/log/x: a\\x07b",)

    driver = {"code": 0, "said": "Tesla T4, 580.95\nTesla T4, 580.95"}
    seen = seeing({"starting": False, "driver": driver})
    assert seen.driver_answers
    assert not seen.busy


@pytest.mark.parametrize(
    ("torch", "note"),
    [
        (GOOD, "torch 2.9.0, CUDA 12.9"),
        (Torch(version="2.9.0+cpu", simulated=True), "torch 2.9.0+cpu, CUDA simulated"),
        (Torch(simulated=True), "simulated"),
        (Torch(), "no torch on the VM"),
    ],
)
def test_torch_says_what_it_sees(torch: Torch, note: str) -> None:
    assert torch.note == note


def test_the_log_times_each_stage_once() -> None:
    stage_log = StageLog().with_stage(Stage.OPERATION, 8.0).with_stage(Stage.RUNNING, 8.5)
    stage_log = stage_log.with_stage(Stage.PORT, 40.0).with_stage(Stage.PORT, 55.0)
    stage_log = stage_log.with_stage(Stage.DRIVER, 60.25, "simulated")
    assert [(one.stage, one.after_s, one.took_s) for one in stage_log.reached] == [
        ("operation", 8.0, 8.0),
        ("running", 8.5, 0.5),
        ("port", 40.0, 31.5),
        ("driver", 60.25, 20.25),
    ]
    assert stage_log.text == (
        "operation 8.0 s, RUNNING +0.5 s, port 22 +32 s, driver +20 s (simulated)"
    )
    assert stage_log.has(Stage.PORT)
    assert not stage_log.has(Stage.KEY)


def test_the_serial_port_tells_of_the_last_boot_only() -> None:
    ended = saved_output("serial-script-failed")
    assert script_code(ended) == 100
    texts = [line.partition("google_metadata_script_runner: ")[2] for line in script_lines(ended)]
    assert texts[0] == "Found startup-script in metadata."
    assert texts[2].endswith("no-such-program: not found")
    assert texts[-1] == "startup-script exit status 100"
    again = "google_metadata_script_runner[77]: Starting startup scripts.\n"
    assert script_code(ended + again) is None, "the script of this boot has not ended"
    assert script_lines(ended + again) == []
    assert script_code(ended + again + "google: startup-script exit status 3\n") == 3
    assert script_code("") is None


def test_the_serial_port_tells_of_the_driver() -> None:
    lines = ["[ 5.1] NVRM: GPU 0000:00:04.0: RmInitAdapter failed!", "nvidia-installer: no"]
    assert driver_lines("\n".join(["systemd: hello", *lines, "login:"])) == lines
