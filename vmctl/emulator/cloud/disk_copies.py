"""Disk content copied in the background: into a snapshot or image, and from one into a disk.

A copy appears under its name only when it is complete; one that a kill interrupted starts again
with the emulator.
"""

from __future__ import annotations

from ..errors import OperationError
from ..store import Record
from .cloud import Cloud


async def fill_snapshot(cloud: Cloud, snapshot: Record) -> None:
    """Copy the source disk's content into a snapshot: READY then, deleted on failure."""
    if snapshot.body["status"] == "READY":
        return
    snapshot.body["status"] = "UPLOADING"
    cloud.store.save(snapshot)
    try:
        size = await cloud.machines.copy(snapshot.body["sourceDiskId"], snapshot.body["id"])
    except OperationError:
        cloud.store.delete(snapshot.key)
        raise
    snapshot.body |= {
        "status": "READY",
        "storageBytes": str(size),
        "storageBytesStatus": "UP_TO_DATE",
    }
    cloud.store.save(snapshot)


async def fill_image(cloud: Cloud, image: Record) -> None:
    """Copy its source's content into an image: READY then, deleted on failure."""
    if image.body["status"] == "READY":
        return
    source = image.private.get("fill_from")
    try:
        size = 0 if source is None else await cloud.machines.copy(source, image.body["id"])
    except OperationError:
        cloud.store.delete(image.key)
        raise
    image.private.pop("fill_from", None)
    image.body |= {"status": "READY", "archiveSizeBytes": str(size)}
    cloud.store.save(image)


async def fill_disk(cloud: Cloud, disk: Record) -> None:
    """Copy a snapshot's content into the disk made from it; do nothing for other disks."""
    source = disk.private.get("fill_from")
    if source is None:
        return
    await cloud.machines.copy(source, disk.body["id"])
    del disk.private["fill_from"]
    disk.body["status"] = "READY"
    cloud.store.save(disk)


def find_unfinished(cloud: Cloud, operation: Record) -> Record | None:
    """Return the snapshot, image or disk that an unfinished operation was copying, if any."""
    kind, target = operation.body["operationType"], operation.body["targetId"]
    if kind == "createSnapshot":
        for snapshot in cloud.store.find("snapshots"):
            if snapshot.private.get("made_by") == operation.key.name:
                return snapshot
    if kind == "insert":
        for record in (*cloud.store.find("disks"), *cloud.store.find("images")):
            if record.body["id"] == target:
                return record
    return None


async def finish(cloud: Cloud, record: Record) -> None:
    """Finish the copying into a snapshot, an image or a disk."""
    if record.key.collection == "snapshots":
        await fill_snapshot(cloud, record)
    elif record.key.collection == "images":
        await fill_image(cloud, record)
    else:
        await fill_disk(cloud, record)


def set_source(disk: Record, snapshot: Record) -> None:
    """Mark a new disk as one to be filled from a snapshot."""
    disk.body |= {
        "status": "RESTORING",
        "sourceSnapshot": snapshot.body["selfLink"],
        "sourceSnapshotId": snapshot.body["id"],
    }
    for name in ("architecture", "guestOsFeatures"):
        if name in snapshot.body:
            disk.body[name] = snapshot.body[name]
    disk.private |= {name: snapshot.private[name] for name in ("machine", "image")}
    disk.private["fill_from"] = snapshot.body["id"]
