"""aiplatform.projects.locations.customJobs, and the log entries of jobs."""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime

from ..cloud.call import Call, Handler
from ..errors import ApiError, Json
from ..storage.files import open_regular
from ..storage.objects import stamp
from ..store import Record
from . import job_spec
from .jobs import COLLECTION, ENDED, key_of

WORKER = "workerpool0-0"
PAGE = 100
ENTRIES = 1000
LOG_BYTES = 64 << 20  # of one job's log that are read
METHOD = "aiplatform.projects.locations.customJobs."
_CONDITION = re.compile(r'(\w+(?:\.\w+)*)\s*(=|:)\s*("[^"]*"|[\w.-]+)')
_JOB = re.compile(r'resource\.labels\.job_id\s*=\s*"?(\d{1,30})"?')
_AFTER = re.compile(r'timestamp\s*(>=|>)\s*"([^"]+)"')


async def create(call: Call) -> Json:
    region = _region(call)
    job_spec.check_job(call.body, region, call.cloud.catalog, call.cloud.storage)
    job_id = str(secrets.randbelow(9 * 10**18) + 10**18)
    now = stamp(call.cloud.clock.now())
    kept = {k: v for k, v in call.body.items() if k in ("displayName", "jobSpec", "labels")}
    body: Json = {
        "name": f"projects/{call.project}/locations/{region}/customJobs/{job_id}",
        **kept,
        "state": "JOB_STATE_QUEUED",
        "createTime": now,
        "updateTime": now,
    }
    record = Record(key_of(call.project, region, job_id), body)
    call.cloud.store.save(record)
    call.lifecycle.jobs.begin(record)
    return dict(body)


async def get(call: Call) -> Json:
    return dict(_find(call).body)


async def list_(call: Call) -> Json:
    region = _region(call)
    found = [r.body for r in call.cloud.store.find(COLLECTION, call.project, f"regions/{region}")]
    found = [body for body in found if _matches(body, call.query.get("filter", ""))]
    found.sort(key=lambda body: (body["createTime"], body["name"]), reverse=True)
    size = int(call.query.get("pageSize", 0)) or PAGE
    start = _start(call.query.get("pageToken", ""))
    reply: Json = {"customJobs": [dict(body) for body in found[start : start + size]]}
    if start + size < len(found):
        reply["nextPageToken"] = base64.urlsafe_b64encode(str(start + size).encode()).decode()
    return reply


async def cancel(call: Call) -> Json:
    call.lifecycle.jobs.cancel(_find(call))
    return {}


async def delete(call: Call) -> Json:
    record = _find(call)
    if record.body["state"] not in ENDED:
        raise ApiError(
            400,
            "failedPrecondition",
            f"The CustomJob {record.body['name']} is in state {record.body['state']} and cannot be "
            "deleted.",
            status="FAILED_PRECONDITION",
        )
    call.lifecycle.jobs.forget(record)
    parent = record.body["name"].rpartition("/customJobs/")[0]
    return {
        "name": f"{parent}/operations/{secrets.randbelow(10**18)}",
        "done": True,
        "response": {"@type": "type.googleapis.com/google.protobuf.Empty"},
    }


async def entries(call: Call) -> Json:
    """logging.entries.list: the lines of the job that the filter names, in order."""
    text = str(call.body.get("filter", ""))
    job, after = _JOB.search(text), _AFTER.search(text)
    size = min(int(call.body.get("pageSize", 0)) or ENTRIES, ENTRIES)
    start = _start(str(call.body.get("pageToken", "")))
    if job is None:
        return {}
    found = list(_entries(call, job[1]))
    if after:
        since = _instant(after[2])
        inclusive = after[1] == ">="
        found = [e for e in found if (at := _instant(e["timestamp"])) > since
                 or (inclusive and at == since)]  # fmt: skip
    if "desc" in str(call.body.get("orderBy", "")):
        found.reverse()
    reply: Json = {"entries": found[start : start + size]}
    if start + size < len(found):
        reply["nextPageToken"] = base64.urlsafe_b64encode(str(start + size).encode()).decode()
    return reply


def _entries(call: Call, job_id: str) -> Iterator[Json]:
    """A job's log, which its machine writes: what is no entry is left out."""
    known = [r for r in call.cloud.store.find(COLLECTION) if r.key.name == job_id]
    if not known:
        return
    project = known[0].key.project
    try:
        descriptor = open_regular(None, str(call.lifecycle.jobs.folder(job_id) / "fs/log.jsonl"))
    except OSError:
        return
    with os.fdopen(descriptor, "rb") as file:
        lines = file.read(LOG_BYTES).split(b"\n")[:-1]  # the last may not be whole
    for number, line in enumerate(lines):
        try:
            said = json.loads(line)
            at = datetime.fromtimestamp(float(said["time"]), UTC)
            severity, text = str(said["severity"]), str(said["text"])
        except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
            continue
        yield {
            "insertId": f"{number:09}",
            "logName": f"projects/{project}/logs/{WORKER}",
            "timestamp": at.isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "severity": severity if severity in ("INFO", "ERROR") else "DEFAULT",
            "textPayload": text.encode("utf-8", "replace").decode(),
            "resource": {
                "type": "ml_job",
                "labels": {"job_id": job_id, "task_name": "workerpool0-0"},
            },
        }


def _matches(body: Json, text: str) -> bool:
    """Whether a job is what a filter of equalities asks for; ApiError(400) for any other filter."""
    left = _CONDITION.sub("", text)
    if re.sub(r"\bAND\b|\s", "", left):
        raise job_spec.refuse(f"Invalid filter: {text[:200]}")
    names = {"display_name": "displayName", "create_time": "createTime", "labels": "labels"}
    for field, _, value in _CONDITION.findall(text):
        head, _, inner = field.partition(".")
        found = body.get(names.get(head, head))
        if inner:
            found = found.get(inner) if isinstance(found, dict) else None
        if str(found) != value.strip('"'):
            return False
    return True


def _find(call: Call) -> Record:
    region = _region(call)
    record = call.cloud.store.get(key_of(call.project, region, call.path["customJobsId"]))
    if record is None:
        name = f"projects/{call.project}/locations/{region}/customJobs/{call.path['customJobsId']}"
        raise ApiError(404, "notFound", f"The CustomJob does not exist: {name}", status="NOT_FOUND")
    return record


def _region(call: Call) -> str:
    region = call.path["locationsId"]
    if region not in call.cloud.catalog.regions:
        raise job_spec.refuse(f"Location {region} is not found or access is unauthorized.")
    return region


def _start(token: str) -> int:
    if not token:
        return 0
    try:
        return max(int(base64.b64decode(token, b"-_", validate=True)), 0)
    except ValueError:
        raise job_spec.refuse("Invalid page token.") from None


def _instant(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise job_spec.refuse(f"Invalid timestamp: {text[:100]}") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


METHODS: dict[str, Handler] = {
    f"{METHOD}create": create,
    f"{METHOD}get": get,
    f"{METHOD}list": list_,
    f"{METHOD}cancel": cancel,
    f"{METHOD}delete": delete,
    "logging.entries.list": entries,
}
