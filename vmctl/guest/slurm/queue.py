"""What Slurm says of our jobs; the controller is asked at most once in a few seconds by us all."""

from __future__ import annotations

import getpass
import re
import time

from ..paths import STATE, ensure
from ..records import locked, read_json, write_json
from .commands import field, run_slurm
from .script_output import lead_log

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from ..messages import SlurmJob

FOLDER = STATE / "slurm"
QUERY_S = 5.0  # whatever the number of followers
MARK = "vmctl:"  # of a job's comment; the run's id follows
GOES_ON = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "REQUEUED")
SEPARATOR = "\x1f"
FORMAT = SEPARATOR.join(("%i", "%T", "%r", "%S", "%k"))


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
        number = re.match(r"[0-9]+", cells[0])  # an array's tasks are one job
        if len(cells) != 5 or not number or not cells[4].startswith(MARK):
            continue
        run, job_id = cells[4][len(MARK) :], number[0]
        known = found.get(run)
        if known and (int(known["job_id"]), known["state"] != "PENDING") >= (
            int(job_id),
            cells[1] != "PENDING",
        ):
            continue  # the older of two, after a run was handed on
        start = float(cells[3]) if cells[3].isdigit() else None
        found[run] = {"job_id": job_id, "state": cells[1], "reason": cells[2], "start": start}
    return found


def alive(runs: list[Path], *, fresh: bool = False) -> set[str]:
    """Those of the runs that wait or go on; all without an exit where the queue does not answer."""
    ours = {run.name: run for run in runs if (run / "slurm.json").exists()}
    found = jobs(fresh=fresh)
    if found is None:
        return {name for name, run in ours.items() if not (run / "exit").exists()}
    return set(ours) & set(found)


def job_of(run: Path) -> SlurmJob | None:
    """What is known of a run's job: as it stands in the queue, or how it ended."""
    record = read_json(run / "slurm.json")
    if record is None:
        return None
    found = (jobs() or {}).get(run.name)
    if found is not None:
        record = note_job(run, found["job_id"])
        return {**found, "errors": str(record.get("errors") or "")}
    ended = record.get("end") or {}
    return {
        "job_id": str(record.get("job_id") or ""),
        "state": str(ended.get("state") or ""),
        "reason": "",
        "start": None,
        "errors": str(record.get("errors") or ""),
    }


def note_job(run: Path, job_id: str) -> dict[str, Any]:
    """Remember the job of a run: also of one whose submission was killed before it could."""
    record = read_json(run / "slurm.json") or {}
    if not record.get("job_id"):
        record |= lead_log(run, job_id) if record.get("own") else {}
        record["job_id"] = job_id
        write_json(run / "slurm.json", record)
    return record


def settle(run: Path) -> None:
    """Learn once how a job ended that has left the queue without its helper's last word."""
    record, exit_record = read_json(run / "slurm.json"), read_json(run / "exit")
    if record is None or record.get("end") or not record.get("job_id"):
        return
    if exit_record is not None and not exit_record.get("interrupted"):
        return
    found = how_it_ended(str(record["job_id"]))
    if found is None:
        return
    write_json(run / "slurm.json", {**record, "end": found})
    if record.get("own") and exit_record is None:
        cancelled = found["state"] == "CANCELLED" and (run / "cancel").exists()
        if cancelled or found["state"] in ("COMPLETED", "FAILED"):
            least = 143 if cancelled else 1 if found["state"] == "FAILED" else 0
            made = {"code": found["code"] or least, "cancelled": cancelled, "ended_at": time.time()}
            write_json(run / "exit", made)


def how_it_ended(job_id: str) -> dict[str, Any] | None:
    """State and exit code of a job: from accounting, the controller, the completion log.

    The state is "" for a job that none of them knows any more; None: it cannot be said yet.
    """
    code, text, _ = run_slurm("sacct", "-nPX", "-j", job_id, "-o", "State,ExitCode")
    tasks = [line.partition("|")[::2] for line in text.splitlines()] if code == 0 else []
    if not tasks:
        code, text, err = run_slurm("scontrol", "-o", "show", "job", job_id)
        if code != 0 and "Invalid job id" not in err:
            return None
        lines = text.splitlines() if code == 0 else []
        tasks = [(field(line, "JobState"), field(line, "ExitCode")) for line in lines]
    if not tasks:
        code, text, _ = run_slurm("sacct", "-c", "-nP", "-j", job_id, "-o", "State")
        tasks = [(line, "") for line in text.splitlines()] if code == 0 else []
    ends = [((state.split() or [""])[0], _code(exit_code)) for state, exit_code in tasks]
    if any(state in GOES_ON for state, _ in ends):
        return None
    # of an array's tasks the first that failed speaks for all
    state, number = next((end for end in ends if end[0] != "COMPLETED"), (ends or [("", 0)])[0])
    return {"state": state, "code": number}


def _code(text: str) -> int:
    """`7:0` is exit code 7, `0:9` is signal 9."""
    number, _, signal = text.partition(":")
    if signal.isdigit() and int(signal):
        return 128 + int(signal)
    return int(number) if number.isdigit() else 0
