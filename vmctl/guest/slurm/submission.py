"""Handing a run to Slurm, and ending it."""

from __future__ import annotations

import getpass
import os
import re
import time
from pathlib import Path

from ..paths import ensure
from ..protocol import GuestError
from ..records import read_json, write_bytes, write_json
from . import queue
from .commands import run_slurm
from .partitions import partitions

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from ..messages import Refusal, SlurmRequest

SCRIPT = "batch.sh"
# a script of the user's own finds what a login shell exports: `module`, for one
LOGIN_SHELL = ("bash", "-lc", 'exec "$0" "$@"')
CANCEL_S = 30.0
STEP_S = 0.2


class NotTaken(Exception):
    """sbatch does not take the job; `refusal` is what it and the cluster say."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal["stderr"])
        self.refusal = refusal


def submit(run: Path, request: SlurmRequest, lock: int) -> None:
    """Ask whether the script would be taken, then submit it; raises NotTaken.

    The job's comment names the run: should we be killed right here, the queue still knows it.
    sbatch itself holds the lock then, so that nobody looks into the queue before it is through.
    """
    own = bool(request.get("own"))
    script = run / (Path(request.get("name") or SCRIPT).name if own else SCRIPT)
    write_bytes(script, request["script"].encode(), mode=0o700)
    place = request["folder"] if own else str(Path.home())
    words = [f"--comment={queue.MARK}{run.name}", f"--chdir={place}", *request.get("options", [])]
    words += [str(script), *(request.get("args", []) if own else [run.name])]
    ensure(queue.FOLDER)
    sbatch = (*LOGIN_SHELL, "sbatch") if own else ("sbatch",)
    tried = run_slurm(*sbatch, "--test-only", *words)
    if tried[0] != 0:
        raise NotTaken(_refusal(tried[2]))
    if request.get("time"):  # sbatch may take a job that then waits for ever
        offered = _refusal("Requested time limit is invalid")
        name = request.get("partition") or offered["default"]
        offer = offered["partitions"].get(name)
        limit = offer["time"] if offer else ""
        if seconds(request["time"]) > seconds(limit):
            raise NotTaken(offered)
    write_json(run / "slurm.json", {"own": own, "submitted_at": time.time()})
    code, out, err = run_slurm(*sbatch, "--parsable", *words, keep=(lock,))
    found = queue.jobs(fresh=True)
    job_id = out.strip().splitlines()[-1].partition(";")[0] if code == 0 and out.strip() else ""
    if job_id.isdigit():
        queue.note_job(run, job_id)
    elif found is not None and run.name not in found:  # else it was taken, or nobody can say
        raise NotTaken(_refusal(err or out))


def seconds(text: str) -> float:
    """A time of Slurm's (minutes, M:S, H:M:S, D-H, D-H:M:S) in seconds; "infinite" is."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not found:
        return float("inf")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is not None:  # hours first
        hours, minutes, secs = (*parts, 0, 0)[:3]
        return ((int(days) * 24 + hours) * 60 + minutes) * 60 + secs
    if len(parts) == 1:
        return parts[0] * 60.0
    hours, minutes, secs = (0, 0, *parts)[-3:]
    return (hours * 60 + minutes) * 60 + secs


def _refusal(stderr: str) -> Refusal:
    """What sbatch says, and what the cluster offers."""
    user = getpass.getuser()
    code, text, _ = run_slurm("sacctmgr", "-nP", "show", "assoc", f"user={user}", "format=account")
    lines = text.splitlines() if code == 0 else []
    accounts = sorted({line.strip() for line in lines if line.strip()})
    offered, default = partitions()
    return {
        "stderr": stderr[-2000:],
        "accounts": accounts[:100],
        "partitions": offered,
        "default": default,
    }


def cancel(run: Path) -> None:
    """End a job: SIGTERM to what it runs, so that it can save, then Slurm's own end.

    One that still waits just leaves the queue.
    """
    known = queue.jobs(fresh=True)
    if known is None:
        raise GuestError("unreachable", "Slurm's queue does not answer.", "Again later: vmctl ps")
    found = known.get(run.name)
    if found is None:
        return
    job_id, record = found["job_id"], read_json(run / "slurm.json") or {}
    has_begun = found["state"] != "PENDING" and (run / "phase").exists()
    if has_begun and not record.get("own"):
        run_slurm("scancel", "--batch", "--signal=TERM", job_id)
        limit = time.monotonic() + CANCEL_S
        while time.monotonic() < limit and not (run / "exit").exists():
            time.sleep(STEP_S)
    code, _, err = run_slurm("scancel", job_id)
    if code != 0 and "Invalid job id" not in err and not (run / "exit").exists():
        raise GuestError("failed", f"scancel failed: {err.strip()[-300:]}")
    queue.jobs(fresh=True)


def note_start(run: Path) -> None:
    """Inside the job: its number, which a killed submission may not have noted."""
    record = read_json(run / "slurm.json") or {}
    job_id = os.environ.get("SLURM_JOB_ID", "")
    if job_id and record.get("job_id") != job_id:
        write_json(run / "slurm.json", {**record, "job_id": job_id})


def resubmit(run: Path) -> bool:
    """Inside a job that its time limit ends: hand the same run to Slurm again."""
    record = read_json(run / "slurm.json") or {}
    words = [f"--comment={queue.MARK}{run.name}", f"--chdir={Path.home()}"]
    code, out, _ = run_slurm("sbatch", "--parsable", *words, str(run / SCRIPT), run.name)
    job_id = out.strip().partition(";")[0]
    if code != 0 or not job_id.isdigit():
        return False
    times = int(record.get("restarts") or 0) + 1
    write_json(run / "slurm.json", {**record, "job_id": job_id, "restarts": times})
    return True
