"""What Slurm says of our jobs; the controller is asked at most once in a few seconds by us all."""

from __future__ import annotations

import getpass
import os
import re
import subprocess
import time

from ..paths import STATE, ensure
from ..records import locked, read_json, write_json

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ..protocol import SlurmJob

FOLDER = STATE / "slurm"
QUERY_S = 5.0  # whatever the number of followers
LIMIT_S = 30
NOT_OVER = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED")
MARK = "vmctl:"  # of a job's comment; the run's id follows
SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%i", "%T", "%r", "%S", "%k"))


def run_slurm(*words: str) -> tuple[int, str, str]:
    """One of Slurm's commands, found as the login shell finds it: exit code and both streams."""
    machine = read_json(STATE / "machine.json") or {}
    path = f"{machine.get('login_path') or ''}:{os.environ.get('PATH') or os.defpath}"
    try:
        done = subprocess.run(
            words,
            env={**os.environ, "PATH": path.strip(":"), "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{words[0]} does not answer"
    except OSError as error:
        return 127, "", f"{words[0]}: {error.strerror}"
    return done.returncode, done.stdout, done.stderr


def jobs(*, fresh: bool = False) -> dict[str, SlurmJob] | None:
    """Our jobs that wait or run, by run; None where the queue does not answer."""
    ensure(FOLDER)
    cache = FOLDER / "queue.json"
    with locked(FOLDER / ".lock"):
        known = read_json(cache) or {}
        age = time.time() - float(known.get("at") or 0)
        if not fresh and 0 <= age < QUERY_S:
            found: dict[str, SlurmJob] | None = known["jobs"]
            return found
        found = _ask()
        write_json(cache, {"at": time.time(), "jobs": found}, sync=False)
    return found


def _ask() -> dict[str, SlurmJob] | None:
    code, text, _ = run_slurm("squeue", "-h", "-u", getpass.getuser(), "-o", FORMAT)
    if code != 0:
        return None
    found: dict[str, SlurmJob] = {}
    for line in text.splitlines():
        cells = line.split(SEPARATOR)
        if len(cells) == 5 and cells[4].startswith(MARK):
            start = float(cells[3]) if cells[3].isdigit() else None
            found[cells[4][len(MARK) :]] = {
                "job_id": cells[0],
                "state": cells[1],
                "reason": cells[2],
                "start": start,
            }
    return found


def alive(runs: list[Path]) -> set[str]:
    """Those of the runs that wait or go on; all without an exit where the queue does not answer."""
    ours = {run.name for run in runs if (run / "slurm.json").exists()}
    found = jobs()
    if found is not None:
        return ours & set(found)
    return {run.name for run in runs if run.name in ours and not (run / "exit").exists()}


def job_of(run: Path) -> SlurmJob | None:
    """What is known of a run's job: as it stands in the queue, or how it ended."""
    record = read_json(run / "slurm.json")
    if record is None:
        return None
    found = (jobs() or {}).get(run.name)
    if found is not None:
        return found
    ended = record.get("end") or {}
    return {
        "job_id": str(record.get("job_id") or ""),
        "state": str(ended.get("state") or ""),
        "reason": "",
        "start": None,
    }


def settle(run: Path) -> None:
    """Learn once how a job ended that has left the queue without its helper's last word."""
    record = read_json(run / "slurm.json")
    if record is None or record.get("end") or not record.get("job_id"):
        return
    found = how_it_ended(str(record["job_id"]))
    if found is None or found["state"] in NOT_OVER:
        return
    write_json(run / "slurm.json", {**record, "end": found})
    if record.get("own") and not (run / "exit").exists():
        cancelled = found["state"].startswith("CANCELLED") and (run / "cancel").exists()
        if cancelled or found["state"] in ("COMPLETED", "FAILED"):
            code = found["code"] or (143 if cancelled else 0)
            exit_record = {"code": code, "cancelled": cancelled, "ended_at": time.time()}
            write_json(run / "exit", exit_record)


def how_it_ended(job_id: str) -> dict[str, Any] | None:
    """State and exit code of a job: from accounting, the controller, the completion log."""
    code, text, _ = run_slurm("sacct", "-nPX", "-j", job_id, "-o", "State,ExitCode")
    if code == 0 and text.strip():
        state, _, exit_code = text.strip().splitlines()[0].partition("|")
        return {"state": state.split()[0], "code": _code(exit_code)}
    code, text, _ = run_slurm("scontrol", "-o", "show", "job", job_id)
    found = re.search(r"\bJobState=(\S+)", text)
    if code == 0 and found:
        ended = re.search(r"\bExitCode=(\S+)", text)
        return {"state": found[1], "code": _code(ended[1] if ended else "")}
    code, text, _ = run_slurm("sacct", "-c", "-nP", "-j", job_id, "-o", "State")
    if code == 0 and text.strip():
        return {"state": text.split()[0], "code": 0}
    return None


def _code(text: str) -> int:
    """`7:0` is exit code 7, `0:9` is signal 9."""
    number, _, signal = text.partition(":")
    if signal.isdigit() and int(signal):
        return 128 + int(signal)
    return int(number) if number.isdigit() else 0
