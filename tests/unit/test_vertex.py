"""Vertex AI: settings, refusals and names, as pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.domain.errors import InvalidInput, VmctlError, exit_code_of
from vmctl.domain.google.api_errors import classify
from vmctl.domain.runs.run import observe
from vmctl.domain.settings.target_settings import choose_target, parse_targets
from vmctl.domain.settings.vertex_settings import VertexSettings, parse_vertex
from vmctl.domain.vertex.custom_job import JobRequest, image_of, job_body
from vmctl.domain.vertex.job_state import NOT_PREPARED, console_link, facts_of, why_failed, why_lost
from vmctl.domain.vertex.refusal import STORAGE, VERTEX, check_location, explain
from vmctl.guest.vertex import container

TABLE = {"kind": "vertex", "region": "europe-west4", "bucket": "gs://my-bucket", "gpu": "t4"}


def settings(**more: Any) -> VertexSettings:
    return parse_vertex("vertex", {**TABLE, **more}, "vmctl.toml")


def test_a_target_is_read() -> None:
    found = settings(timeout="2h", spot=True, labels={"course": "dl-2026"})
    assert (found.region, found.bucket, found.timeout_s) == ("europe-west4", "my-bucket", 7200)
    assert found.gpu is not None
    assert (found.gpu.name, found.spot, found.labels["course"]) == ("t4", True, "dl-2026")
    assert found.machine.startswith("n1-")
    assert settings(gpu="none").gpu is None


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("region", "Europe", "region"),
        ("bucket", "gs://", "bucket"),
        ("bucket", "s3://x", "bucket"),
        ("gpu", "t5", "no GPU 't5'"),
        ("gpu", "l4:3", "3 x L4"),
        ("image", "pytorch latest", "image"),
        ("labels", {"Course": "x"}, "Course"),
        ("labels", {"vmctl-run": "x"}, "vmctl-run"),
        ("timeout", "long", "timeout"),
        ("buckt", "x", "buckt"),
    ],
)
def test_bad_settings_are_named(key: str, value: object, told: str) -> None:
    with pytest.raises(InvalidInput, match=told) as caught:
        settings(**{key: value})
    assert caught.value.hint


def test_a_region_alone_takes_the_bucket_of_the_file_or_says_so() -> None:
    targets = parse_targets({"cloud": TABLE}, "vmctl.toml")
    found = choose_target("vertex/europe-west4", targets, "vmctl.toml", from_file=False)
    assert found.address == "Vertex AI in europe-west4 with gs://my-bucket"
    with pytest.raises(InvalidInput, match="needs a bucket"):
        choose_target("vertex/us-central1", targets, "vmctl.toml", from_file=False)


@pytest.mark.parametrize(
    ("location", "fits"),
    [
        ("EUROPE-WEST4", True),
        ("EU", True),
        ("EUR4", True),
        ("US", False),
        ("US-CENTRAL1", False),
        ("EUROPE-WEST1", False),
    ],
)
def test_a_bucket_far_away_is_refused(location: str, fits: bool) -> None:
    if fits:
        check_location(location, settings())
        return
    with pytest.raises(InvalidInput, match=f"is in {location.lower()}"):
        check_location(location, settings())


QUOTA = (
    "The following quota metrics exceed quota limits: "
    "aiplatform.googleapis.com/custom_model_training_nvidia_t4_gpus"
)


@pytest.mark.parametrize(
    ("service", "status", "code", "message", "exit_code", "told"),
    [
        (VERTEX, 403, "SERVICE_DISABLED", "it is disabled", 5, "enable aiplatform.googleapis.com"),
        (STORAGE, 403, "accessNotConfigured", "off", 5, "enable storage.googleapis.com"),
        (VERTEX, 429, "RESOURCE_EXHAUSTED", QUOTA, 6, "custom_model_training_nvidia_t4_gpus"),
        (VERTEX, 429, "RESOURCE_EXHAUSTED", QUOTA, 6, "two working days"),
        (VERTEX, 403, "PERMISSION_DENIED", "aiplatform.customJobs.create", 5, "Vertex AI User"),
        (STORAGE, 404, "notFound", "The specified bucket does not exist.", 3, "buckets create"),
        (VERTEX, 400, "INVALID_ARGUMENT", "Accelerator type is not supported", 6, "no T4"),
        (VERTEX, 400, "INVALID_ARGUMENT", "Image not found: x:latest", 3, "tags list"),
        (VERTEX, 400, "INVALID_ARGUMENT", "displayName is empty", 2, "displayName"),
    ],
)
def test_a_refusal_says_what_to_do(
    service: str, status: int, code: str, message: str, exit_code: int, told: str
) -> None:
    failure = classify(code, message, http_status=status)
    error: VmctlError = explain(failure, "my-project", settings(), service)
    assert exit_code_of(error) == exit_code
    assert told in f"{error.message} {error.hint}"
    assert error.hint


REQUEST = JobRequest(
    owner="ada",
    project="Night",
    job="hello",
    archive="vmctl/ada/Night/archives/12.tar.gz",
    command="python hello.py",
    args=("a b",),
    writes_own_log=True,
)


def body(**more: Any) -> Any:
    return job_body(REQUEST, settings(**more), "hello-1", "PROGRAM", "p1")


def test_a_request_is_the_custom_job_of_the_settings() -> None:
    made = body(
        spot=True, timeout="2h", service_account="a@b.c", experiment="exp", labels={"x": "y"}
    )
    spec = made["jobSpec"]
    (pool,) = spec["workerPoolSpecs"]
    assert pool["machineSpec"]["acceleratorType"] == "NVIDIA_TESLA_T4"
    assert pool["containerSpec"]["command"] == ["python3", "-c", "PROGRAM"]
    env = {item["name"]: item["value"] for item in pool["containerSpec"]["env"]}
    assert env["LOG_PATH"] == "/gcs/my-bucket/vmctl/ada/Night/runs/hello-1/log.txt"
    assert env["PYTHONUNBUFFERED"] == "1"
    assert spec["scheduling"]["strategy"] == "SPOT"
    assert spec["scheduling"]["timeout"] == "7200s"
    assert spec["serviceAccount"] == "a@b.c"
    assert spec["experiment"].endswith("/metadataStores/default/contexts/exp")
    assert made["labels"]["x"] == "y"
    without = body(gpu="none")["jobSpec"]["workerPoolSpecs"][0]
    assert set(without["machineSpec"]) == {"machineType"}
    assert "pytorch-cpu" in without["containerSpec"]["imageUri"]
    assert image_of(settings(image="gcr.io/p/own:1")) == "gcr.io/p/own:1"


def test_the_digest_tells_requests_apart() -> None:
    same, other = REQUEST.digest(settings()), REQUEST.digest(settings(gpu="l4"))
    assert REQUEST.digest(settings()) == same != other


@pytest.mark.parametrize(
    ("state", "message", "shown", "code"),
    [
        ("QUEUED", "", "pending", None),
        ("PENDING", "", "pending", None),
        ("RUNNING", "", "running", None),
        ("CANCELLING", "", "running", None),
        ("SUCCEEDED", "", "succeeded", 0),
        ("FAILED", "The replica workerpool0-0 exited with a non-zero status of 9.", "failed", 9),
        ("FAILED", "Internal error", "failed", 1),
        ("CANCELLED", "", "cancelled", 143),
        ("EXPIRED", "", "lost", 143),
    ],
)
def test_a_state_of_google_is_one_of_ours(
    state: str, message: str, shown: str, code: int | None
) -> None:
    job = {
        **body(),
        "name": "projects/p1/locations/europe-west4/customJobs/12",
        "state": f"JOB_STATE_{state}",
        "createTime": "2026-12-01T10:00:00.5Z",
        "error": {"message": message},
    }
    facts = facts_of(job, 1e10)
    assert (facts.id, facts.job, facts.command) == ("hello-1", "hello", "python hello.py")
    assert (str(observe(facts)), facts.exit_code) == (shown, code)
    assert bool(why_lost(job)) == (state == "EXPIRED")
    assert console_link(job).endswith("/locations/europe-west4/training/12?project=p1")


@pytest.mark.parametrize(
    ("message", "code", "told"),
    [
        ("", 137, "out of memory"),
        ("The replica workerpool0-0 exited with a non-zero status of 120.", 120, "requirements"),
        ("Replicas low on memory: out of memory", 1, "larger machine"),
        ("Failed to pull image x", 1, "image could not be used"),
    ],
)
def test_a_failure_is_told_in_words(message: str, code: int, told: str) -> None:
    assert told in why_failed({"error": {"message": message}}, code)


def test_both_ends_agree_on_the_code_of_a_job_that_was_not_prepared() -> None:
    assert NOT_PREPARED == container.NOT_PREPARED


@pytest.mark.parametrize("args", ["", "{", "[1]", '{"args": 7, "outputs": "x"}', "[" * 100_000])
def test_a_job_of_other_making_is_listed_all_the_same(args: str) -> None:
    pools = [{"containerSpec": {"args": [args]}}]
    job = {"name": "projects/1/locations/x/customJobs/7", "jobSpec": {"workerPoolSpecs": pools}}
    facts = facts_of(job, 0)
    assert (facts.id, facts.job, facts.args, facts.outputs) == ("7", "", (), ())
