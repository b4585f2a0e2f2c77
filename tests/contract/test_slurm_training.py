"""Training with torch on a real Slurm cluster: the course's first script, and two nodes."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.cluster import Cluster, cluster_with

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.exhaustive
TOML = """
on = "alvis"
[targets.alvis]
kind = "slurm"
host = "alvis"
time = "0:10:00"
python = "PYTHON"
[jobs.one]
command = "python fit.py"
[jobs.both]
command = "python fit.py"
slurm = { nodes = 2 }
"""
# each half of the data has its own gradient, whether two processes share it out or one does both
FIT = """
import hashlib, os, sys, torch, torch.distributed as dist
world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
torch.manual_seed(1)
torch.set_default_dtype(torch.float64)
net = torch.nn.Sequential(torch.nn.Linear(3, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
x = torch.randn(64, 3)
y = torch.sin(x.sum(1, keepdim=True))
model, halves = net, list(zip(x.chunk(2), y.chunk(2)))
if world > 1:
    dist.init_process_group("gloo")
    model, halves = torch.nn.parallel.DistributedDataParallel(net), halves[rank : rank + 1]
optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
for step in range(100):
    optimizer.zero_grad()
    for inputs, wanted in halves:
        loss = torch.nn.functional.mse_loss(model(inputs), wanted)
        (loss / len(halves)).backward()
    optimizer.step()
bits = b"".join(value.numpy().tobytes() for value in net.state_dict().values())
print("rank", rank, "of", world, hashlib.sha256(bits).hexdigest(), *sys.argv[1:])
if world > 1:
    dist.destroy_process_group()
"""
WORKLOAD = ("fit_sine.py", "checkpoint.py", "plain_files.py")
COURSE = """#!/bin/bash
#SBATCH -A NAISS2026-22-1
#SBATCH --time=00:05:00
#SBATCH --error=job.%J.err
#SBATCH --output=job.%J.out
#SBATCH --gres=gpu:k80:1

module purge > /dev/null 2>&1
module load GCC/10.3.0 OpenMPI/4.1.1 PyTorch/1.10.0-CUDA-11.3.1

srun python pytorch_fitting_gpu.py
"""


@pytest.fixture(scope="module")
def python() -> Path:
    build = [sys.executable, "-m", "vmctl.emulator", "image", "build", "pytorch"]
    image = subprocess.run(build, capture_output=True, text=True, check=True).stdout.split()[-1]
    return Path(image) / "bin" / "python"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, python: Path) -> Iterator[Cluster]:
    workload = {name: (ROOT / "workload" / name).read_text() for name in WORKLOAD}
    program = workload.pop("fit_sine.py")
    files = {"fit.py": FIT, "job.sh": COURSE, "pytorch_fitting_gpu.py": program, **workload}
    folder = tmp_path_factory.mktemp("cluster")
    toml = TOML.replace("PYTHON", str(python))
    with cluster_with(folder, toml, files, gpu="k80") as made:
        yield made


def test_two_nodes_train_the_very_weights_of_one(cluster: Cluster) -> None:
    found = r"rank (\d) of (\d) ([0-9a-f]{64}) a b\n"
    one = re.findall(found, cluster("run", "one", "a b")[0])
    both = re.findall(found, cluster("run", "both", "a b")[0])
    assert [ranks[:2] for ranks in sorted([*one, *both])] == [("0", "1"), ("0", "2"), ("1", "2")]
    assert len({digest for *_, digest in [*one, *both]}) == 1


def test_the_courses_script_runs_unchanged_but_for_its_account(
    cluster: Cluster, python: Path
) -> None:
    with (cluster.login.home / ".bash_profile").open("a") as profile:  # where a cluster has it
        profile.write(
            f'module() {{ [ "$1" = load ] && case "$*" in *PyTorch/1.10.0-*) PATH={python.parent}:'
            "$PATH;; esac; }\nexport -f module\n"
        )
    out, _ = cluster("run", "job.sh")
    assert out.count("Result: y = ") == 1
    written = {path.suffix for path in (cluster.login.home / "Workspace/work").glob("job.*.*")}
    assert written == {".err", ".out"}
