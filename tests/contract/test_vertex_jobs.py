"""The embedded Vertex AI: custom jobs that really run, their states, errors and logs."""

from __future__ import annotations

import io
import json
import tarfile
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.buckets import read_object, upload
from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder

Json = dict[str, Any]
JOBS = "/v1/projects/p1/locations/europe-west4/customJobs"
IMAGE = "europe-docker.pkg.dev/vertex-ai/training/pytorch-gpu.2-4.py310:latest"
T4 = {"machineType": "n1-standard-4", "acceleratorType": "NVIDIA_TESLA_T4", "acceleratorCount": 1}
CPU = {"machineType": "n1-standard-4"}
MAIN = """
import os, sys
print("to the log", sys.argv[1:], flush=True)
print("and a warning", file=sys.stderr, flush=True)
with open(os.environ["LOG_PATH"], "w") as log:
    import torch
    log.write(f"torch {torch.__version__.split('.')[0]} in {os.environ['AIP_MODEL_DIR']}")
"""


@pytest.fixture(scope="module")
def cloud() -> Iterator[Emulator]:
    emulator = Emulator(public_folder("vertex"), "real").start()
    emulator.ask("POST", "/storage/v1/b?project=p1", {"name": "jobs", "location": "europe-west4"})
    yield emulator
    emulator.remove()


def job(pool: Json, **spec: Any) -> Json:
    pools = [{"machineSpec": CPU, "replicaCount": "1", **pool}]
    return {"displayName": "job", "jobSpec": {"workerPoolSpecs": pools, **spec}}


def shell(text: str) -> Json:
    return {"containerSpec": {"imageUri": "debian", "command": ["/bin/sh", "-c"], "args": [text]}}


def state(cloud: Emulator, name: str) -> str:
    return str(cloud.ask("GET", f"/v1/{name}")["state"]).removeprefix("JOB_STATE_")


def has_ended(cloud: Emulator, name: str) -> bool:
    return state(cloud, name) in ("SUCCEEDED", "FAILED", "CANCELLED")


def lines(cloud: Emulator, name: str) -> list[tuple[str, str]]:
    chosen = f'resource.type="ml_job" resource.labels.job_id="{name.rpartition("/")[2]}"'
    said = cloud.ask("POST", "/v2/entries:list", {"filter": chosen, "pageSize": 100})
    return [(entry["severity"], entry["textPayload"]) for entry in said.get("entries", ())]


def package() -> bytes:
    """A source archive of a package with one module."""
    project = (
        '[project]\nname = "hello"\nversion = "0.1"\n[tool.setuptools]\npackages = ["hello"]\n'
    )
    files = {"pyproject.toml": project, "hello/__init__.py": "", "hello/main.py": MAIN}
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w:gz") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(f"hello-0.1/{name}")
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(textwrap.dedent(text).encode()))
    return memory.getvalue()


def test_a_package_is_installed_and_run_with_its_bucket_there(cloud: Emulator) -> None:
    upload(cloud, "jobs", "packages/hello-0.1.tar.gz", package())
    env = [{"name": "LOG_PATH", "value": "/gcs/jobs/out/log.txt"}]
    made = cloud.ask("POST", JOBS, job(
        {"machineSpec": T4, "pythonPackageSpec": {
            "executorImageUri": IMAGE, "packageUris": ["gs://jobs/packages/hello-0.1.tar.gz"],
            "pythonModule": "hello.main", "args": ["--n", "1"], "env": env}},
        baseOutputDirectory={"outputUriPrefix": "gs://jobs/out"},
    ))  # fmt: skip
    upload(cloud, "jobs", "out/placeholder", b"")  # LOG_PATH's folder is there
    name = made["name"]
    eventually(lambda: has_ended(cloud, name), "it has ended", within_s=120)
    found = cloud.ask("GET", f"/v1/{name}")
    assert found["state"] == "JOB_STATE_SUCCEEDED", (found, lines(cloud, name))
    assert found["createTime"] <= found["startTime"] <= found["endTime"]
    assert ("INFO", "to the log ['--n', '1']") in lines(cloud, name)
    assert ("ERROR", "and a warning") in lines(cloud, name)
    assert read_object(cloud, "jobs", "out/log.txt").decode() == "torch 2 in gs://jobs/out/model/"
    listed = cloud.ask("GET", f'{JOBS}?filter=display_name%3D"job"&pageSize=1')["customJobs"]
    assert [one["name"] for one in listed] == [name]


def test_a_job_fails_with_its_exit_status_and_one_is_cancelled_with_a_sigterm(
    cloud: Emulator,
) -> None:
    failing = cloud.ask("POST", JOBS, job(shell("echo out of luck >&2; exit 9")))["name"]
    trapped = "trap 'echo saved; exit 0' TERM; echo began; while :; do sleep 0.1; done"
    waiting = cloud.ask("POST", JOBS, job(shell(trapped)))["name"]
    eventually(lambda: ("INFO", "began") in lines(cloud, waiting), "it began", within_s=60)
    assert state(cloud, waiting) == "RUNNING"
    assert cloud.ask("POST", f"/v1/{waiting}:cancel", {}) == {}
    eventually(lambda: has_ended(cloud, waiting), "it is cancelled", within_s=60)
    assert state(cloud, waiting) == "CANCELLED"
    assert ("INFO", "saved") in lines(cloud, waiting)
    eventually(lambda: has_ended(cloud, failing), "it has failed", within_s=60)
    found = cloud.ask("GET", f"/v1/{failing}")
    assert found["state"] == "JOB_STATE_FAILED"
    assert "non-zero status of 9" in found["error"]["message"]
    assert lines(cloud, failing) == [("ERROR", "out of luck")]
    assert cloud.ask("DELETE", f"/v1/{failing}")["done"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"displayName": "x"}, "Worker pool specs"),
        (job({}), "Exactly one of"),
        (job({"machineSpec": {}} | shell("true")), "machine_type"),
        (job({"machineSpec": T4 | {"acceleratorCount": 0}} | shell("true")), "together"),
        (job(shell("true"), scheduling={"timeout": "soon"}), "timeout"),
        (job(shell("true"), baseOutputDirectory={"outputUriPrefix": "gs://none/x"}), "bucket"),
        (job(shell("true")) | {"colour": "red"}, "colour"),
    ],
)
def test_what_vertex_refuses_is_said(cloud: Emulator, body: Json, words: str) -> None:
    raw = json.dumps(body).encode()
    status, _, _, answer = cloud.exchange("POST", JOBS, raw, {"Content-Type": "application/json"})
    assert (status, words in json.loads(answer)["error"]["message"]) == (400, True), answer
