"""A custom job of Vertex AI: the request for one, and the name under which it is found again."""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmctl.domain.names import slug
from vmctl.domain.settings.vertex_settings import VertexSettings
from vmctl.domain.vertex.storage_names import run_prefix

_IMAGE = "docker.pkg.dev/vertex-ai/training/pytorch-{}.2-4.py310:latest"
DISK_GB = 100
# with "_": a filter takes no "-" in a key that is not quoted
OWNER, PROJECT, JOB, RUN, REQUEST = (
    f"vmctl_{word}" for word in ("owner", "project", "job", "run", "request")
)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """A job as it is to run; `archive` is the object with the project's folder."""

    owner: str
    project: str
    job: str
    archive: str
    command: str
    args: Sequence[str] = ()
    directory: str = ""
    setup: Sequence[str] = ()
    requirements: Sequence[str] = ()
    package: str = ""
    outputs: Sequence[str] = ()
    env: Mapping[str, str] | None = None
    writes_own_log: bool = False  # a script or a package, which finds LOG_PATH

    def spec(self, settings: VertexSettings, run_id: str) -> dict[str, Any]:
        """What vmctl/guest/vertex/container.py reads; the bucket is mounted under /gcs."""
        top = f"/gcs/{settings.bucket}"
        return {
            "archive": f"{top}/{self.archive}",
            "out": f"{top}/{run_prefix(self.owner, self.project, run_id).rstrip('/')}",
            "job": self.job,
            "command": self.command,
            "args": list(self.args),
            "directory": self.directory,
            "setup": list(self.setup),
            "requirements": list(self.requirements),
            "package": self.package,
            "outputs": list(self.outputs),
        }

    def digest(self, settings: VertexSettings) -> str:
        """The same for the very same request, by which a job that goes on already is found."""
        content = [self.spec(settings, ""), sorted((self.env or {}).items()), repr(settings)]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def image_of(settings: VertexSettings) -> str:
    """The container's image: the target's, else Google's PyTorch of the region's continent."""
    if settings.image:
        return settings.image
    continent = settings.region.partition("-")[0]
    host = continent if continent in ("us", "europe", "asia") else "us"
    return f"{host}-{_IMAGE.format('gpu' if settings.gpu else 'cpu')}"


def job_body(
    request: JobRequest, settings: VertexSettings, run_id: str, program: str, google: str
) -> dict[str, Any]:
    """The body of customJobs.create; `program` is the container's Python, `google` the project."""
    spec = request.spec(settings, run_id)
    env = dict(request.env or {}, PYTHONUNBUFFERED="1")
    if request.writes_own_log:
        env["LOG_PATH"] = posixpath.join(spec["out"], "log.txt")
    machine: dict[str, Any] = {"machineType": settings.machine}
    if settings.gpu is not None:
        machine["acceleratorType"] = settings.gpu.accelerator.upper().replace("-", "_")
        machine["acceleratorCount"] = settings.gpu.count
    pool = {
        "machineSpec": machine,
        "replicaCount": "1",
        "diskSpec": {"bootDiskType": "pd-ssd", "bootDiskSizeGb": DISK_GB},
        "containerSpec": {
            "imageUri": image_of(settings),
            "command": ["python3", "-c", program],
            "args": [json.dumps(spec, sort_keys=True)],
            "env": [{"name": name, "value": value} for name, value in sorted(env.items())],
        },
    }
    scheduling: dict[str, Any] = {"timeout": f"{settings.timeout_s:.0f}s", "disableRetries": True}
    if settings.spot:
        scheduling["strategy"] = "SPOT"
    prefix = run_prefix(request.owner, request.project, run_id)
    body: dict[str, Any] = {
        "workerPoolSpecs": [pool],
        "scheduling": scheduling,
        "baseOutputDirectory": {"outputUriPrefix": f"gs://{settings.bucket}/{prefix}"},
    }
    if settings.service_account:
        body["serviceAccount"] = settings.service_account
    if settings.experiment:
        store = f"projects/{google}/locations/{settings.region}/metadataStores/default"
        body["experiment"] = f"{store}/contexts/{settings.experiment}"
    labels = {
        OWNER: request.owner,
        PROJECT: slug(request.project),
        JOB: slug(request.job),
        RUN: run_id,
        REQUEST: request.digest(settings),
    }
    return {"displayName": run_id, "labels": {**settings.labels, **labels}, "jobSpec": body}
