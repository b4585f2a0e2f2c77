"""Disks and disk types: boot disks of instances; blank ones, from images and from snapshots."""

from __future__ import annotations

from typing import Any

from ..clock import stamp
from ..cloud import disk_copies
from ..cloud.call import Call, Handler
from ..cloud.catalog import DISK_TYPES, DiskType, Image
from ..cloud.metadata import fingerprint, save_changed
from ..errors import (
    ApiError,
    Json,
    OperationError,
    in_use,
    invalid_field,
    not_found,
    not_ready,
)
from ..http import paging, urls
from ..store import Key, Record
from . import images, instance_body, snapshots, stored

_FEATURES = [{"type": "VIRTIO_SCSI_MULTIQUEUE"}, {"type": "UEFI_COMPATIBLE"}, {"type": "GVNIC"}]


def resolve_image(call: Call, field: str, text: str) -> Image:
    """Find the image that a URL names; ApiError in Google's words when there is none."""
    try:
        reference = urls.Reference(text)
    except ValueError:
        raise invalid_field(field, text, "The URL is malformed.") from None
    project = reference.project or call.project
    name = reference.name
    if reference.collection == "imageFamilyViews":  # what gcloud makes of --image-family
        name = f"family/{name}"
    image = images.find(call, project, name)
    if image is None and name.startswith("family/"):
        raise not_found(f"projects/{project}/global/images/{name}")
    if image is None:
        raise invalid_field(field, text, "The referenced image resource cannot be found.")
    return image


def resolve_type(field: str, text: str | None, zone: str) -> DiskType:
    """Find a disk type by URL or name; pd-standard when none is asked for."""
    name = urls.last(text) if text else "pd-standard"
    kind = DISK_TYPES.get(name)
    if kind is None:
        raise invalid_field(field, text, f"Disk type '{name}' does not exist in zone '{zone}'.")
    return kind


def choose_size_gb(
    field: str, asked: Any, kind: DiskType, image: Image | None, snapshot: Record | None = None
) -> int:
    """Return a disk's size: as asked if it is allowed, else its source's, else the default."""
    smallest = image.size_gb if image else int(kind.sizes_gb.partition("GB")[0])
    copied = int(snapshot.body["diskSizeGb"]) if snapshot else 0
    if asked is None:
        return copied or (image.size_gb if image else kind.default_gb)
    size = int(asked)
    if size < copied:
        raise invalid_field(
            field,
            size,
            f"Requested disk size cannot be smaller than the snapshot size ({copied} GB)",
        )
    if image and size < smallest:
        raise invalid_field(
            field,
            size,
            f"Requested disk size cannot be smaller than the image size ({smallest} GB)",
        )
    low, high = (int(part.removesuffix("GB")) for part in kind.sizes_gb.split("-"))
    if not low <= size <= high:
        raise invalid_field(
            field, size, f"Disk size: '{size} GB' is not between {low} GB and {high} GB."
        )
    return size


def make_disk(
    call: Call, key: Key, kind: DiskType, size: int, image: Image | None, labels: dict[str, str]
) -> Record:
    """Build a READY disk that no instance uses."""
    body: Json = {
        "kind": "compute#disk",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        "sizeGb": str(size),
        "zone": urls.ROOT + f"projects/{key.project}/{key.scope}",
        "status": "READY",
        "selfLink": urls.ROOT + key.path,
        "type": urls.link(key.project, key.scope, "diskTypes", kind.name),
        "labelFingerprint": fingerprint(labels),
        "physicalBlockSizeBytes": "4096",
    }
    if labels:
        body["labels"] = labels
    private: Json = {"machine": "base", "image": ""}
    if image:
        body["sourceImage"] = urls.ROOT + image.path
        body["sourceImageId"] = image.id
        body["guestOsFeatures"] = _FEATURES
        body["architecture"] = "X86_64"
        private = {"machine": image.machine, "image": image.path}
        if image.content is not None:
            body["status"] = "RESTORING"
            private["fill_from"] = image.content
    return Record(key, body, private)


async def insert(call: Call) -> Json:
    """disks.insert: blank or from an image."""
    key = call.new_key("disks")
    zone = call.path["zone"]
    kind = resolve_type("resource.type", call.body.get("type"), zone)
    source = call.query.get("sourceImage") or call.body.get("sourceImage")
    image = resolve_image(call, "resource.sourceImage", source) if source else None
    if kind.name == "local-ssd":
        raise invalid_field("resource.type", kind.name, "Local SSDs exist only with an instance.")
    for other in ("sourceDisk", "sourceInstantSnapshot"):
        if other in call.body:
            raise ApiError(400, "notImplemented", f"The emulator has no disks from {other}.")
    copied = call.body.get("sourceSnapshot")
    snapshot = snapshots.resolve(call, "resource.sourceSnapshot", copied) if copied else None
    size = choose_size_gb("resource.sizeGb", call.body.get("sizeGb"), kind, image, snapshot)
    record = make_disk(
        call, key, kind, size, image, instance_body.check_labels(call.body.get("labels", {}))
    )
    if "description" in call.body:
        record.body["description"] = call.body["description"]
    if snapshot:
        disk_copies.set_source(record, snapshot)
    call.cloud.store.save(record)

    async def make(operation: Record) -> None:
        try:
            call.cloud.quotas.check_disk(record)
        except OperationError:
            call.cloud.store.delete(record.key)
            raise
        await disk_copies.fill_disk(call.cloud, record)

    return call.start("insert", key, record.body["id"], make)


