"""Snapshots: a disk's content, kept for all zones of a project."""

from __future__ import annotations

from ..clock import stamp
from ..cloud import disk_copies
from ..cloud.call import Call, Handler
from ..cloud.metadata import fingerprint
from ..errors import Json, already_exists, invalid_field, not_found, not_ready
from ..http import urls
from ..store import Key, Record
from . import instance_body, stored


async def create(call: Call) -> Json:
    """disks.createSnapshot."""
    return _create(call, call.find("disks", call.path["disk"]))


async def insert(call: Call) -> Json:
    """snapshots.insert from `sourceDisk`."""
    source = call.body.get("sourceDisk", "")
    try:
        reference = urls.Reference(source)
    except ValueError:
        raise invalid_field("resource.sourceDisk", source, "The URL is malformed.") from None
    key = Key(call.project, "disks", reference.scope or "", reference.name)
    disk = call.cloud.store.look_up(key)
    if disk is None:
        raise not_found(key.path)
    return _create(call, disk)


def _create(call: Call, disk: Record) -> Json:
    key = Key(call.project, "snapshots", urls.GLOBAL, call.require_name())
    instance_body.check_name("resource.name", key.name)
    if call.cloud.store.get(key):
        raise already_exists(key.path)
    if disk.body["status"] != "READY":
        raise not_ready(disk.key.path)
    labels = instance_body.check_labels(call.body.get("labels", {}))
    body: Json = {
        "kind": "compute#snapshot",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        "status": "CREATING",
        "sourceDisk": disk.body["selfLink"],
        "sourceDiskId": disk.body["id"],
        "diskSizeGb": disk.body["sizeGb"],
        "storageBytes": "0",
        "storageBytesStatus": "UPDATING",
        "storageLocations": ["eu"],
        "snapshotType": call.body.get("snapshotType", "STANDARD"),
        "selfLink": urls.ROOT + key.path,
        "labelFingerprint": fingerprint(labels),
    }
    body |= {name: disk.body[name] for name in ("architecture", "guestOsFeatures") if name in (
        disk.body
    )}  # fmt: skip
    if labels:
        body["labels"] = labels
    if "description" in call.body:
        body["description"] = call.body["description"]
    record = Record(key, body, {name: disk.private[name] for name in ("machine", "image")})
    cloud = call.cloud
    answer = call.start(
        "createSnapshot",
        disk.key,
        disk.body["id"],
        lambda op: disk_copies.fill_snapshot(cloud, record),
    )
    record.private["made_by"] = answer["name"]
    cloud.store.save(record)
    return answer


def resolve(call: Call, field: str, text: str) -> Record:
    """Find the READY snapshot that a URL names; ApiError in Google's words otherwise."""
    name = urls.last(text)
    record = call.cloud.store.look_up(Key(call.project, "snapshots", urls.GLOBAL, name))
    if record is None:
        raise invalid_field(field, text, "The referenced snapshot resource cannot be found.")
    if record.body["status"] != "READY":
        raise not_ready(record.key.path)
    return record


METHODS: dict[str, Handler] = {
    "compute.disks.createSnapshot": create,
    "compute.snapshots.insert": insert,
    "compute.snapshots.get": stored.get_one("snapshots", "snapshot"),
    "compute.snapshots.list": stored.list_scope("snapshots", "snapshot"),
    "compute.snapshots.delete": stored.delete_source("snapshots", "snapshot"),
    "compute.snapshots.setLabels": stored.set_labels("snapshots"),
}
