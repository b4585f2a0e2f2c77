"""run, logs, ps, attach, cancel: jobs that outlive every connection."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project

JOBS = (
    BASE
    + """
[jobs.hello]
command = "echo hello from $(hostname)"
[jobs.code]
command = "echo going wrong >&2; exit 7"
[jobs.slow]
command = "for i in $(seq 1 40); do echo line $i; sleep 0.25; done; echo the end"
[jobs.counting]
command = "for i in $(seq 1 60); do echo line $i; sleep 0.5; done; exit 9"
[jobs.stubborn]
command = "trap 'echo saving; exit 143' TERM; echo ready; while :; do sleep 0.1; done"
[jobs.prepared]
setup = ["./prepare.sh"]
command = "cat prepared"
env = ["GREETING"]
[jobs.env]
command = "printenv GREETING"
env = ["GREETING"]
[jobs.python]
command = "python main.py"
outputs = ["made.txt"]
"""
)


def spoken(log: str) -> list[str]:
    """The lines of a log that the job itself wrote."""
    return [line for line in log.splitlines() if not line.startswith("[vmctl] ")]


@pytest.fixture(scope="module")
def jobs(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("jobs")
    folder = project(
        base / "jobs",
        JOBS,
        {
            "prepare.sh": '#!/bin/sh\necho preparing; echo "ready $GREETING" >>prepared\n',
            "main.py": "import sys\nopen('made.txt', 'w').write(' '.join(sys.argv[1:]))\n"
            "print(sys.argv[1:])\n",
            "timeit.py": "raise SystemExit('shadowed')\n",
        },
    )
    (folder / "prepare.sh").chmod(0o755)
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def test_run_prints_the_log_and_ends_with_the_jobs_code(laptop: Laptop, jobs: Path) -> None:
    assert "hello from tester-jobs" in laptop("run", "hello", cwd=jobs).stdout
    failed = laptop("run", "code", cwd=jobs, code=7)
    assert "going wrong" in failed.stdout
    assert "7" in failed.stderr


def test_arguments_reach_the_job_as_they_are(laptop: Laptop, jobs: Path) -> None:
    words = ["--epochs", "2", "a b", "$HOME", "it's", "--name", "x"]
    told = laptop("run", "python", *words, cwd=jobs)
    assert str(words) in told.stdout
    laptop("fetch", cwd=jobs)
    assert (jobs / "made.txt").read_text() == " ".join(words)
    (jobs / "made.txt").unlink()


def test_options_of_the_job_are_never_ours(laptop: Laptop, jobs: Path) -> None:
    told = laptop("run", "python", "--", "--detach", "--verbose", cwd=jobs)
    assert "['--detach', '--verbose']" in told.stdout
    told = laptop("run", "python", "--json", cwd=jobs)
    assert spoken(told.stdout) == ["['--json']"]
    told = laptop("run", "nonsense", "--json", cwd=jobs, code=3)
    assert "error: " in told.stderr
    (jobs / "made.txt").unlink(missing_ok=True)


def test_setup_runs_once_per_content(laptop: Laptop, jobs: Path) -> None:
    greeting = {"GREETING": "you"}
    first = laptop("run", "prepared", cwd=jobs, environ=greeting)
    assert "preparing" in first.stdout
    assert "ready you" in first.stdout
    second = laptop("run", "prepared", cwd=jobs, environ=greeting)
    assert "preparing" not in second.stdout.replace("prepared", "")
    assert second.stdout.count("ready you") == 1


def test_ctrl_c_detaches_and_logs_pick_it_up(laptop: Laptop, jobs: Path) -> None:
    client = laptop.start("run", "slow", cwd=jobs)
    assert client.stdout is not None
    assert client.stderr is not None
    while b"line 3" not in client.stdout.readline():
        pass
    os.kill(client.pid, signal.SIGINT)
    _, told = client.communicate(timeout=20)
    assert client.returncode == 0, told
    assert b"vmctl logs" in told, "detaching says how to come back"
    running = laptop.json("ps", cwd=jobs)[0]
    assert (running["job"], running["state"]) == ("slow", "running")
    refused = laptop("run", "slow", "--other", cwd=jobs, code=4)
    assert "cancel" in refused.stderr
    log = laptop("logs", "-f", cwd=jobs).stdout
    assert spoken(log) == [*(f"line {i}" for i in range(1, 41)), "the end"]
    assert laptop.json("ps", cwd=jobs)[0]["state"] == "succeeded"


def test_cancel_lets_the_job_save_first(laptop: Laptop, jobs: Path) -> None:
    laptop("run", "--detach", "stubborn", cwd=jobs)
    eventually(lambda: "ready" in laptop("logs", "stubborn", cwd=jobs).stdout)
    laptop("cancel", "stubborn", cwd=jobs)
    assert "saving" in laptop("logs", "stubborn", cwd=jobs).stdout
    assert laptop.json("ps", cwd=jobs)[0]["state"] == "cancelled"
    again = laptop("cancel", "stubborn", cwd=jobs)
    assert "already" in again.stdout + again.stderr


def test_values_of_env_do_not_show_in_the_process_list(laptop: Laptop, jobs: Path) -> None:
    secret = "s3cret-value-of-env"
    told = laptop("run", "env", cwd=jobs, environ={"GREETING": secret})
    assert secret in told.stdout
    client = laptop.start("run", "slow", cwd=jobs, environ={"GREETING": secret})
    assert client.stdout is not None
    while b"line 1" not in client.stdout.readline():
        pass
    listed = laptop("exec", "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", cwd=jobs)
    assert secret not in listed.stdout
    os.kill(client.pid, signal.SIGKILL)
    client.communicate()
    laptop("cancel", "slow", cwd=jobs)


@pytest.mark.slow
def test_a_follower_notices_a_silent_connection_and_loses_no_line(
    laptop: Laptop, jobs: Path
) -> None:
    client = laptop.start("run", "counting", cwd=jobs)
    assert client.stdout is not None
    assert client.stderr is not None
    seen = b""
    while b"line 3\n" not in seen:
        seen += os.read(client.stdout.fileno(), 4096)
    # the VM's end of the warm connection sleeps: TCP lives on, nothing answers any more
    sleeper = laptop.start("exec", "--", "sh", "-c", "kill -STOP $PPID; sleep 100", cwd=jobs)
    try:
        began = time.monotonic()
        while b"coming back" not in client.stderr.readline():
            assert time.monotonic() - began < 40, "five seconds, three times, and some"
        rest, told = client.communicate(timeout=120)
    finally:
        os.killpg(sleeper.pid, signal.SIGKILL)
        sleeper.communicate()
    assert client.returncode == 9, told
    assert spoken((seen + rest).decode()) == [f"line {i}" for i in range(1, 61)]


def test_attach_shows_the_run_in_its_tmux(laptop: Laptop, jobs: Path) -> None:
    laptop("run", "--detach", "slow", cwd=jobs)
    leader, follower = pty.openpty()
    client = laptop.start(
        "attach", "slow", cwd=jobs, stdin=follower, stdout=follower, stderr=follower,
        environ={"TERM": "xterm"},
    )  # fmt: skip
    os.close(follower)
    seen = b""
    while b"line" not in seen:
        seen += os.read(leader, 4096)
    os.write(leader, b"\x02")  # Ctrl-B, then D: as slowly as fingers, or tmux takes it for a paste
    time.sleep(0.2)
    os.write(leader, b"d")
    try:
        while os.read(leader, 4096):
            pass
    except OSError:
        pass
    assert client.wait(timeout=20) == 0
    os.close(leader)
    assert laptop.json("ps", cwd=jobs)[0]["state"] == "running"
    laptop("cancel", "slow", cwd=jobs)


def test_a_reboot_in_the_middle_reads_as_lost(laptop: Laptop, tmp_path: Path) -> None:
    folder = project(tmp_path / "reboot", JOBS)
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    laptop("run", "--detach", "slow", cwd=folder)
    laptop("down", cwd=folder)
    laptop("up", cwd=folder)
    last = laptop.json("ps", cwd=folder)[0]
    assert last["state"] in {"lost", "cancelled"}
    assert last["exit_code"] != 0
    laptop("down", "--delete", "--yes", cwd=folder)


def test_ssh_and_exec_pass_the_exit_code_and_the_streams(laptop: Laptop, jobs: Path) -> None:
    laptop("exec", "--", "sh", "-c", "exit 5", cwd=jobs, code=5)
    laptop("ssh", "--", "exit", "6", cwd=jobs, code=6)
    told = laptop("exec", "cat", cwd=jobs, stdin=b"over and back\n")
    assert told.stdout == "over and back\n"
    assert laptop("exec", "pwd", cwd=jobs).stdout.strip().endswith("/Workspace/jobs")
