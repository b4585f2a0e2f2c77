"""The vmctl.toml that `vmctl init` writes: every setting with what it is for."""

from __future__ import annotations

import json
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Answers:
    """What init asked for or found; empty text where there is nothing to say."""

    name: str  # of the project, as the folder's name makes it
    gpu: str
    region: str
    command: str  # that trains
    directory: str = ""  # where it runs, below the project's root
    google_project: str = ""
    found_in: str = ""  # where the Google project was found
    local: bool = False
    exclude: tuple[str, ...] = ()


JOB = "train"


def project_file(answers: Answers) -> str:
    """The text of the file, in UTF-8 TOML."""
    return "\n".join([*_head(answers), *_vm(answers), *_push(answers), *_job(answers), *_rest()])


def _head(answers: Answers) -> list[str]:
    lines = [
        "# vmctl's settings for this folder. Flags and VMCTL_* variables override this file.",
        "",
    ]
    lines.append(f"# name = {_text(answers.name)}  # of the VM; by default the folder's")
    if answers.google_project:
        said = f"  # {answers.found_in}" if answers.found_in else ""
        lines.append(f"project = {_text(answers.google_project)}{said}")
    else:
        lines.append('# project = "my-project-123"  # else what gcloud is set to, or VMCTL_PROJECT')
    if answers.local:
        lines.append("local = true  # rehearse on this computer, without an account")
    return [*lines, ""]


def _vm(answers: Answers) -> list[str]:
    return [
        "[vm]",
        f"gpu = {_text(answers.gpu)}  # t4 l4 p100 v100 a100 a100-80gb h100 …, "
        '"t4:2", or "none"; prices: vmctl gpus',
        f"region = {_text(answers.region)}  # its zones are tried one after another",
        f"# zone = {_text(answers.region + '-b')}  # only this one",
        '# machine = "n1-standard-8"  # by default the smallest that fits the GPU',
        'image = "pytorch"  # a named image family, or "project/family"',
        "disk_gb = 100  # at least 50 for PyTorch's image",
        (
            "max_hours = 12  # Google stops the VM after this long, whatever happens to this "
            "computer"
        ),
        'idle = "1h"  # the VM stops itself after being idle this long; or "off"',
        "# budget = 5  # USD for one start of the VM; limits its time",
        "# spot = true  # cheaper, but Google may preempt the VM",
        "# key_hours = 24  # lifetime of vmctl's login key; renewed by use",
        "# restrict_ssh = true  # only your own address reaches the SSH port",
        "# external_address = false  # reached through Google's proxy; downloads need Cloud NAT",
        '# network = "default"  # the VPC network, by name or path',
        '# subnetwork = "default"  # where the network has several',
        "",
    ]


def _push(answers: Answers) -> list[str]:
    listed = ", ".join(map(_text, answers.exclude))
    lines = ["# Files excluded by .gitignore, .git and virtual environments are not pushed."]
    if listed:
        return [*lines, "[push]", f"exclude = [{listed}]", ""]
    return [*lines, "# [push]", '# exclude = ["/data/", "*.pth"]', ""]


def _job(answers: Answers) -> list[str]:
    lead = "" if answers.command else "# "
    command = answers.command or "python train.py"
    directory = (
        f"{lead}directory = {_text(answers.directory)}"
        if answers.directory
        else '# directory = "src"  # where the command runs'
    )
    return [
        f"{lead}[jobs.{JOB}]  # vmctl run {JOB}",
        f"{lead}command = {_text(command)}",
        '# script = "train.py"  # in the place of command, with requirements = ["tqdm"]',
        directory,
        '# setup = ["pip install -r requirements.txt"]  # once per machine and content',
        '# env = ["WANDB_API_KEY"]  # passed on from your shell when set',
        '# outputs = ["model.pt"]  # what `vmctl fetch` downloads',
        "",
    ]


def _rest() -> list[str]:
    return [
        "# tensorboard and jupyter are built in: vmctl tunnel tensorboard",
        "# [services.tensorboard]",
        "# port = 8898",
        '# command = "tensorboard --logdir runs --port {port} --host 127.0.0.1"',
        '# directory = ""',
        "",
    ]


def _text(value: str) -> str:
    """A TOML basic string: JSON's escapes are TOML's, but for DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
