"""kill -9 of the client, and of its helper on the login node, at every step of a submission."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import tempfile
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster, cluster_with
from tests.harness.endpoint import LIMIT_S
from tests.harness.eventually import eventually
from tests.harness.fork_server import Forked
from tests.harness.wire import processes_with

TOML = """
on = "alvis"
[targets.alvis]
kind = "slurm"
host = "alvis"
time = "0:10:00"
[jobs.waits]
command = "sleep 600"
"""
# stands for a command of Slurm's on the login node, which can be held before or after its n-th call
HELD = """#!/bin/bash
name=${0##*/} held=FOLDER
echo "$name $*" >>$held/calls
n=$(wc -l <$held/calls)
hold() { [ ! -e "$held/$1-$n" ] || { echo $$ >$held/pid; read -r <$held/go; }; }
hold before
/usr/bin/$name "$@"
code=$?
hold after
exit $code
"""
COMMANDS = ("sbatch", "squeue", "sinfo", "sacctmgr", "scontrol")
RUN = ("run", "--detach", "waits")


class Submissions:
    """`vmctl run`, which can be killed at each call of Slurm's commands on the login node."""

    def __init__(self, cluster: Cluster, held: Path) -> None:
        self.cluster = cluster
        self.held = held
        (cluster.login.home / "bin").mkdir()
        for name in COMMANDS:
            program = cluster.login.home / "bin" / name
            program.write_text(HELD.replace("FOLDER", str(held)))
            program.chmod(0o755)

    @contextlib.contextmanager
    def held_at(self, call: int, when: str) -> Iterator[Forked | None]:
        """A client, held there; None if it came through before."""
        for file in self.held.iterdir():
            file.unlink()
        (self.held / f"{when}-{call}").touch()
        os.mkfifo(self.held / "go")
        with tempfile.TemporaryFile() as output:
            folder = self.cluster.folder
            client = self.cluster.laptop.start_forked(*RUN, cwd=folder, output=output)
            eventually(lambda: self.pid() or client.poll() is not None, "held, or through")
            (self.held / f"{when}-{call}").unlink()
            if self.pid():
                yield client
            else:
                assert client.wait(LIMIT_S) == 0
                yield None

    def pid(self) -> int:
        """The process that is held."""
        try:
            return int((self.held / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def killed_at(self, call: int, when: str) -> str:
        """Kill client, helper and Slurm's command there; the command, "" if it came through."""
        with self.held_at(call, when) as client:
            if client is None:
                return ""
            self.kill(client)
            os.kill(self.pid(), signal.SIGKILL)
            return (self.held / "calls").read_text().splitlines()[-1]

    def kill(self, client: Forked) -> None:
        """Kill a client and its helper."""
        os.killpg(client.pid, signal.SIGKILL)
        client.wait(LIMIT_S)
        for process in self.helpers():
            os.kill(process, signal.SIGKILL)

    def helpers(self) -> set[int]:
        """What starts runs on the login node."""
        return processes_with(b"-ISB", str(self.cluster.login.home).encode(), b"\0start")

    def wait_for_lock(self) -> bool:
        """Whether a helper waits for another's lock."""
        waiting = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        return any(words[1] == "->" and int(words[5]) in self.helpers() for words in waiting)

    def jobs(self, *words: str) -> int:
        """How many are in the queue; with `-t all` those that have ended, too."""
        return self.cluster.slurm("squeue", "-h", *words).count("\n")

    def cancel(self) -> None:
        self.cluster("cancel", "waits")
        eventually(lambda: self.jobs() == 0, "it left the queue")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_with(tmp_path_factory.mktemp("cluster"), TOML, {"empty.py": ""}) as made:
        yield made


def test_a_submission_that_is_killed_leaves_no_job_twice(cluster: Cluster, tmp_path: Path) -> None:
    runs = Submissions(cluster, tmp_path)
    submits = "sbatch --parsable"
    for call in itertools.count(1):
        killed = runs.killed_at(call, "before")
        assert killed, "it came through without a submission"
        assert runs.jobs() == 0, killed
        if killed.startswith(submits):
            break
    # Slurm has the job from now on, and nothing but its comment says whose it is
    for later, when in [(call, "after"), *zip(range(call + 1, 20), repeat("before"))]:
        killed = runs.killed_at(later, when)
        if not killed:
            break
        assert runs.jobs() == 1, killed
        cluster(*RUN)
        assert runs.jobs() == 1, killed
        runs.cancel()
    assert runs.jobs() == 1, "it came through"
    runs.cancel()
    # the helper is dead, but sbatch goes on: whoever comes next waits for it
    before = runs.jobs("-t", "all")
    with runs.held_at(call, "before") as client:
        assert client is not None
        runs.kill(client)
        with tempfile.TemporaryFile() as output:
            again = cluster.laptop.start_forked(*RUN, cwd=cluster.folder, output=output)
            eventually(lambda: runs.wait_for_lock() or again.poll() is not None, "it waits")
            (tmp_path / "go").write_text("\n")
            eventually(lambda: not Path(f"/proc/{runs.pid()}").exists(), "sbatch is through")
            assert again.wait(LIMIT_S) == 0
    assert runs.jobs("-t", "all") == before + 1
    assert runs.jobs() == 1
    runs.cancel()
    # what never came to Slurm says so
    oldest = cluster.laptop.json("ps", cwd=cluster.folder)[-1]["id"]
    eventually(lambda: "cut off before Slurm had it" in cluster("logs", oldest)[1], "it is old")
