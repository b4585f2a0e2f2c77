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

from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project
from tests.harness.wheels import make_wheel, package_files

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
[jobs.env]
command = "printenv GREETING"
env = ["GREETING"]
[jobs.python]
command = "python main.py"
outputs = ["made.txt"]
[jobs.script]
script = "hello.py"
requirements = ["greeter>=1"]
outputs = ["greeted.txt"]
[jobs.package]
package = "hello_package"
module = "hello_world.main"
"""
)
HELLO = "import sys, greeter\nopen('greeted.txt', 'w').write(greeter.greet(sys.argv[1]))\n"
MAIN = "import sys, greeter\nprint(greeter.greet('package'), sys.argv[1:])\n"
GREETER = "def greet(name):\n    return f'hello {name}'\n"
WHEELS = """mkdir -p ~/.config/pip
printf '[global]\\nno-index=1\\nfind-links=%s' "$PWD" >~/.config/pip/pip.conf"""


def spoken(log: str) -> list[str]:
    """The lines of a log that the job itself wrote."""
    return [line for line in log.splitlines() if not line.startswith("[vmctl] ")]


@pytest.fixture(scope="module")
def jobs(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("jobs")
    package = package_files("hello_world", MAIN, "greeter")
    folder = project(
        base / "jobs",
        JOBS,
        {
            "main.py": "import sys\nopen('made.txt', 'w').write(' '.join(sys.argv[1:]))\n"
            "print(sys.argv[1:])\n",
            "timeit.py": "raise SystemExit('shadowed')\n",
            "hello.py": HELLO,
            **{f"hello_package/{name}": text for name, text in package.items()},
        },
    )
    make_wheel(folder, "greeter", "1.0", GREETER)
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


def test_arguments_reach_the_job_as_they_are_and_none_is_ours(laptop: Laptop, jobs: Path) -> None:
    words = ["--epochs", "2", "a b", "$HOME", "it's", "--name", "x", "--json"]
    told = laptop("run", "python", *words, cwd=jobs)
    assert spoken(told.stdout) == [str(words)]
    laptop("fetch", cwd=jobs)
    assert (jobs / "made.txt").read_text() == " ".join(words)
    (jobs / "made.txt").unlink()
    told = laptop("run", "python", "--", "--detach", "--verbose", cwd=jobs)
    assert "['--detach', '--verbose']" in told.stdout
    told = laptop("run", "nonsense", "--json", cwd=jobs, code=3)
    assert "error: " in told.stderr


def test_scripts_and_packages_bring_what_they_need(laptop: Laptop, jobs: Path) -> None:
    laptop("exec", "--", "sh", "-c", WHEELS, cwd=jobs)
    told = laptop("run", "script", "--", "a b", cwd=jobs)
    assert "[vmctl] installing greeter>=1\n" in told.stdout
    laptop("fetch", "greeted.txt", cwd=jobs)
    assert (jobs / "greeted.txt").read_text() == "hello a b"
    told = laptop("run", "package", "--", "--count", "2", cwd=jobs)
    assert spoken(told.stdout)[-1] == "hello package ['--count', '2']"
    told = laptop("run", "package", cwd=jobs)
    assert spoken(told.stdout) == ["hello package []"]
    assert [run["job"] for run in laptop.json("ps", cwd=jobs)][:3] == [
        "package",
        "package",
        "script",
    ]


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
    # (the parent is the shell that stands between, its parent is sshd's)
    stop = "kill -STOP $(cut -d ' ' -f 4 /proc/$PPID/stat); sleep 100"
    sleeper = laptop.start("exec", "--", "sh", "-c", stop, cwd=jobs)
    try:
        began = time.monotonic()
        while b"reconnecting" not in client.stderr.readline():
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
    again = laptop("cancel", "slow", cwd=jobs)
    assert "already" in again.stdout + again.stderr


def test_ssh_and_exec_pass_the_exit_code_and_the_streams(laptop: Laptop, jobs: Path) -> None:
    laptop("exec", "--", "sh", "-c", "exit 5", cwd=jobs, code=5)
    laptop("ssh", "--", "exit", "6", cwd=jobs, code=6)
    told = laptop("exec", "cat", cwd=jobs, stdin=b"over and back\n")
    assert told.stdout == "over and back\n"
    assert laptop("exec", "pwd", cwd=jobs).stdout.strip().endswith("/Workspace/jobs")


def test_a_reboot_in_the_middle_reads_as_lost(laptop: Laptop, jobs: Path) -> None:
    laptop("run", "--detach", "slow", cwd=jobs)
    laptop("down", cwd=jobs)
    laptop("up", cwd=jobs)
    last = laptop.json("ps", cwd=jobs)[0]
    assert last["state"] in {"lost", "cancelled"}
    assert last["exit_code"] != 0
