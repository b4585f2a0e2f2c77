"""A batch script from what is asked for; Slurm's states and refusals in words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound, Unreachable
from vmctl.domain.runs.run import RunFacts, RunState, observe
from vmctl.domain.settings.target_settings import SlurmSettings
from vmctl.domain.slurm.batch_script import BatchJob, batch_script, node_command, term_before_end
from vmctl.domain.slurm.job_state import base_state, end_text, reason_text
from vmctl.domain.slurm.refusal import explain_refusal, parse_gres
from vmctl.guest.slurm.script_output import expand
from vmctl.guest.slurm.submission import seconds

FACTS = {
    "accounts": ["NAISS2026-22-1", "other"],
    "default": "gpu",
    "partitions": {
        "gpu": {"time": "7-00:00:00", "nodes": 4, "gpus": {"a100": 4, "t4": 8}},
        "cpu": {"time": "1:00:00", "nodes": 9, "gpus": {}},
    },
}


def test_every_resource_is_an_option_of_the_script() -> None:
    slurm = SlurmSettings(
        "acc", "gpu", "0-02:00:00", 2, 4, 8, "16G", "a100:1", ("A/1", "B"), ("--constraint=x",)
    )
    script = batch_script(BatchJob("train", slurm, "abc", "/scratch/my ws"))
    assert [line for line in script.splitlines() if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=train",
        "#SBATCH --account=acc",
        "#SBATCH --partition=gpu",
        "#SBATCH --time=0-02:00:00",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks=4",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --mem=16G",
        "#SBATCH --gres=gpu:a100:1",
        "#SBATCH --signal=B:TERM@300",
        "#SBATCH --output=/dev/null",
        "#SBATCH --no-requeue",
        "#SBATCH --constraint=x",
    ]
    assert "module load A/1 B 2>>\"$log\" || export VMCTL_UNLOADED='A/1 B'" in script
    assert "export VMCTL_WORKSPACES='/scratch/my ws'\n" in script
    assert script.endswith('exec "$HOME/.vmctl/python" -ISB "$HOME/.vmctl/lib/abc" job "$1"\n')


def test_the_script_says_what_it_runs() -> None:
    steps = ("./get.sh", "pip install tqdm", "python a.py\nexit 9")
    script = batch_script(BatchJob("train", SlurmSettings(), "abc", directory="src", steps=steps))
    said = [line for line in script.splitlines() if line.startswith("# ")]
    assert said[:2] == ["# src$ ./get.sh", "# src$ pip install tqdm"]
    assert said[2].startswith("# src$ python a.py")
    assert "\nexit 9" not in script, "a remark stays one"


def test_what_is_not_asked_for_is_left_to_the_cluster() -> None:
    script = batch_script(BatchJob("train", SlurmSettings(), "abc"))
    for word in ("--account", "--time", "--nodes", "--gres", "module"):
        assert word not in script
    own = SlurmSettings(extra=("--signal=B:USR1@60",))
    assert "TERM@" not in batch_script(BatchJob("train", own, "abc"))


@pytest.mark.parametrize(
    ("slurm", "limit_s", "wanted"),
    [(SlurmSettings(), float("inf"), 300), (SlurmSettings(), 3600, 300), (SlurmSettings(), 300, 60),
     (SlurmSettings(extra=("--signal=B:TERM@90",)), 3600, 90)],
)  # fmt: skip
def test_a_short_job_is_not_told_to_end_at_its_start(
    slurm: SlurmSettings, limit_s: float, wanted: int
) -> None:
    assert term_before_end(slurm, limit_s) == wanted


def test_on_several_nodes_torchrun_takes_pythons_place() -> None:
    two = SlurmSettings(nodes=2, gpus="a100:4")
    assert node_command("python train.py -e 3", two) == (
        "python -m torch.distributed.run --nnodes=$SLURM_NNODES --nproc-per-node=4 "
        "--node-rank=$SLURM_NODEID --master-addr=$MASTER_ADDR --master-port=$MASTER_PORT "
        "--max-restarts=0 train.py -e 3"
    )
    assert node_command("make; python x.py", SlurmSettings()) == "make; python x.py"
    for command in ("make && python x.py", "./run.sh", "python x.py | tee log", ""):
        with pytest.raises(InvalidInput, match="one Python program"):
            node_command(command, two)


@pytest.mark.parametrize(
    ("said", "slurm", "kind", "sentence", "hint"),
    [
        ("Invalid account or account/partition combination specified", SlurmSettings("me"),
         InvalidInput, "me is not yours to use; yours are NAISS2026-22-1, other", "--account N"),
        ("invalid partition specified: gqu", SlurmSettings(partition="gqu"),
         InvalidInput, "no partition gqu; it has cpu, gpu", "--partition gpu"),
        ("Requested time limit is invalid (missing or exceeds some limit)",
         SlurmSettings(partition="cpu", time="2:00:00"), InvalidInput,
         "2:00:00 is more than the partition cpu allows: it gives 1:00:00", "--time 1:00:00"),
        ("Requested node configuration is not available", SlurmSettings(gpus="h100:1"),
         InvalidInput, "no node with gpu h100:1; the most a node has is a100:4, t4:8", "--gpus"),
        ("Requested node configuration is not available", SlurmSettings(nodes=99),
         InvalidInput, "No node of the cluster has all", "--nodes 99"),
        ("Unable to contact slurm controller (connect failure)", SlurmSettings(),
         Unreachable, "queue does not answer", "again later"),
        ("sbatch does not answer", SlurmSettings(), Unreachable, "queue does not", "again later"),
        ("sbatch: No such file or directory", SlurmSettings(),
         NotFound, "no sbatch there", 'kind = "ssh"'),
        ("Access/permission denied", SlurmSettings(), AccessDenied, "does not let you", "support"),
        ("Batch job submission failed: Weather", SlurmSettings(), Conflict, "Weather", "--print-s"),
    ],
)  # fmt: skip
def test_a_refusal_in_words(
    said: str, slurm: SlurmSettings, kind: type, sentence: str, hint: str
) -> None:
    error = explain_refusal(f"sbatch: error: {said}\n", slurm, FACTS)
    assert isinstance(error, kind)
    assert sentence in error.message
    assert hint in error.hint


@given(st.text(), st.text(max_size=20))
def test_whatever_slurm_says_is_one_sentence(said: str, partition: str) -> None:
    error = explain_refusal(said, SlurmSettings(partition=partition), FACTS)
    assert error.hint
    assert "\n" not in error.message


def test_gres_of_a_node() -> None:
    assert parse_gres("gpu:a100:4(S:0-1),gpu:t4:1,mps:400") == {"a100": 4, "t4": 1}
    assert parse_gres("gpu:8") == {"gpu": 8}
    assert parse_gres("(null)") == {}


def test_states_and_reasons() -> None:
    assert base_state("CANCELLED by 1000") == "CANCELLED"
    assert base_state("RUNNING+") == "RUNNING"
    assert "more memory" in end_text("OUT_OF_MEMORY")
    assert end_text("SOMETHING_NEW") == ""
    assert reason_text("(Priority)") == "others with a higher priority come first"
    assert reason_text("Galaxy") == "Galaxy"
    assert reason_text("None") == "it was submitted just now"


def test_a_run_is_pending_until_its_job_has_begun() -> None:
    waiting = RunFacts("a", session=True, queue_state="PENDING")
    assert observe(waiting) is RunState.PENDING
    assert not observe(waiting).is_over
    assert observe(RunFacts("a", session=True, queue_state="PENDING", phase="running")) is (
        RunState.RUNNING
    )
    assert observe(RunFacts("a", queue_state="TIMEOUT", created_at=0.0, now=99.0)) is RunState.LOST


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("90", 5400), ("2:30", 150), ("1:00:00", 3600), ("2-0", 172800), ("1-02:03:04", 93784),
     ("infinite", float("inf")), ("", float("inf"))],
)  # fmt: skip
def test_times_of_slurm(text: str, wanted: float) -> None:
    assert seconds(text) == wanted


def test_file_names_of_slurm() -> None:
    assert expand("job.%J.%x.out", "12", "train") == "job.12.train.out"
    assert expand("%5j%%%N", "12", "t") == "00012%%N"
