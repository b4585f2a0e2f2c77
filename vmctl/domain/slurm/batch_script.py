"""A run as a batch script: pure text from what is asked for, nothing of the cluster is known."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from vmctl.domain.errors import InvalidInput
from vmctl.domain.settings.target_settings import SlurmSettings
from vmctl.domain.text import one_line

TERM_BEFORE_END_S = 300  # the training hears of the time limit this long before it
UNLOADED = "VMCTL_UNLOADED"  # the modules that cannot be loaded; guest/runs/runner.py reads it
SHELL_SIGNS = frozenset("|&;<>()$`\\\"'\n#*?[]{}~!")


@dataclass(frozen=True, slots=True)
class BatchJob:
    """What a batch script is made of; `library` is the name of vmctl's helpers there."""

    name: str
    slurm: SlurmSettings
    library: str
    workspaces: str = "~/Workspace"
    term_s: int = TERM_BEFORE_END_S
    directory: str = ""
    steps: tuple[str, ...] = ()  # of the run, for whoever reads the script


def batch_script(job: BatchJob) -> str:
    """The script that sbatch is given, with the run's id as its argument.

    The helper takes the place of the shell, so that Slurm's signal before the time limit reaches
    it, and through it the training.
    """
    slurm = job.slurm
    options = [f"--job-name={job.name}", *resource_options(slurm)]
    if not any(option.startswith("--signal") for option in slurm.extra):
        options.append(f"--signal=B:TERM@{job.term_s}")
    options += ["--output=/dev/null", "--no-requeue", *slurm.extra]
    lines = ["#!/bin/bash", *(f"#SBATCH {option}" for option in options)]
    if slurm.modules:
        modules = shlex.join(slurm.modules)
        lines += [
            "type module >/dev/null 2>&1 || source /etc/profile >/dev/null 2>&1",
            "module purge >/dev/null 2>&1",
            'log="$HOME/.vmctl/runs/$1/log"',
            # the helper says so and ends the run: Slurm alone knows a job that failed
            f'module load {modules} 2>>"$log" || export {UNLOADED}={shlex.quote(modules)}',
        ]
    lines += [f"# {job.directory or '.'}$ {one_line(step)}" for step in job.steps]
    lines += [
        f"export VMCTL_WORKSPACES={shlex.quote(job.workspaces)}",
        f'exec "$HOME/.vmctl/python" -ISB "$HOME/.vmctl/lib/{job.library}" job "$1"',
        "",
    ]
    return "\n".join(lines)


def resource_options(slurm: SlurmSettings) -> list[str]:
    """sbatch's options for the resources that are asked for."""
    named = {
        "account": slurm.account,
        "partition": slurm.partition,
        "time": slurm.time,
        "nodes": slurm.nodes,
        "ntasks": slurm.tasks,
        "cpus-per-task": slurm.cpus,
        "mem": slurm.mem,
        "gres": f"gpu:{slurm.gpus}" if slurm.gpus else None,
    }
    return [f"--{name}={value}" for name, value in named.items() if value is not None]


def term_before_end(slurm: SlurmSettings, limit_s: float) -> int:
    """How many seconds before its time limit a job gets SIGTERM; a fifth of a short one's."""
    for option in slurm.extra:
        if found := re.match(r"--signal\S*@([0-9]+)", option):
            return int(found[1])
    return int(min(TERM_BEFORE_END_S, limit_s / 5))


def node_command(command: str, slurm: SlurmSettings) -> str:
    """The job's command on each of several nodes: torchrun in the place of `python`.

    Raises InvalidInput where the command is more than one program with its arguments.
    """
    words = command.split()
    if (slurm.nodes or 1) < 2:
        return command
    if not words or words[0] not in ("python", "python3") or SHELL_SIGNS & set(command):
        raise InvalidInput(
            f"On several nodes a job is one Python program, not: {command[:100]}",
            hint='Such as: command = "python train.py --epochs 10"; or submit a script of your '
            "own: vmctl run job.sh",
        )
    per_node = _gpus(slurm)
    options = (
        f"--nnodes=$SLURM_NNODES --nproc-per-node={per_node} --node-rank=$SLURM_NODEID "
        "--master-addr=$MASTER_ADDR --master-port=$MASTER_PORT --max-restarts=0"
    )
    return f"python -m torch.distributed.run {options} {' '.join(words[1:])}"


def _gpus(slurm: SlurmSettings) -> int:
    return int(slurm.gpus.rpartition(":")[2]) if slurm.gpus else 1
