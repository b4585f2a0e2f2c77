"""What Google really offers to a project just now, and how much of it the project may take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.responses import aggregated, last_part
from vmctl.domain.google.quota import Meter

Meters = Mapping[str, Meter]


def gpu_zones(compute: Compute) -> dict[str, tuple[str, ...]]:
    """Every GPU that any zone offers, by Google's name, with its zones."""
    found: dict[str, set[str]] = {}
    for reply in compute.pages("acceleratorTypes", "aggregatedList"):
        for item in aggregated(reply, "acceleratorTypes"):
            found.setdefault(item["name"], set()).add(last_part(item["zone"]))
    return {name: tuple(sorted(zones)) for name, zones in found.items()}


def quotas_of_project(compute: Compute) -> Meters:
    """The project's limits over all regions, by metric."""
    (reply,) = compute.pages("projects", "get", fields="quotas")
    return _meters(reply)


def quotas_of_region(compute: Compute, region: str) -> Meters:
    """The project's limits in one region, by metric."""
    (reply,) = compute.pages("regions", "get", region=region, fields="quotas")
    return _meters(reply)


def quotas_by_region(compute: Compute) -> dict[str, Meters]:
    """The project's limits in every region, by metric."""
    return {
        item["name"]: _meters(item)
        for reply in compute.pages("regions", fields="items(name,quotas),nextPageToken")
        for item in reply.get("items", [])
    }


def _meters(reply: Mapping[str, Any]) -> Meters:
    return {
        item["metric"]: Meter(item["metric"], float(item["limit"]), float(item.get("usage", 0)))
        for item in reply.get("quotas", [])
        if "metric" in item and "limit" in item
    }
