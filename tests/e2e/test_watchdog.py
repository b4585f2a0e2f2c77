"""The VM's own dead-man's switch, on real machines whose time the test moves."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import processes_of
from tests.harness.sshd import free_port
from tests.harness.stepped_clock import STEP_S, SteppedCloud, Terminal

IDLE_H = 0.1  # shorter than the default, as each look of the watchdog costs time here
PAST_IDLE_H = IDLE_H + 2 * STEP_S / 3600  # two looks more, the first of which warns
TOML = """
idle = "6m"
max_hours = 12
[jobs.long]
command = "trap 'echo saved; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
"""


@pytest.fixture(scope="module")
def stepped() -> Iterator[SteppedCloud]:
    with SteppedCloud.opened("watchdog", toml=TOML) as made:
        yield made


@pytest.fixture
def up(stepped: SteppedCloud) -> Iterator[SteppedCloud]:
    """A machine that has just been started."""
    stepped("up")
    stepped.settled()
    yield stepped
    stepped("down")


def status(cloud: SteppedCloud) -> dict[str, object]:
    found: dict[str, object] = cloud.laptop.json("status", cwd=cloud.folder)
    return found


def test_a_budget_needs_a_price(stepped: SteppedCloud) -> None:
    stepped.clear()
    told = stepped("up", "--gpu", "none", "--budget", "1", code=2)
    assert "The price of e2-standard-4 is not known" in told.stderr
    assert "--max-hours" in told.stderr
    assert "more than $0" in stepped("up", "--budget", "0", code=2).stderr
    assert "--idle 30m" in stepped("up", "--idle", "soon", code=2).stderr
    assert not stepped.machines()


@pytest.mark.slow
def test_it_watches_a_machine_whose_up_was_killed_before_it_could_log_in(
    stepped: SteppedCloud,
) -> None:
    stepped.clear()
    killed = stepped.laptop.start("up", cwd=stepped.folder)
    eventually(lambda: [vm for vm in stepped.machines() if vm["status"] != "TERMINATED"])
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    eventually(lambda: stepped.machine()["status"] == "RUNNING")
    stepped.live(PAST_IDLE_H)
    stepped.off()


def test_it_watches_after_a_start_from_the_console_with_the_laptop_off(
    stepped: SteppedCloud,
) -> None:
    if not stepped.machines():
        stepped("up")
    stepped("down")
    stepped.on("tester-month", "start")
    stepped.settled()
    stepped.live(PAST_IDLE_H)
    stepped.off()


def test_an_unused_machine_says_so_and_stops_itself_whatever_connections_stand(
    up: SteppedCloud,
) -> None:
    """Our own connections and tunnels are no work."""
    up("push")
    up("exec", "--", "true")
    up("tunnel", f"{free_port()}:22", "--background")
    try:
        up.live(0.9 * IDLE_H)
        assert up.machine()["status"] == "RUNNING"
        line = str(status(up)["what_stops"])
        assert "Idle since" in line
        assert "vmctl keep 1h" in line
        assert "Google stops it on" in line
        assert "\n" not in line
        up.live(PAST_IDLE_H)
        up.off()
    finally:
        up("tunnel", "stop", "all", code=None)
    told = up("status").stdout
    assert "Its watchdog stopped it" in told
    assert status(up)["stop_reason"]["cause"] == "watchdog"  # type: ignore[index]


def notice(cloud: SteppedCloud) -> str:
    """The notice shown at login."""
    return cloud("exec", "--", "sh", "-c", "cat /run/vmctl-watchdog/notice || true").stdout


def test_a_login_keeps_it_and_reads_what_is_about_to_happen_and_keep_postpones_it(
    up: SteppedCloud,
) -> None:
    up.live(0.7 * IDLE_H)
    eventually(lambda: up.live(1 / 60) or "idle since" in notice(up), "it is about to stop")
    terminal = Terminal(up)
    with contextlib.closing(terminal):
        assert "vmctl keep 1h" in terminal.reads("idle since")
        terminal.type("echo at-$((40+2))\n")
        terminal.reads("at-42")
        up.live(PAST_IDLE_H)
        assert up.machine()["status"] == "RUNNING"
        assert "login of" in str(up.report())
    kept = up.laptop.json("keep", "20m", cwd=up.folder)
    assert kept["idle_stops"]
    up.live(PAST_IDLE_H + STEP_S / 3600)
    assert up.machine()["status"] == "RUNNING"
    up.live(PAST_IDLE_H)
    up.off()


def test_a_run_keeps_it_is_warned_an_hour_before_googles_limit_and_can_save(
    up: SteppedCloud,
) -> None:
    up("push")
    run = json.loads(up("--json", "run", "--detach", "long").stdout)
    eventually(lambda: "ready" in up("logs").stdout)
    up.live(1.5 * IDLE_H)
    assert up.machine()["status"] == "RUNNING"
    assert run["run_id"] in str(up.report())
    up.jump((10.95 - 1.5 * IDLE_H) * 3600)
    up.settled()
    assert "SIGTERM" not in up("logs").stdout
    up.live(0.1)
    log = up("logs").stdout
    assert "its run limit: Google stops this VM" in log
    assert "SIGTERM will be sent at" in log
    assert log.count("SIGTERM will be sent at") == 1
    assert "\nsaved" not in log
    up.jump((11.93 - 11.05) * 3600)
    up.settled()
    eventually(lambda: "\nsaved" in up("logs").stdout)
    assert json.loads(up("ps", "--json").stdout)[0]["exit_code"] == 3
    up.jump(10 * 60)
    up.off()
    assert "its run limit was reached" in up("status").stdout


@pytest.mark.slow
def test_a_budget_for_a_running_machine_waits_for_the_run_and_tells_who_is_logged_in(
    up: SteppedCloud,
) -> None:
    up("push")
    up("run", "--detach", "long")
    up("up", "--budget", "0.10")  # less than a quarter of an hour
    terminal = Terminal(up)
    with contextlib.closing(terminal):
        up.live(0.1)
        terminal.reads("the budget ends")
        assert "the budget ends" in up("logs").stdout
        up.jump(0.75 * 3600)
        up.settled()
        assert up.machine()["status"] == "RUNNING"
        assert "SIGTERM:" not in up("logs").stdout
        up.jump(600)
        eventually(lambda: "SIGTERM:" in up("logs").stdout)
    up.jump(600)
    up.off()
    assert "budget" in up("status").stdout


@pytest.mark.slow
def test_a_gpu_at_work_or_one_that_cannot_be_asked_keeps_it_the_login_of_a_sleeper_does_not(
    up: SteppedCloud,
) -> None:
    """What nvidia-smi prints is put into its place on the machine: the GPU there is simulated."""
    place = "/usr/local/bin/nvidia-smi"
    up("exec", "--", "sudo", "cp", place, "/tmp/kept")

    def answers(script: str) -> None:
        up.laptop(
            "exec", "--", "sudo", "tee", place, cwd=up.folder, stdin=f"#!/bin/sh\n{script}".encode()
        )

    answers('case "$1" in *utilization*) echo "0, 97" ;; *) echo 4711 ;; esac\n')
    up.live(PAST_IDLE_H)
    assert "GPU 0 at 97 %" in str(up.report())
    answers("sleep 0.1; exit 9\n")
    up.live(PAST_IDLE_H)
    assert "does not report its use" in str(up.report())
    answers('case "$1" in *utilization*) echo "0, 97" ;; esac\n')  # nobody's: the question's own
    up.live(0.1)
    assert up.report()["busy"] == []  # type: ignore[index]
    up("exec", "--", "sudo", "cp", "/tmp/kept", place)

    # a laptop sleeps with a login open
    sooner = "s/^ClientAliveInterval .*/ClientAliveInterval 1/"  # sshd's time is this computer's
    up("exec", "--", "sudo", "sed", "-i", sooner, "/etc/ssh/sshd_config.d/10-vmctl.conf")
    for line in _connections(up):  # what is warm has been told otherwise
        os.kill(line, signal.SIGKILL)
    terminal = Terminal(up)
    terminal.type("echo at-$((40+2))\n")
    terminal.reads("at-42")
    up.jump(60)
    up.settled()
    assert "login of" in str(up.report())
    asleep = _connections(up)
    assert asleep
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:

        def gone() -> bool:
            up.jump(30)
            up.settled()
            return "login of" not in str(up.report())

        eventually(gone, within_s=180, gap_s=1, what="sshd ends the dead connection")
        up.live(PAST_IDLE_H)
        up.off()
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
        terminal.close()


def _connections(up: SteppedCloud) -> list[int]:
    """The laptop's own ssh processes."""
    lines = [line for line in processes_of(str(up.laptop.home)) if " ssh" in line or "/ssh" in line]
    return [int(line.partition(":")[0]) for line in lines if "sshd" not in line]


def test_a_budget_for_a_new_machine_becomes_googles_limit(stepped: SteppedCloud) -> None:
    stepped.clear()
    told = stepped("up", "--budget", "1", "--idle", "off").stderr
    machine = stepped.machine()
    seconds = int(machine["scheduling"]["maxRunDuration"]["seconds"])
    usd = (0.55901 + 0.005 + 10 / 730) * seconds / 3600
    assert 0.99 < usd <= 1
    assert "Google stops it after 1.7" in told
    settings = {item["key"]: item["value"] for item in machine["metadata"]["items"]}
    assert json.loads(settings["vmctl-watchdog"]) == {"max_run_s": seconds}
    assert "Idle" not in str(status(stepped)["what_stops"])
    stepped.live(PAST_IDLE_H)
    assert stepped.machine()["status"] == "RUNNING"
    stepped("down")
    stepped("up", "--budget", "0.5")
    seconds = int(stepped.machine()["scheduling"]["maxRunDuration"]["seconds"])
    assert 0.49 < (0.55901 + 0.005 + 10 / 730) * seconds / 3600 <= 0.5
