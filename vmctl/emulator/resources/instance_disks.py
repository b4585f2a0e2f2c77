"""The disks of a new instance: made from images, attached when they exist, or local SSDs."""

from __future__ import annotations

import re

from ..cloud import disk_copies
from ..cloud.call import Call
from ..cloud.catalog import MachineType
from ..errors import Json, bad_request, in_use, invalid_field, not_found
from ..http import urls
from ..store import Record
from . import disks, instance_body, snapshots

_DEVICE = re.compile(r"[a-zA-Z0-9](?:[\w.-]{0,61}[a-zA-Z0-9])?", re.ASCII)


def attach(
    call: Call, zone: str, machine: MachineType, instance: Json
) -> tuple[list[Json], list[Record]]:
    """Return the attached disks and the disk resources behind them, the boot disk first.

    Local SSDs that are part of the machine are there without being asked for."""
    asked = call.body.get("disks", [])
    if not asked or not asked[0].get("boot"):
        raise invalid_field(
            "resource.disks",
            "",
            "At least one disk is required, and the first must be the boot disk.",
        )
    attached: list[Json] = []
    used: list[Record] = []
    for index, disk in enumerate(asked):
        if disk.get("type") == "SCRATCH":
            attached.append(_local_ssd(index, disk))
            continue
        record = _disk(call, zone, machine.name, index, disk, instance)
        if any(record.key == other.key for other in used):
            raise invalid_field("resource.disks", record.key.name, "Disk names must be unique.")
        used.append(record)
        attached.append(describe(index, disk, record))
    for index, shown in enumerate(attached):
        check_device(f"resource.disks[{index}].deviceName", shown["deviceName"], attached[:index])
    given = sum(disk["type"] == "SCRATCH" for disk in attached)
    part = {"interface": "NVME", "initializeParams": {"diskType": "local-ssd"}}
    for index in range(len(attached), len(attached) + machine.local_ssds - given):
        attached.append(_local_ssd(index, part))
    return attached, used


def describe(index: int, asked: Json, disk: Record) -> Json:
    """Return how an instance shows a disk that it has as number `index`."""
    return {
        "kind": "compute#attachedDisk",
        "index": index,
        "boot": bool(asked.get("boot", False)),
        "autoDelete": bool(asked.get("autoDelete", False)),
        "deviceName": asked.get("deviceName", f"persistent-disk-{index}"),
        "diskSizeGb": disk.body["sizeGb"],
        "interface": asked.get("interface", "SCSI"),
        "mode": asked.get("mode", "READ_WRITE"),
        "type": asked.get("type", "PERSISTENT"),
        "source": disk.body["selfLink"],
    } | {name: disk.body[name] for name in ("architecture", "guestOsFeatures") if name in disk.body}


def _local_ssd(index: int, asked: Json) -> Json:
    """Local SSDs belong to the instance: they are not disk resources."""
    field = f"resource.disks[{index}]"
    kind = urls.last(asked.get("initializeParams", {}).get("diskType", ""))
    if kind != "local-ssd" or index == 0:
        raise invalid_field(
            f"{field}.type", "SCRATCH", "Only local-ssd disks can be scratch disks."
        )
    return {
        "kind": "compute#attachedDisk",
        "index": index,
        "boot": False,
        "autoDelete": True,
        "deviceName": asked.get("deviceName", f"local-ssd-{index - 1}"),
        "diskSizeGb": "375",
        "interface": asked.get("interface", "SCSI"),
        "mode": "READ_WRITE",
        "type": "SCRATCH",
    }


def _disk(call: Call, zone: str, machine: str, index: int, asked: Json, instance: Json) -> Record:
    field = f"resource.disks[{index}]"
    start = asked.get("initializeParams", {})
    mode = asked.get("mode", "READ_WRITE")
    if "source" in asked:
        return find_free(call, f"{field}.source", asked["source"], mode)
    name = start.get("diskName") or (
        instance["name"] if index == 0 else f"{instance['name']}-{index}"
    )
    instance_body.check_name(f"{field}.initializeParams.diskName", name)
    key = call.key("disks", name)
    if call.cloud.store.get(key):
        # As documented: a disk of that name is attached instead of creating one.
        return find_free(call, f"{field}.initializeParams.diskName", name, mode)
    kind = disks.resolve_type(f"{field}.initializeParams.diskType", start.get("diskType"), zone)
    check_type(machine, kind.name)
    source = start.get("sourceImage")
    copied = start.get("sourceSnapshot")
    if source and copied:
        raise bad_request("Only one of sourceImage and sourceSnapshot can be specified.")
    if index == 0 and not source and not copied:
        raise invalid_field(
            f"{field}.initializeParams.sourceImage", "", "A boot disk needs a source image."
        )
    snapshot = (
        snapshots.resolve(call, f"{field}.initializeParams.sourceSnapshot", copied)
        if copied
        else None
    )
    image = (
        disks.resolve_image(call, f"{field}.initializeParams.sourceImage", source)
        if source
        else None
    )
    size = disks.choose_size_gb(
        f"{field}.initializeParams.diskSizeGb",
        start.get("diskSizeGb", asked.get("diskSizeGb")),
        kind,
        image,
        snapshot,
    )
    labels = instance_body.check_labels(start.get("labels", {}), f"{field}.initializeParams.labels")
    disk = disks.make_disk(call, key, kind, size, image, labels)
    disk.private["created_with"] = instance["id"]
    if snapshot:
        disk_copies.set_source(disk, snapshot)
    return disk


def find_free(call: Call, field: str, source: str, mode: str) -> Record:
    """Return an existing disk that may be attached; ApiError if not.

    Only a disk that is read-only everywhere can be attached to several instances."""
    try:
        reference = urls.Reference(source)
    except ValueError:
        raise invalid_field(field, source, "The URL is malformed.") from None
    own = reference.project in (None, call.project, urls.project_number(call.project))
    if reference.scope not in (None, call.scope) or not own:
        raise invalid_field(
            field, source, f"Zone and project must match the instance's: '{call.path['zone']}'."
        )
    key = call.key("disks", reference.name)
    disk = call.cloud.store.look_up(key)
    if disk is None:
        raise not_found(key.path)
    for user in disk.body.get("users", ()):
        if mode != "READ_ONLY" or _mode(call, disk, user) != "READ_ONLY":
            raise in_use("disk", disk.key.path, user.removeprefix(urls.ROOT))
    return disk


def _mode(call: Call, disk: Record, user: str) -> str | None:
    """Return how an instance has attached a disk."""
    instance = call.cloud.store.get(call.key("instances", urls.last(user)))
    for attached in instance.body["disks"] if instance else ():
        if attached.get("source") == disk.body["selfLink"]:
            return str(attached["mode"])
    return None


def check_device(field: str, name: str, others: list[Json]) -> None:
    """Raise ApiError(400) unless a device may have a name beside the other disks' ones."""
    if not _DEVICE.fullmatch(name):
        raise invalid_field(field, name, f"Must be a match of regex '{_DEVICE.pattern}'")
    if any(other["deviceName"] == name for other in others):
        raise invalid_field(field, name, "The device name is already in use by another disk.")


def check_type(machine: str, kind: str) -> None:
    """Raise ApiError(400) for a type of disk that a machine type cannot have."""
    if machine.startswith("a4-") and kind != "hyperdisk-balanced":
        raise bad_request(f"[{kind}, {machine}] features are not compatible for creating instance.")
