"""Vertex AI: settings, refusals and names, as pure decisions."""

from __future__ import annotations

from typing import Any

import pytest

from vmctl.domain.errors import InvalidInput, VmctlError, exit_code_of
from vmctl.domain.google.api_errors import classify
from vmctl.domain.settings.target_settings import choose_target, parse_targets
from vmctl.domain.settings.vertex_settings import VertexSettings, parse_vertex
from vmctl.domain.vertex.refusal import STORAGE, VERTEX, check_location, explain

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
