"""Disk content copied in the background: into a snapshot, and from one into a new disk.

What a kill of the emulator cuts short is begun anew at its next start: a copy is complete under
its name or not there.
"""

from __future__ import annotations

from ..errors import OperationError
from ..store import Record
from .cloud import Cloud


async def take(cloud: Cloud, snapshot: Record) -> None:
    """Copy the source disk's content into a snapshot; then it is READY, or gone on failure."""
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


async def fill(cloud: Cloud, disk: Record) -> None:
    """Copy a snapshot's content into the disk made from it; nothing to do for any other disk."""
    source = disk.private.get("fill_from")
    if source is None:
        return
    await cloud.machines.copy(source, disk.body["id"])
    del disk.private["fill_from"]
    disk.body["status"] = "READY"
    cloud.store.save(disk)


def resumed(cloud: Cloud, operation: Record) -> Record | None:
    """The snapshot or disk whose copying an unfinished operation had begun, if any."""
    kind, target = operation.body["operationType"], operation.body["targetId"]
    if kind == "createSnapshot":
        for snapshot in cloud.store.find("snapshots"):
            if snapshot.private.get("made_by") == operation.key.name:
                return snapshot
    if kind == "insert":
        for disk in cloud.store.find("disks"):
            if disk.body["id"] == target:
                return disk
    return None


async def go_on(cloud: Cloud, record: Record) -> None:
    """Finish the copying into a snapshot or a disk."""
    if record.key.collection == "snapshots":
        await take(cloud, record)
    else:
        await fill(cloud, record)


def describe(disk: Record, snapshot: Record) -> None:
    """Make a new disk one that is to be filled from a snapshot."""
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