async def resize(call: Call) -> Json:
    """disks.resize: to a greater size, also while an instance uses it."""
    record = call.find("disks", call.path["disk"])
    if "sizeGb" not in call.body:
        raise ApiError(400, "required", "Required field 'sizeGb' not specified")
    size, old = int(call.body["sizeGb"]), record.body["sizeGb"]
    if record.body["status"] != "READY":
        raise not_ready(record.key.path)
    if size <= int(old):
        raise invalid_field(
            "sizeGb", size, f"New disk size '{size}' must be larger than existing size '{old}'."
        )
    kind = DISK_TYPES[urls.last(record.body["type"])]
    choose_size_gb("sizeGb", size, kind, None)

    async def grow(operation: Record) -> None:
        record.body["sizeGb"] = str(size)
        try:
            call.cloud.quotas.check_disk(record)
        except OperationError:
            record.body["sizeGb"] = old
            raise
        call.cloud.store.save(record)
        for user in record.body.get("users", ()):
            instance = call.cloud.store.get(call.key("instances", urls.last(user)))
            if instance is not None:
                await _show_size(call, instance, record)

    return call.start("resize", record.key, record.body["id"], grow)


async def _show_size(call: Call, instance: Record, disk: Record) -> None:
    for attached in instance.body["disks"]:
        if attached.get("source") == disk.body["selfLink"]:
            attached["diskSizeGb"] = disk.body["sizeGb"]
            save_changed(call.cloud.store, instance)
            device = None if attached["boot"] else attached["deviceName"]
            size_gb = int(disk.body["sizeGb"])
            await call.cloud.machines.resize(instance.body["id"], device, size_gb)


async def delete(call: Call) -> Json:
    """disks.delete: refused while an instance uses it."""
    record = call.find("disks", call.path["disk"])
    users = record.body.get("users", ())
    if users:
        raise in_use("disk", record.key.path, users[0].removeprefix(urls.ROOT))
    call.cloud.store.delete(record.key)

    async def wipe(operation: Record) -> None:
        await call.cloud.machines.wipe(record.body["id"])

    return call.start("delete", record.key, record.body["id"], wipe)


async def get_type(call: Call) -> Json:
    """diskTypes.get."""
    kind = DISK_TYPES.get(call.path["diskType"])
    if kind is None:
        raise not_found(f"projects/{call.project}/{call.scope}/diskTypes/{call.path['diskType']}")
    return _type_body(call, call.scope, kind)


async def list_types(call: Call) -> Json:
    """diskTypes.list."""
    found = [_type_body(call, call.scope, kind) for kind in DISK_TYPES.values()]
    return paging.make_page("compute#diskTypeList", call.url_path, found, call.query)


async def list_all_types(call: Call) -> Json:
    """diskTypes.aggregatedList."""
    scopes = {
        f"zones/{zone}": [_type_body(call, f"zones/{zone}", kind) for kind in DISK_TYPES.values()]
        for zone in call.cloud.catalog.zones
    }
    return stored.aggregate(call, "diskTypes", "diskType", scopes)


def _type_body(call: Call, scope: str, kind: DiskType) -> Json:
    return {
        "kind": "compute#diskType",
        "id": urls.stable_id("diskType", scope, kind.name),
        "creationTimestamp": "1969-12-31T16:00:00.000-08:00",
        "name": kind.name,
        "description": kind.title,
        "validDiskSize": kind.sizes_gb,
        "zone": urls.ROOT + f"projects/{call.project}/{scope}",
        "selfLink": urls.link(call.project, scope, "diskTypes", kind.name),
        "defaultDiskSizeGb": str(kind.default_gb),
    }


METHODS: dict[str, Handler] = {
    "compute.disks.insert": insert,
    "compute.disks.get": stored.get_one("disks", "disk"),
    "compute.disks.list": stored.list_scope("disks", "disk"),
    "compute.disks.aggregatedList": stored.list_scopes("disks", "disk"),
    "compute.disks.delete": delete,
    "compute.disks.resize": resize,
    "compute.disks.setLabels": stored.set_labels("disks"),
    "compute.diskTypes.get": get_type,
    "compute.diskTypes.list": list_types,
    "compute.diskTypes.aggregatedList": list_all_types,
}
