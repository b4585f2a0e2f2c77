"""[targets] and `--on`: what is read, who decides, what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from vmctl.config import Flags, load_project
from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.settings.target_settings import choose_target

FILE = """
on = "lab"
[targets.lab]
kind = "ssh"
host = "gpu1.lab.example.org"
user = "alice"
port = 2222
workspace = "/scratch/alice"
python = "~/venvs/torch/bin/python"
keep_login = "2h"
[targets.alvis]
kind = "slurm"
host = "alvis"
account = "NAISS2026-22-1"
partition = "alvis"
time = "0-02:00:00"
gpus = "a100:1"
modules = ["PyTorch/2.1.2-foss-2023a-CUDA-12.1.1"]
extra = ["--constraint=MEM512"]
[jobs.train]
command = "python train.py"
[jobs.train.slurm]
time = "01:00:00"
nodes = 2
resubmit = true
"""


def load(folder: Path, text: str = FILE, on: str | None = None, **environ: str) -> object:
    (folder / "vmctl.toml").write_text(text)
    return load_project(folder, flags=Flags(on=on), environ=environ).target


def test_the_flag_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    of_file = load(tmp_path)
    assert (of_file.name, of_file.from_file, of_file.address) == (
        "lab",
        True,
        "alice@gpu1.lab.example.org:2222",
    )
    assert load(tmp_path, VMCTL_ON="alvis").name == "alvis"
    typed = load(tmp_path, VMCTL_ON="alvis", on="lab")
    assert (typed.name, typed.from_file) == ("lab", False)
    assert load(tmp_path, on="vm") is None
    assert load(tmp_path, VMCTL_ON="") is None


def test_a_jobs_resources_beat_its_clusters(tmp_path: Path) -> None:
    (tmp_path / "vmctl.toml").write_text(FILE)
    project = load_project(tmp_path, flags=Flags(on="alvis"), environ={})
    both = project.jobs["train"].slurm.under(project.target.slurm)
    assert (both.time, both.nodes, both.gpus, both.resubmit) == ("01:00:00", 2, "a100:1", True)
    assert project.workspace == f"~/Workspace/{project.name}"
    assert load_project(tmp_path, environ={}).workspace == f"/scratch/alice/{project.name}"


@pytest.mark.parametrize(
    ("word", "seen"),
    [
        ("ssh/gpu1", ("gpu1", None, None)),
        ("ssh/alice@gpu1:2222", ("gpu1", "alice", 2222)),
        ("slurm/a.b@login.example.org", ("login.example.org", "a.b", None)),
        ("ssh/alice@corp.org@gpu1", ("gpu1", "alice@corp.org", None)),
        ("ssh/bob@[2001:db8::1]:22", ("2001:db8::1", "bob", 22)),
    ],
)
def test_a_target_needs_no_table(word: str, seen: object) -> None:
    target = choose_target(word, {}, "vmctl.toml", from_file=False)
    assert (target.host, target.user, target.port) == seen


@pytest.mark.parametrize(
    "word",
    ["ssh/", "ssh/-oProxyCommand=id", "ssh/a b", "ssh/-l@h", "ssh/h:0", "ssh/h:99999", "ssh/h;id",
     "ssh/$(id)", "ssh/h/../x", "ftp/h", "ssh/%h", "ssh/h\nProxyCommand id", "/", "slurm/@h"],
)  # fmt: skip
def test_a_word_that_ssh_could_misread_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        choose_target(word, {}, "vmctl.toml", from_file=False)
    assert refused.value.hint


def test_a_target_that_is_not_there_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="'lap'") as refused:
        load(tmp_path, on="lap")
    assert "--on lab" in refused.value.hint


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('kind = "pbs"', "targets.x.kind"),
        ('kind = "ssh"', "no host"),
        ('kind = "ssh"\nhost = "h"\npartition = "gpu"', "targets.x.partition"),
        ('kind = "ssh"\nhost = "-h"', "targets.x.host"),
        ('kind = "ssh"\nhost = "h"\nport = "22"', "targets.x.port"),
        ('kind = "ssh"\nhost = "h"\nworkspace = "../up"', "targets.x.workspace"),
        ('kind = "ssh"\nhost = "h"\nkeep_login = "long"', "targets.x.keep_login"),
        ('kind = "slurm"\nhost = "h"\ntime = "soon"', "targets.x.time"),
        ('kind = "slurm"\nhost = "h"\ngpus = "a100:"', "targets.x.gpus"),
        ('kind = "slurm"\nhost = "h"\nnodes = 0', "targets.x.nodes"),
        ('kind = "slurm"\nhost = "h"\nmodules = ["a; rm"]', "targets.x.modules"),
        ('kind = "slurm"\nhost = "h"\naccount = "a b"', "targets.x.account"),
        ('kind = "slurm"\nhost = "h"\nextra = ["oops"]', "targets.x.extra"),
    ],
)
def test_a_wrong_setting_names_itself(tmp_path: Path, line: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        load(tmp_path, f"[targets.x]\n{line}\n", on="x")
