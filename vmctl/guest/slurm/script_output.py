"""Where a batch script of the user's own writes: Slurm's file, which is the run's log, too."""

from __future__ import annotations

import contextlib
import getpass
import re
from pathlib import Path

from ..records import write_bytes
from .commands import field, run_slurm

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any


def lead_log(run: Path, job_id: str) -> dict[str, Any]:
    """Let the run's log be the file that Slurm writes; what is to be noted of the other.

    `errors` is the file of standard error, where that is another one.
    """
    _, text, _ = run_slurm("scontrol", "-o", "show", "job", job_id)
    name = field(text, "JobName")
    files = [expand(field(text, which), job_id, name) for which in ("StdOut", "StdErr")]
    output, errors = files
    log = run / "log"
    if "%" in output or "ArrayTaskId=" in text:  # one for each node or task: known to Slurm alone
        log.unlink(missing_ok=True)
        write_bytes(log, f"[vmctl] Slurm writes to {output}\n".encode("utf-8", "surrogateescape"))
        return {}
    if output:
        with contextlib.suppress(OSError):
            Path(output).touch()
        log.unlink(missing_ok=True)
        log.symlink_to(output)
    return {"errors": errors} if errors and "%" not in errors and errors != output else {}


def expand(pattern: str, job_id: str, name: str) -> str:
    """A file name with sbatch's own signs, as far as they are known before the job starts."""
    known = {"j": job_id, "J": job_id, "A": job_id, "x": name, "u": getpass.getuser(), "%": "%"}

    def replace(found: re.Match[str]) -> str:
        width, sign = found.groups()
        return known[sign].rjust(int(width or 0), "0") if sign in known else found[0]

    return re.sub(r"%(\d*)([A-Za-z%])", replace, pattern)
