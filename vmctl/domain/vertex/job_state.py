"""A custom job as Vertex AI describes it: what is known of the run, and why it ended."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from vmctl.domain.runs.run import RunFacts
from vmctl.domain.text import printable
from vmctl.domain.vertex.custom_job import RUN

WAITING = {"JOB_STATE_QUEUED", "JOB_STATE_PENDING"}
GOING = {*WAITING, "JOB_STATE_RUNNING", "JOB_STATE_CANCELLING", "JOB_STATE_UPDATING"}
CANCELLED, EXPIRED = "JOB_STATE_CANCELLED", "JOB_STATE_EXPIRED"
KILLED = 137  # SIGKILL: of a container it is nearly always the memory's end
TERMINATED = 143
NOT_PREPARED = 120  # as vmctl/guest/vertex/container.py ends where a step before the job failed


def job_id(job: Mapping[str, Any]) -> str:
    """The number that Vertex AI gave a job."""
    return str(job["name"]).rpartition("/")[2]


def console_link(job: Mapping[str, Any]) -> str:
    """The page of a job, its logs a click away."""
    _, project, _, region, *_ = str(job["name"]).split("/")
    where = f"locations/{region}/training/{job_id(job)}"
    return f"https://console.cloud.google.com/vertex-ai/{where}?project={quote(project)}"


def facts_of(job: Mapping[str, Any], now: float) -> RunFacts:
    """A run, as far as the job says it; `now` is in seconds since the epoch."""
    state = str(job.get("state", "JOB_STATE_PENDING"))
    spec = _spec(job)
    return RunFacts(
        id=printable(str(job.get("labels", {}).get(RUN, job_id(job)))),
        job=printable(str(spec.get("job", ""))),
        command=printable(str(spec.get("command", ""))),
        args=_texts(spec.get("args")),
        directory=printable(str(spec.get("directory", ""))),
        outputs=_texts(spec.get("outputs")),
        created_at=_seconds(job.get("createTime")),
        phase="" if state in WAITING else "running",
        session=state in GOING,
        exit_code=_exit_code(job, state),
        exit_cancelled=state == CANCELLED,
        exit_interrupted=state == EXPIRED,
        ended_at=_seconds(job.get("endTime")),
        now=now,
        job_id=printable(job_id(job)),
        queue_state="PENDING" if state in WAITING else "",
    )


def archive_of(job: Mapping[str, Any]) -> str:
    """The archive from which a job begins, as its container sees it; "" for none of ours."""
    return str(_spec(job).get("archive", ""))


def why_lost(job: Mapping[str, Any]) -> str:
    """Why Vertex AI ended a job that would have gone on; "" for another."""
    if job.get("state") != EXPIRED:
        return ""
    return "It ran into the target's timeout: raise it in vmctl.toml."


def why_failed(job: Mapping[str, Any], code: int) -> str:
    """A sentence on a failure that the code alone does not explain; "" where there is none."""
    said = printable(str(job.get("error", {}).get("message", "")))
    if code == KILLED or "out of memory" in said.lower():
        return (
            "The container ran out of memory: take a larger machine in vmctl.toml, or smaller "
            "batches."
        )
    if code == NOT_PREPARED:
        return (
            "A step before the job failed, which its log names: correct `setup`, `requirements` "
            "or the package in vmctl.toml, and run it again."
        )
    if re.search(r"image", said, re.IGNORECASE):
        return f"The container's image could not be used: {said}"
    return said


def _exit_code(job: Mapping[str, Any], state: str) -> int | None:
    if state in GOING:
        return None
    if state == "JOB_STATE_SUCCEEDED":
        return 0
    if state in (CANCELLED, EXPIRED):
        return TERMINATED
    found = re.search(
        r"non-zero (?:exit )?(?:status|code)(?: of)?:? (\d+)",
        str(job.get("error", {}).get("message", "")),
    )
    return int(found[1]) if found else 1


def _spec(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the container reads; empty for a job that is of other making.

    Whoever may make jobs in the project can have written it.
    """
    try:
        args = job["jobSpec"]["workerPoolSpecs"][0]["containerSpec"]["args"]
        found = json.loads(args[-1])
    except (KeyError, IndexError, ValueError, TypeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(printable(str(word)) for word in value) if isinstance(value, list) else ()


def _seconds(text: object) -> float | None:
    try:
        return datetime.fromisoformat(str(text)).timestamp()
    except ValueError:
        return None
