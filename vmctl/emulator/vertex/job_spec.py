"""A custom job's specification: what Vertex AI refuses, and what a machine is to run."""

from __future__ import annotations

import re
from typing import Any

from ..cloud.catalog import Catalog
from ..errors import ApiError, Json
from ..storage.objects import Storage

PYTHON = "/opt/python/bin/python"  # of the machines' image
_URI = re.compile(r"gs://([a-z0-9][a-z0-9._-]{1,61}[a-z0-9])/(.+)")
_SECONDS = re.compile(r"(\d{1,9})(?:\.\d{1,9})?s")
DEFAULT_TIMEOUT_S = 7 * 86_400


def refuse(message: str) -> ApiError:
    """The 400 of Vertex AI."""
    return ApiError(400, "badRequest", message, status="INVALID_ARGUMENT")


def check_job(body: Json, region: str, catalog: Catalog, storage: Storage) -> None:
    """ApiError(400) for a job that Vertex AI would not take."""
    if not body.get("displayName") or len(body["displayName"]) > 128:
        raise refuse("display_name must be non-empty and at most 128 characters.")
    spec = body.get("jobSpec", {})
    pools = spec.get("workerPoolSpecs", [])
    if not pools:
        raise refuse("Worker pool specs must be non-empty.")
    pool = pools[0]
    if len(pools) > 1 or str(pool.get("replicaCount", "1")) != "1":
        raise refuse("The emulator runs one worker: one pool with replica_count 1.")
    _check_machine(pool.get("machineSpec", {}), region, catalog)
    package, container = pool.get("pythonPackageSpec"), pool.get("containerSpec")
    if (package is None) == (container is None):
        raise refuse("Exactly one of container_spec and python_package_spec must be set.")
    image = (package or {}).get("executorImageUri") or (container or {}).get("imageUri")
    if not image:
        raise refuse("The image URI must be set.")
    if package is not None and not (package.get("packageUris") and package.get("pythonModule")):
        raise refuse("python_package_spec needs package_uris and python_module.")
    timeout_s(spec)
    for uri in list_uris(spec):
        _check_bucket(uri, region, storage)


def _check_machine(machine: Json, region: str, catalog: Catalog) -> None:
    zones = catalog.zones_of(region)
    kind = machine.get("machineType", "")
    if not kind:
        raise refuse("machine_spec.machine_type must be set.")
    accelerator, count = machine.get("acceleratorType", ""), machine.get("acceleratorCount", 0)
    if bool(count) != bool(accelerator and accelerator != "ACCELERATOR_TYPE_UNSPECIFIED"):
        raise refuse("accelerator_type and accelerator_count must be set together.")
    if count and not any(gpu_of(machine) in catalog.gpus(zone) for zone in zones):
        raise refuse(f"Machine type {kind} with {accelerator} is not supported in {region}.")


def _check_bucket(uri: str, region: str, storage: Storage) -> None:
    found = _URI.fullmatch(uri)
    if found is None:
        raise refuse(f"Invalid Cloud Storage URI: {uri[:200]}")
    bucket = storage.bucket(found[1])
    if bucket is None:
        raise refuse(f"The Cloud Storage bucket of {uri[:200]} does not exist.")
    place = bucket["location"].lower()
    if bucket["locationType"] == "region" and place != region:
        raise refuse(f"The bucket of {uri[:200]} is in {place}, and the job in {region}.")


def list_uris(spec: Json) -> list[str]:
    """The places in buckets that a job names: its packages, and where its output goes."""
    pool = spec["workerPoolSpecs"][0]
    uris = list(pool.get("pythonPackageSpec", {}).get("packageUris", ()))
    output = spec.get("baseOutputDirectory", {}).get("outputUriPrefix")
    return [*uris, *([f"{output.rstrip('/')}/x"] if output else [])]


def gpu_of(machine: Json) -> str:
    """Compute Engine's name of a job's accelerator: `nvidia-tesla-t4`."""
    return str(machine.get("acceleratorType", "")).lower().replace("_", "-")


def timeout_s(spec: Json) -> float:
    """How long a job may run; ApiError(400) for what is no duration."""
    text = spec.get("scheduling", {}).get("timeout")
    if text is None:
        return DEFAULT_TIMEOUT_S
    found = _SECONDS.fullmatch(str(text))
    if found is None or int(found[1]) == 0:
        raise refuse(f"Invalid value for scheduling.timeout: {text}")
    return float(str(text)[:-1])


def image_of(spec: Json) -> str:
    """The emulator's image that stands for a job's container."""
    pool = spec["workerPoolSpecs"][0]
    uri = pool.get("pythonPackageSpec", pool.get("containerSpec", {}))
    name = str(uri.get("executorImageUri") or uri.get("imageUri"))
    return "pytorch" if "torch" in name else "base"


def commands_of(spec: Json) -> list[list[str]]:
    """The command lines of a job's container, one after the other until one fails."""
    pool = spec["workerPoolSpecs"][0]
    package = pool.get("pythonPackageSpec")
    if package is None:
        container = pool["containerSpec"]
        return [[*map(str, [*container.get("command", []), *container.get("args", [])])]]
    files = [uri.replace("gs://", "/gcs/", 1) for uri in package["packageUris"]]
    install = [PYTHON, "-m", "pip", "install", "--no-input", "--disable-pip-version-check"]
    return [
        [*install, "--root-user-action=ignore", *files],
        [PYTHON, "-m", package["pythonModule"], *map(str, package.get("args", []))],
    ]


def environ_of(job_id: str, body: Json) -> dict[str, str]:
    """What a job's container finds in its environment."""
    spec = body["jobSpec"]
    pool = spec["workerPoolSpecs"][0]
    kind: Json = pool.get("pythonPackageSpec") or pool["containerSpec"]
    given: list[Any] = kind.get("env", [])
    environ = {
        "CLOUD_ML_JOB_ID": job_id,
        "CLUSTER_SPEC": '{"cluster":{"workerpool0":["127.0.0.1:2222"]},"environment":"cloud",'
        '"task":{"type":"workerpool0","index":0}}',
        "PATH": "/opt/python/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
    }
    output = spec.get("baseOutputDirectory", {}).get("outputUriPrefix", "")
    if output:
        base = output.rstrip("/")
        environ |= {
            "AIP_MODEL_DIR": f"{base}/model/",
            "AIP_CHECKPOINT_DIR": f"{base}/checkpoints/",
            "AIP_TENSORBOARD_LOG_DIR": f"{base}/logs/",
        }
    return environ | {
        str(item["name"]): str(item.get("value", "")) for item in given if "name" in item
    }
