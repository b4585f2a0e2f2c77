"""A VM that somebody else made: found by its name, read in full, changed piece by piece."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.resources import project_metadata
from vmctl.cloud.compute.responses import instance_of, last_part
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.adoption import Candidate
from vmctl.domain.machine.instance import Instance


def look_at(compute: Compute, zone: str, name: str) -> Candidate:
    """A VM with all that adoption looks at; raises NotFound."""
    (reply,) = compute.pages("instances", "get", zone=zone, instance=name)
    instance = instance_of(reply)
    disk = _boot_disk(compute, instance)
    scheduling: Mapping[str, Any] = reply.get("scheduling", {})
    disks: list[Mapping[str, Any]] = reply.get("disks", [])
    accounts: list[Mapping[str, Any]] = reply.get("serviceAccounts", [])
    return Candidate(
        instance=instance,
        disk_labels=disk.get("labels", {}),
        disk_label_fingerprint=disk.get("labelFingerprint", ""),
        boot_device=next((str(one["deviceName"]) for one in disks if one.get("boot")), ""),
        disk_goes_along=all(one.get("autoDelete") for one in disks if one.get("boot")),
        left_behind=tuple(
            last_part(one.get("source", ""))
            for one in disks
            if not one.get("boot") and not one.get("autoDelete") and one.get("source")
        ),
        restarts=bool(scheduling.get("automaticRestart")),
        deleted_at_limit=scheduling.get("instanceTerminationAction") == "DELETE",
        protected=bool(reply.get("deletionProtection")),
        service_account=next((str(one.get("email", "")) for one in accounts), ""),
        project_metadata=project_metadata(compute),
    )


def label_disk(compute: Compute, found: Candidate, labels: Mapping[str, str]) -> Operation:
    """Ask for labels on a VM's boot disk; those that it has stay."""
    instance = found.instance
    return compute.change(
        "disks",
        "setLabels",
        instance.boot_disk,
        zone=instance.zone,
        resource=instance.boot_disk,
        body={
            "labelFingerprint": found.disk_label_fingerprint,
            "labels": {**found.disk_labels, **labels},
        },
    )


def take_disk_along(compute: Compute, found: Candidate) -> Operation:
    """Ask for a VM's boot disk to be deleted with it."""
    instance = found.instance
    return compute.change(
        "instances",
        "setDiskAutoDelete",
        instance.name,
        zone=instance.zone,
        instance=instance.name,
        deviceName=found.boot_device,
        autoDelete=True,
    )


def _boot_disk(compute: Compute, instance: Instance) -> Mapping[str, Any]:
    if not instance.boot_disk:
        return {}
    (reply,) = compute.pages("disks", "get", zone=instance.zone, disk=instance.boot_disk)
    found: Mapping[str, Any] = reply
    return found
