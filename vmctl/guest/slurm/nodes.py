"""A run on several nodes: srun starts it on each, and they meet at the first."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .commands import run_slurm

FIRST_PORT, PORTS = 20_000, 20_000  # of the port at which the processes meet


def launcher(count: int) -> list[str]:
    """srun's words in front of a command: one task a node, all ended when one fails."""
    each = [f"--nodes={count}", f"--ntasks={count}", "--ntasks-per-node=1"]
    return ["srun", *each, "--kill-on-bad-exit=1", "--label"]


def meeting_point() -> dict[str, str]:
    """Where torchrun's processes find each other, as variables."""
    nodes = os.environ.get("SLURM_JOB_NODELIST", "")
    _, text, _ = run_slurm("scontrol", "show", "hostnames", nodes)
    first = (text.split() or ["127.0.0.1"])[0]
    _, text, _ = run_slurm("scontrol", "-o", "show", "node", first)
    address = re.search(r"\bNodeAddr=(\S+)", text)  # a node's name need not be a host's
    job_id = int(os.environ.get("SLURM_JOB_ID") or 0)
    return {
        "MASTER_ADDR": address[1] if address else first,
        "MASTER_PORT": str(FIRST_PORT + job_id % PORTS),
    }


def terminate_tasks(session: int) -> bool:
    """SIGTERM to the tasks of a session's srun on all nodes; False where it runs none."""
    if not any(_name_in(entry, session) == "srun" for entry in Path("/proc").iterdir()):
        return False
    code, _, _ = run_slurm("scancel", "--signal=TERM", os.environ.get("SLURM_JOB_ID", ""))
    return code == 0


def _name_in(entry: Path, session: int) -> str:
    """The name of a process of the session; "" for any other."""
    try:
        stat = (entry / "stat").read_text(errors="replace") if entry.name.isdigit() else ""
    except OSError:
        return ""
    before, _, after = stat.rpartition(")")
    fields = after.split()  # state, parent, group, session
    return before.partition("(")[2] if len(fields) > 3 and fields[3] == str(session) else ""
