"""What the API says of the instances of a cloud, as a script of one's own would ask it."""

from __future__ import annotations

from typing import Any

from tests.harness.cloud import LocalCloud

API = "/compute/v1/projects/vmctl-local"


def instance(cloud: LocalCloud) -> dict[str, Any]:
    """The only one there is."""
    found = cloud.ask("GET", f"{API}/aggregated/instances")
    (vm,) = [vm for scope in found["items"].values() for vm in scope.get("instances", [])]
    body: dict[str, Any] = vm
    return body


def metadata_of(vm: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in vm["metadata"]["items"]}
