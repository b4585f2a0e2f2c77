"""A job on a real Slurm cluster: our submission compared with sbatch by hand, and what we ask.

The peer is what a patient person types: one line over a warm ssh connection, which submits a batch
script and waits for its file. Both end at the job's first line. What the controller is asked is its
own count (sdiag), not ours.
"""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks.cloud import VMCTL
from scripts.benchmarks.rig import in_turn, show, title
from tests.harness.cluster import Cluster, cluster_with
from tests.harness.eventually import eventually

REACH = 1.3  # times sbatch by hand
QUERY_S = 5.0  # one query in this time, however many follow
WATCHED_S = 30.0
FOLLOWERS = (1, 2, 4)
FIRST = b"first line\n"
TOML = """
on = "alvis"
[targets.alvis]
kind = "slurm"
host = "alvis"
[jobs.hello]
command = "echo first line"
[jobs.waits]
command = "echo first line; exec sleep 600"
"""
BY_HAND = """cd Workspace/work && id=$(sbatch --parsable hello.sh)
until [ -s "slurm-$id.out" ]; do sleep 0.05; done; cat "slurm-$id.out"
"""
FILES = {"hello.sh": "#!/bin/bash\necho first line\n"}


def run(runs: int) -> bool:
    """Print both tables; whether the reaches are met."""
    with (
        tempfile.TemporaryDirectory(prefix="vmb") as folder,
        cluster_with(Path(folder), TOML, FILES) as cluster,
    ):
        is_fast = _submissions(cluster, runs)
        return _queries(cluster) and is_fast


def _submissions(cluster: Cluster, runs: int) -> bool:
    title("from the command to the job's first line")
    ssh = ["ssh", "-F", f"{cluster.laptop.extra['HOME']}/.ssh/config", "-o", "ControlMaster=auto",
           "-o", f"ControlPath={cluster.login.sockets}/by-hand", "-o", "ControlPersist=60",
           "alvis", BY_HAND]  # fmt: skip
    ours, peer = "vmctl run", "sbatch by hand"
    times = in_turn(
        {
            ours: lambda: _until_first_line(cluster, [VMCTL, "run", "hello"]),
            peer: lambda: _until_first_line(cluster, ssh),
        },
        runs,
        before=lambda name, turn: eventually(
            lambda: cluster.slurm("squeue", "-h") == "", "an empty queue"
        ),
    )
    show(times, ours)
    ratio = times[ours].least / times[peer].least
    print(f"  {'yes' if ratio <= REACH else 'NO '}  {ratio:.2f} x by hand, reach {REACH}")
    return ratio <= REACH


def _until_first_line(cluster: Cluster, argv: list[str]) -> float:
    began = time.perf_counter()
    with _started(cluster, argv) as process:
        assert process.stdout is not None
        while line := process.stdout.readline():
            if line == FIRST:
                return time.perf_counter() - began
    raise RuntimeError(f"{argv[0]} ended without the job's first line")


@contextlib.contextmanager
def _started(cluster: Cluster, argv: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        argv,
        cwd=cluster.folder,
        env=cluster.laptop.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _queries(cluster: Cluster) -> bool:
    title(f"questions to the controller in {QUERY_S:g} s")
    met = True
    cluster("run", "--detach", "waits")
    for followers in FOLLOWERS:
        with contextlib.ExitStack() as stack:
            for _ in range(followers):
                process = stack.enter_context(_started(cluster, [VMCTL, "logs", "-f", "waits"]))
                assert process.stdout is not None
                while process.stdout.readline() != FIRST:
                    continue
            before, began = _asked(cluster), time.perf_counter()
            time.sleep(WATCHED_S)  # so long is what is measured: nothing is waited for
            asked, took = _asked(cluster) - before, time.perf_counter() - began
        rate = max(asked - 1, 0) * QUERY_S / took  # n questions are n - 1 times apart
        met = met and rate <= 1
        said = f"{followers} followers: {rate:.2f} ({asked} in {took:.0f} s), reach 1"
        print(f"  {'yes' if rate <= 1 else 'NO '}  {said}", flush=True)
    cluster("cancel", "waits")
    return met


def _asked(cluster: Cluster) -> int:
    """How often the controller was asked about jobs so far; squeue asks for the partitions, too."""
    by_type = cluster.slurm("sdiag").partition("by user")[0]
    counts = re.findall(r"REQUEST_\w*(?:JOB|STEP)\w*_INFO\w*\s.*?count:(\d+)", by_type)
    return sum(map(int, counts))
