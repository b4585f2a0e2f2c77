"""A real Slurm cluster behind a login node: submitted, waited for, followed, ended, in words."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator

import pytest

from tests.harness.cluster import Cluster, cluster_with
from tests.harness.eventually import eventually
from tests.harness.terminal import conversation
from tests.harness.wheels import make_wheel, pip_settings
from tests.harness.wire import processes_with

TOML = """
on = "alvis"
[targets.alvis]
kind = "slurm"
host = "alvis"
time = "0:10:00"
[jobs.train]
command = "python3 train.py"
outputs = ["model.bin"]
slurm = { gpus = "t4:1" }
[jobs.tasks]
command = "srun --ntasks=2 python3 waits.py"
slurm = { tasks = 2 }
[jobs.hello]
script = "hello.py"
requirements = ["greeter"]
[jobs.plain]
command = "true"
[jobs.waits]
command = "python3 waits.py"
[jobs.again]
command = "test -e saved && echo resumed || { trap 'touch saved; exit 0' TERM; sleep 600 & wait; }"
slurm = { time = "0:06:00", resubmit = true, extra = ["--signal=B:TERM@358"] }
[jobs.greedy]
command = "sleep 60"
slurm = { gpus = "t4:2", nodes = 1, extra = ["--exclusive"] }
"""
FILES = {
    "train.py": "import os, sys; open('model.bin', 'w').write('weights')\n"
    "if 'course' in sys.argv: print('warned', file=sys.stderr)\n"
    "print('trained', *sys.argv[1:], 'on GPU', os.environ['CUDA_VISIBLE_DEVICES'])",
    "hello.py": "import greeter, sys; greeter.greet(*sys.argv[1:])",
    "waits.py": "import os, signal, sys, time\n"
    "def save(*_): print('saved by', os.environ.get('SLURM_PROCID'), flush=True); sys.exit(0)\n"
    "signal.signal(signal.SIGTERM, save)\n"
    "print('ready', flush=True)\n"
    "while True: time.sleep(0.1)\n",
    # the course's, but for its account
    "course.sh": "#!/bin/bash\n#SBATCH --time=00:05:00\n#SBATCH --error=job.%J.err\n"
    "#SBATCH --output=job.%J.out\n#SBATCH --gres=gpu:t4:1\n"
    "module purge > /dev/null 2>&1\nsrun python3 train.py course\nexit 4\n",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster_with(tmp_path_factory.mktemp("cluster"), TOML, FILES) as made:
        yield made


def test_a_job_is_submitted_followed_and_fetched(cluster: Cluster) -> None:
    out, err = cluster("run", "train", "fast")
    assert "trained fast on GPU 0\n" in out
    assert "Submitted train-" in err
    cluster("fetch", "model.bin")
    assert (cluster.folder / "model.bin").read_text() == "weights"
    (cluster.folder / "model.bin").unlink()
    assert cluster.run_state() == "succeeded"


def test_targets_that_share_a_home_list_their_own_runs(cluster: Cluster) -> None:
    cluster("run", "--on", "ssh/alvis", "plain")
    here, there = (
        {run["job"] for run in cluster.laptop.json("ps", *on, cwd=cluster.folder)}
        for on in ((), ("--on", "ssh/alvis"))
    )
    assert there == {"plain"}
    assert "plain" not in here


def test_status_says_what_the_partitions_offer(cluster: Cluster) -> None:
    out, _ = cluster("status")
    assert re.search(r"^Partition gpu: [0-2] of 2 nodes idle, t4:2 each, up to 1:00:00$", out, re.M)
    offers = cluster.laptop.json("status", cwd=cluster.folder)["partitions"]
    assert [(one["name"], one["nodes"]) for one in offers] == [("gpu", 2), ("long", 2)]


def test_the_script_can_be_seen_first(cluster: Cluster) -> None:
    before = cluster.slurm("squeue", "-h")
    out, _ = cluster("run", "--print-script", "--mem", "2G", "--module", "PyTorch/2.1", "train")
    assert out.startswith("#!/bin/bash\n#SBATCH --job-name=train\n")
    for line in ("--time=0:10:00", "--gres=gpu:t4:1", "--mem=2G", "--signal=B:TERM@120"):
        assert f"#SBATCH {line}\n" in out
    assert "module load PyTorch/2.1 " in out
    assert cluster.slurm("squeue", "-h") == before


@pytest.mark.exhaustive
def test_a_script_brings_its_requirements(cluster: Cluster) -> None:
    make_wheel(cluster.login.home / "wheels", "greeter", "1.0", "greet = print")
    pip_settings(cluster.login.home, cluster.login.home / "wheels")
    out, _ = cluster("run", "--print-script", "hello")
    assert "\n# .$ pip install greeter\n# .$ python hello.py\n" in out
    out, _ = cluster("run", "hello", "a b")
    assert "[vmctl] installing greeter\n" in out
    assert out.endswith("\na b\n")
    assert "already installed: greeter\n" in cluster("run", "hello")[0]


def test_what_is_no_batch_script_is_not_submitted(cluster: Cluster) -> None:
    (cluster.folder / "model.sh").write_bytes(b"\x80\x04 weights")
    assert "not a batch script" in cluster("run", "model.sh", code=2)[1]
    assert cluster("run", "--print-script", "course.sh")[0] == FILES["course.sh"]


def test_a_module_that_cannot_be_loaded_fails_the_run(cluster: Cluster) -> None:
    out, err = cluster("run", "--module", "Nowhere/1.0", "train", code=1)
    assert "modules cannot be loaded: Nowhere/1.0" in out
    assert "trained" not in out
    assert "failed with exit code 1" in err


def test_a_script_of_the_users_own_runs_as_it_is(cluster: Cluster) -> None:
    _, err = cluster("run", "course.sh", code=4)
    assert "failed with exit code 4" in err
    assert "Its standard error goes to " in err
    log = cluster("logs")[0]
    assert "trained course on GPU 0\n" in log
    assert re.search(r"its standard error, \S+/job\.[0-9]+\.err:\nwarned\n$", log)
    made = sorted(path.name for path in (cluster.login.home / "Workspace" / "work").glob("job.*"))
    assert len(made) == 2, "its two files are where it wants them"


@pytest.mark.parametrize(
    ("words", "sentence", "hint"),
    [
        (["--gpus", "a100:1"], "no node with gpu a100:1; the most a node has is t4:2", "--gpus t4"),
        (["--gpus", "t4:3"], "the most a node has is t4:2", "--gpus t4:2"),
        (["--time", "1-00"], "more than the partition gpu allows: it gives 1:00:00", "--time 1:00"),
        (["--partition", "gpus"], "no partition gpus; it has gpu, long", "--partition gpu"),
        (["--nodes", "3"], "No node of the cluster has all", "--nodes 3"),
        (["--mem", "64G"], "No node of the cluster has all", "--mem 64G"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_the_cluster_has(
    cluster: Cluster, words: list[str], sentence: str, hint: str
) -> None:
    known = cluster.laptop.json("ps", cwd=cluster.folder)
    _, err = cluster("run", *words, "train", code=2)
    assert sentence in err
    assert hint in err
    assert cluster.laptop.json("ps", cwd=cluster.folder) == known, "nothing is left half done"


@pytest.mark.parametrize(("job", "savers"), [("waits", ["0"]), ("tasks", ["0", "1"])])
def test_cancel_lets_the_training_save(cluster: Cluster, job: str, savers: list[str]) -> None:
    cluster("run", "--detach", job)
    eventually(lambda: cluster("logs")[0].count("ready") == len(savers), "it runs")
    out, _ = cluster("cancel", job)
    assert "is cancelled" in out
    log = cluster("logs")[0]
    assert sorted(re.findall(r"saved by (\w+)", log)) == savers
    eventually(lambda: cluster.slurm("squeue", "-h") == "", "it left the queue")


def test_a_run_goes_on_in_a_next_job_when_its_time_is_up(cluster: Cluster) -> None:
    out, _ = cluster("run", "again")
    assert "the run goes on in a next job" in out
    assert out.endswith("resumed\n")
    assert cluster.run_state() == "succeeded"


def test_a_waiting_job_says_why_and_leaves_the_queue_on_cancel(cluster: Cluster) -> None:
    blockers = [cluster.slurm("sbatch", "--parsable", "--exclusive", "-o", "/dev/null",
                              "--wrap", "sleep 60") for _ in range(2)]  # fmt: skip
    eventually(lambda: cluster.slurm("squeue", "-h", "-t", "R").count("\n") == 2, "both nodes busy")
    try:
        cluster("run", "--detach", "greedy")
        assert cluster.run_state() == "pending"
        assert "pending: it waits for free nodes" in cluster("ps")[0]
        cluster("cancel", "greedy")
        assert cluster.run_state() == "cancelled"
    finally:
        cluster.slurm("scancel", *(one.strip() for one in blockers))
    eventually(lambda: cluster.slurm("squeue", "-h") == "", "an empty queue")


def test_a_job_that_slurm_ended_is_lost_with_its_reason(cluster: Cluster) -> None:
    cluster("run", "--detach", "waits")
    eventually(lambda: "ready" in cluster("logs")[0], "it runs")
    run_id = cluster.laptop.json("ps", cwd=cluster.folder)[0]["id"]
    for pid in processes_with(b"-ISB", run_id.encode()):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: cluster.slurm("squeue", "-h") == "", "it left the queue")
    eventually(lambda: cluster.run_state() == "lost", "vmctl has seen it")
    eventually(lambda: "Its batch script failed" in cluster("logs")[1], "Slurm has said why")
    for pid in processes_with(b"waits.py"):  # a cluster with cgroups would have ended it
        os.kill(pid, signal.SIGKILL)


def test_attach_is_a_shell_inside_a_job_that_has_begun(cluster: Cluster) -> None:
    blockers = cluster.slurm("sbatch", "--parsable", "--exclusive", "--nodes=2", "-o", "/dev/null",
                             "--wrap", "sleep 60").split()  # fmt: skip
    eventually(lambda: cluster.slurm("squeue", "-h", "-t", "R") != "", "both nodes busy")
    cluster("run", "--detach", "waits")
    assert "has not started yet" in cluster("attach", "waits", code=4)[1]
    cluster("run", "--detach", "train")  # tidies up after runs that ended: this one waits
    cluster.slurm("scancel", *blockers)
    eventually(lambda: "ready" in cluster("logs", "waits")[0], "it runs")
    job = cluster.laptop.json("ps", cwd=cluster.folder)[1]["queue_id"]
    asked = 'echo "job $SLURM_JOB_ID on $SLURMD_NODENAME"; tty; exit 3'
    code, seen = conversation(
        cluster.laptop, cluster.folder, ["attach", "waits"], [("type: ", asked)]
    )
    assert code == 3, seen
    assert re.search(rf"\njob {job} on n[12]\r\n", seen)
    assert "\n/dev/pts/" in seen  # srun says meanwhile how the shell ended
    cluster("cancel", "waits")
    assert "has ended" in cluster("attach", "waits", code=4)[1]


def test_a_queue_that_does_not_answer_loses_no_run(cluster: Cluster) -> None:
    cluster("run", "--detach", "waits")
    eventually(lambda: "ready" in cluster("logs")[0], "it runs")
    conf = cluster.slurm.conf
    away = conf.with_name("away")
    conf.rename(away)
    try:
        (cluster.login.home / ".vmctl" / "slurm" / "queue.json").unlink()
        assert cluster.run_state() == "running"
    finally:
        away.rename(conf)
    (cluster.login.home / ".vmctl" / "slurm" / "queue.json").unlink()
    cluster("cancel", "waits")
