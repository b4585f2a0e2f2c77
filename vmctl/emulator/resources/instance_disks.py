"""The disks of a new instance: made from images, attached when they exist, or local SSDs."""

from __future__ import annotations

from ..cloud import disk_copies
from ..cloud.call import Call
from ..cloud.catalog import MachineType
from ..errors import Json, bad_request, in_use, invalid_field, not_found
from ..http import urls
from ..store import Record
from . import disks, instance_body, snapshots


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
        record = _disk(call, zone, machine.series, index, disk, instance)
        if any(record.key == other.key for other in used):
            raise invalid_field("resource.disks", record.key.name, "Disk names must be unique.")
        used.append(record)
        attached.append(describe(index, disk, record))
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


def _disk(call: Call, zone: str, series: str, index: int, asked: Json, instance: Json) -> Record:
    field = f"resource.disks[{index}]"
    start = asked.get("initializeParams", {})
    if "source" in asked:
        return _existing(call, asked["source"])
    name = start.get("diskName") or (
        instance["name"] if index == 0 else f"{instance['name']}-{index}"
    )
    instance_body.check_name(f"{field}.initializeParams.diskName", name)
    key = call.key("disks", name)
    if call.cloud.store.get(key):
        # As documented: a disk of that name is attached instead of creating one.
        return _existing(call, name)
    kind = disks.resolve_type(f"{field}.initializeParams.diskType", start.get("diskType"), zone)
    if series == "a4" and kind.name != "hyperdisk-balanced":
        raise bad_request(
            f"[{kind.name}, {urls.last(call.body['machineType'])}] features are not compatible "
            "for creating instance."
        )
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


def _existing(call: Call, source: str) -> Record:
    key = call.key("disks", urls.last(source))
    disk = call.cloud.store.look_up(key)
    if disk is None:
        raise not_found(key.path)
    users = disk.body.get("users", ())
    if users:
        raise in_use("disk", key.path, users[0].removeprefix(urls.ROOT))
    return disk
