"""Google's replies as domain values: pure functions from dicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import SSH_PORT_ITEM, Instance, Status
from vmctl.domain.machine.machine_type import built_in_gpu


def instance_of(reply: Mapping[str, Any]) -> Instance:
    """A VM from an `instances.get` reply, or from one item of a list."""
    metadata = {
        item["key"]: item.get("value", "") for item in reply.get("metadata", {}).get("items", [])
    }
    scheduling = reply.get("scheduling", {})
    machine_type = last_part(reply.get("machineType", ""))
    disks: list[Mapping[str, Any]] = reply.get("disks", [])
    boot: Mapping[str, Any] = next((disk for disk in disks if disk.get("boot")), {})
    limit = scheduling.get("maxRunDuration", {}).get("seconds")
    stops = reply.get("resourceStatus", {}).get("scheduling", {}).get("terminationTimestamp")
    return Instance(
        name=reply["name"],
        id=str(reply.get("id", "")),
        zone=last_part(reply.get("zone", "")),
        status=Status(reply.get("status", "UNKNOWN")),
        machine_type=machine_type,
        gpu=_gpu(reply, machine_type),
        address=_external_address(reply),
        external=any(nic.get("accessConfigs") for nic in reply.get("networkInterfaces", [])),
        network=next((nic.get("network", "") for nic in reply.get("networkInterfaces", [])), ""),
        google_project=reply.get("selfLink", "").partition("/projects/")[2].partition("/")[0],
        ssh_port=_port(metadata.get(SSH_PORT_ITEM, "")),
        labels=dict(reply.get("labels", {})),
        label_fingerprint=reply.get("labelFingerprint", ""),
        tags=tuple(reply.get("tags", {}).get("items", [])),
        tags_fingerprint=reply.get("tags", {}).get("fingerprint", ""),
        metadata=metadata,
        metadata_fingerprint=reply.get("metadata", {}).get("fingerprint", ""),
        created_at=time_of(reply.get("creationTimestamp")),
        started_at=time_of(reply.get("lastStartTimestamp")),
        stopped_at=time_of(reply.get("lastStopTimestamp")),
        stops_at=time_of(stops or scheduling.get("terminationTime")),
        max_run_s=int(limit) if limit is not None else None,
        spot=scheduling.get("provisioningModel") == "SPOT" or bool(scheduling.get("preemptible")),
        disk_gb=int(boot.get("diskSizeGb", 0)),
        boot_disk=last_part(boot.get("source", "")),
        data_disks=tuple(
            last_part(disk["source"])
            for disk in disks
            if disk.get("source") and not disk.get("boot")
        ),
        has_local_ssd=any(disk.get("type") == "SCRATCH" for disk in disks),
    )


def host_keys_of(reply: Mapping[str, Any]) -> list[str]:
    """The VM's SSH host keys, as "ssh-ed25519 AAAA…", from its guest attributes.

    Whatever is not a key is left out: any program on the VM can write there.
    """
    keys = []
    for item in reply.get("queryValue", {}).get("items", []):
        kind, words = str(item.get("key", "")), str(item.get("value", "")).split()
        if kind in _HOST_KEY_KINDS and words and _names_itself(kind, words[0]):
            keys.append(f"{kind} {words[0]}")
    return sorted(keys)


def host_keys_in_log(text: str) -> list[str]:
    """The host keys that cloud-init prints on the serial port, in the last complete block."""
    begin, end = "-----BEGIN SSH HOST KEY KEYS-----", "-----END SSH HOST KEY KEYS-----"
    before, found, _ = text.rpartition(end)
    if not found or begin not in before:
        return []
    keys = set()
    for line in before.rpartition(begin)[2].splitlines():
        words = line.split()
        for kind, blob in pairwise(words):
            if kind in _HOST_KEY_KINDS and _names_itself(kind, blob):
                keys.add(f"{kind} {blob}")
    return sorted(keys)


def aggregated(reply: Mapping[str, Any], resource: str) -> Iterator[Mapping[str, Any]]:
    """The items of all zones in an aggregated list."""
    for scope in reply.get("items", {}).values():
        yield from scope.get(resource, [])


def last_part(url: str) -> str:
    """The name at the end of a resource's URL."""
    return url.rpartition("/")[2]


def time_of(stamp: str | None) -> datetime | None:
    """An RFC 3339 stamp in UTC; None when there is none."""
    return datetime.fromisoformat(stamp).astimezone(UTC) if stamp else None


_HOST_KEY_KINDS = {"ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256"}


def _names_itself(kind: str, blob: str) -> bool:
    """Whether a key's base64 holds its own kind at its start, as every SSH key does."""
    import base64
    import binascii

    try:
        raw = base64.b64decode(blob, validate=True)
    except binascii.Error:
        return False
    return raw[4 : 4 + int.from_bytes(raw[:4], "big")] == kind.encode()


def _gpu(reply: Mapping[str, Any], machine_type: str) -> Gpu | None:
    for accelerator in reply.get("guestAccelerators", []):
        kind = last_part(accelerator["acceleratorType"])
        return Gpu(kind, int(accelerator.get("acceleratorCount", 1)))
    return built_in_gpu(machine_type)


def _external_address(reply: Mapping[str, Any]) -> str | None:
    for interface in reply.get("networkInterfaces", [])[:1]:
        for access in interface.get("accessConfigs", []):
            if access.get("natIP"):
                return str(access["natIP"])
    return None


def _port(text: str) -> int:
    return int(text) if text.isdigit() and 0 < int(text) < 65536 else 22
