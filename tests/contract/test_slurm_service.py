"""Jupyter inside a job: submitted, reached through the login node, let in by its token alone."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster, cluster_with
from tests.harness.eventually import eventually
from tests.harness.wire import processes_with

TOML = """
on = "alvis"
[targets.alvis]
kind = "slurm"
host = "alvis"
time = "0:10:00"
extra = ["--requeue"]
python = "PYTHON"
[services.jupyter]  # the image's own scripts find their Python in machines only
command = "python -m jupyterlab --no-browser --ip {ip} --port {port} --allow-root"
[services.deaf]
command = "python3 -m http.server 8000"
port = 8000
token = true
[services.broken]
command = "echo no such luck {ip} {port}; exit 3"
port = 8000
token = true
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    build = [sys.executable, "-m", "vmctl.emulator", "image", "build", "pytorch"]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.split()[-1]
    toml = TOML.replace("PYTHON", f"{image}/bin/python")
    with cluster_with(tmp_path_factory.mktemp("cluster"), toml, {"data.txt": "mine"}) as made:
        yield made


def status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as refused:
        return refused.code


def answers(url: str) -> bool:
    with contextlib.suppress(OSError):
        return status(url) == 200
    return False


@pytest.mark.exhaustive
def test_jupyter_runs_in_a_job_that_ctrl_c_leaves(cluster: Cluster, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as file:
        tunnel = cluster.laptop.start(
            "tunnel", "jupyter", "--port", "auto", cwd=cluster.folder, stdout=file, stderr=file
        )
    found = eventually(
        lambda: (
            re.search(r"(http://127.0.0.1:\d+/)\?token=(\w+)", output.read_text()) or tunnel.poll()
        ),
        "its URL",
        within_s=100,
    )
    assert isinstance(found, re.Match), output.read_text()
    url, token = found.groups()
    assert status(f"{url}api/contents/data.txt?token={token}") == 200, "it sees the workspace"
    assert status(f"{url}api/contents/data.txt") == 403
    assert not processes_with(token.encode()), "no process list shows it"
    (kept,) = cluster.login.home.glob(".vmctl/services/jupyter/token")
    assert kept.stat().st_mode & 0o777 == 0o600
    (run,) = cluster.laptop.json("ps", cwd=cluster.folder)
    assert (run["job"], run["state"]) == ("jupyter", "running")
    cluster.slurm("scontrol", "requeue", run["queue_id"])
    waiting = ("squeue", "-h", "-t", "PD")
    eventually(lambda: cluster.slurm(*waiting) != "", "Slurm takes it back")
    cluster.slurm("scontrol", "update", f"JobId={run['queue_id']}", "StartTime=now")
    eventually(
        lambda: answers(f"{url}api/contents/data.txt?token={token}"),
        "the tunnel leads to where it was started anew",
        within_s=100,
    )
    assert cluster.run_state() == "running"
    tunnel.send_signal(signal.SIGINT)
    assert tunnel.wait(30) == 0, output.read_text()
    assert f"End it: vmctl cancel {run['id']}" in output.read_text()
    assert cluster.run_state() == "running"
    cluster("cancel", "jupyter")
    assert cluster.run_state() == "cancelled"
    eventually(lambda: cluster.slurm("squeue", "-h") == "", "it left the queue")


def test_a_service_that_cannot_serve_says_why(cluster: Cluster) -> None:
    before = cluster.laptop.json("ps", cwd=cluster.folder)
    assert "write {ip} and {port}" in cluster("tunnel", "--port", "auto", "deaf", code=2)[1]
    assert cluster.laptop.json("ps", cwd=cluster.folder) == before
    assert "no such luck" in cluster("tunnel", "--port", "auto", "broken", code=4)[1]


def test_a_tunnel_in_the_background_goes_where_it_was_told(cluster: Cluster) -> None:
    words = ("--on", "ssh/nowhere.invalid", "tunnel", "--background", "--port", "auto", "8000")
    assert "nowhere.invalid" in cluster(*words, code=7)[1]
