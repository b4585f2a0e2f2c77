"""What else than VMs an owner has in a Google project: found by label, deleted one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.requests import snapshot_body
from vmctl.cloud.compute.responses import aggregated, last_part, time_of
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import LABEL, MOVED_FROM_LABEL, NAME_LABEL, OWNER_LABEL, Instance
from vmctl.domain.machine.leftovers import (
    FIREWALL_PREFIX,
    OwnedResource,
    ResourceKind,
    firewall_description,
)
from vmctl.domain.machine.zone_order import region_of


def list_owned(compute: Compute, owner: str) -> list[OwnedResource]:
    """Every disk, snapshot, static address and firewall rule that vmctl made for an owner."""
    found = [
        _disk(item)
        for page in compute.pages("disks", "aggregatedList", filter=_owned_filter(owner))
        for item in aggregated(page, "disks")
        if _is_owned(item, owner)
    ]
    found += [
        _snapshot(item)
        for page in compute.pages("snapshots", filter=_owned_filter(owner))
        for item in page.get("items", [])
        if _is_owned(item, owner)
    ]
    found += [
        _address(item)
        for page in compute.pages("addresses", "aggregatedList", filter=_owned_filter(owner))
        for item in aggregated(page, "addresses")
        if _is_owned(item, owner)
    ]
    return found + list(_firewalls(compute, owner))


def move_snapshots(compute: Compute, owner: str, name: str) -> list[OwnedResource]:
    """The snapshots by which VMs of a vmctl project were, or are being, moved."""
    wanted = f"{_owned_filter(owner)} AND (labels.{NAME_LABEL} = {name})"
    return [
        snapshot
        for page in compute.pages("snapshots", filter=wanted)
        for item in page.get("items", [])
        if _is_owned(item, owner)
        for snapshot in [_snapshot(item)]
        if snapshot.project_name == name and snapshot.moved_from
    ]


def take_snapshot(
    compute: Compute, instance: Instance, name: str, labels: Mapping[str, str]
) -> Operation:
    """Ask for a snapshot of a VM's boot disk."""
    return compute.change(
        "disks",
        "createSnapshot",
        name,
        zone=instance.zone,
        disk=instance.boot_disk,
        body=snapshot_body(name, labels),
    )


def vms_under_way(compute: Compute) -> set[str]:
    """The names of the VMs that are being created or deleted now, in any zone."""
    return {
        last_part(item["targetLink"])
        for page in compute.pages("globalOperations", "aggregatedList", filter="status != DONE")
        for item in aggregated(page, "operations")
        if item.get("operationType") in ("insert", "delete")
        and "/instances/" in item.get("targetLink", "")
        and item.get("status") != "DONE"
    }


def delete_owned(compute: Compute, one: OwnedResource) -> Operation:
    """Ask for one thing to go; Google refuses while anything uses it."""
    match one.kind:
        case ResourceKind.DISK:
            return compute.change("disks", "delete", one.name, zone=one.place, disk=one.name)
        case ResourceKind.SNAPSHOT:
            return compute.change("snapshots", "delete", one.name, snapshot=one.name)
        case ResourceKind.ADDRESS:
            return compute.change(
                "addresses", "delete", one.name, region=one.place, address=one.name
            )
        case ResourceKind.FIREWALL:
            return compute.change("firewalls", "delete", one.name, firewall=one.name)
        case ResourceKind.SELFTEST:
            return compute.change(
                "instances", "delete", one.name, zone=one.place, instance=one.name
            )


def _owned_filter(owner: str) -> str:
    return f"(labels.{LABEL} = 1) AND (labels.{OWNER_LABEL} = {owner})"


def _is_owned(item: Mapping[str, Any], owner: str) -> bool:
    # trust no filter with somebody else's things
    labels: Mapping[str, str] = item.get("labels", {})
    return labels.get(LABEL) == "1" and labels.get(OWNER_LABEL) == owner


def _disk(item: Mapping[str, Any]) -> OwnedResource:
    zone = last_part(item.get("zone", "")) or last_part(item.get("region", ""))
    return OwnedResource(
        ResourceKind.DISK,
        item["name"],
        place=zone,
        region=region_of(zone),
        id=str(item.get("id", "")),
        project_name=item["labels"].get(NAME_LABEL, ""),
        size_gb=int(item.get("sizeGb", 0)),
        disk_type=last_part(item.get("type", "")),
        in_use=bool(item.get("users")),
        created_at=time_of(item.get("creationTimestamp")),
    )


def _snapshot(item: Mapping[str, Any]) -> OwnedResource:
    source = item.get("sourceDisk", "")
    zone = source.partition("/zones/")[2].partition("/")[0]
    return OwnedResource(
        ResourceKind.SNAPSHOT,
        item["name"],
        place="global",
        region=region_of(zone),
        id=str(item.get("id", "")),
        project_name=item["labels"].get(NAME_LABEL, ""),
        size_gb=int(item.get("diskSizeGb", 0)),
        stored_bytes=int(item.get("storageBytes", 0)),
        status=item.get("status", ""),
        moved_from=item["labels"].get(MOVED_FROM_LABEL, ""),
        created_at=time_of(item.get("creationTimestamp")),
    )


def _address(item: Mapping[str, Any]) -> OwnedResource:
    region = last_part(item.get("region", "")) or "global"
    return OwnedResource(
        ResourceKind.ADDRESS,
        item["name"],
        place=region,
        region=region,
        id=str(item.get("id", "")),
        project_name=item["labels"].get(NAME_LABEL, ""),
        in_use=item.get("status") != "RESERVED" or bool(item.get("users")),
        created_at=time_of(item.get("creationTimestamp")),
    )


def _firewalls(compute: Compute, owner: str) -> Iterator[OwnedResource]:
    """Rules carry no labels: their name and description say whose they are."""
    for page in compute.pages("firewalls", filter=f'name eq "{FIREWALL_PREFIX}.*"'):
        for item in page.get("items", []):
            is_marked = item.get("description", "") == firewall_description(owner)
            if is_marked and item["name"].startswith(FIREWALL_PREFIX):
                yield OwnedResource(
                    ResourceKind.FIREWALL,
                    item["name"],
                    place="global",
                    region="",
                    id=str(item.get("id", "")),
                    tags=tuple(item.get("targetTags", ())),
                    created_at=time_of(item.get("creationTimestamp")),
                )
