"""kill -9 of `vmctl run --on vertex` at an API call: no job twice, no second archive."""

from __future__ import annotations

import itertools

import pytest

from tests.harness.crash_points import MOMENTS, HeldCloud

BASE = """name = "small"
on = "vertex"
project = "p1"
[targets.vertex]
kind = "vertex"
region = "europe-west4"
bucket = "gs://course"
[jobs.waits]
command = "exec sleep 600"
"""
RUN = ("--yes", "run", "--detach", "waits")
JOBS = "/v1/projects/p1/locations/europe-west4/customJobs"
GOING = ("JOB_STATE_QUEUED", "JOB_STATE_PENDING", "JOB_STATE_RUNNING")


def submit_killed(cloud: HeldCloud, call: int, when: str) -> str | None:
    """A submission that is killed, and the same again; the method, None past the last call."""
    if "items" not in cloud.ask("GET", "/storage/v1/b?project=p1"):
        place = {"name": "course", "location": "europe-west4"}
        cloud.ask("POST", "/storage/v1/b?project=p1", place)
    method = cloud.killed_at(call, when, *RUN)
    if method is not None:
        cloud(*RUN)
    jobs = cloud.ask("GET", JOBS)["customJobs"]
    going = [job for job in jobs if job["state"] in GOING]
    assert len(going) == 1, f"{when} call {call}, {method}: {len(going)} jobs"
    stored = cloud.ask("GET", "/storage/v1/b/course/o?prefix=vmctl/")["items"]
    archives = [item["name"] for item in stored if "/archives/" in item["name"]]
    assert len(archives) == 1, f"{when} call {call}, {method}: {archives}"
    cloud("--yes", "cancel", "waits")
    return method


def test_a_job_whose_submission_was_killed_is_not_made_twice(cloud: HeldCloud) -> None:
    methods = [submit_killed(cloud, call, when) for call, when in POINTS]
    assert methods[-1] == "aiplatform.projects.locations.customJobs.create"


# before the archive is looked for, before the job is asked for, and when Google has it
POINTS = ((2, "before"), (4, "before"), (4, "after"))


@pytest.mark.exhaustive
@pytest.mark.parametrize("when", MOMENTS)
def test_a_submission_killed_at_any_call_leaves_one_job(cloud: HeldCloud, when: str) -> None:
    for call in itertools.count(1):
        if submit_killed(cloud, call, when) is None:
            assert call > 4
            return
