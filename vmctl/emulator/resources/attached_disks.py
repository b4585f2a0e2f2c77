"""Disks attached to an instance that is there, and detached from it.

In a machine a data disk is the folder /mnt/disks/DEVICE: there is no block device to be formatted.
"""

from __future__ import annotations

from itertools import count

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..cloud.metadata import find_disk, make_data_disk, save_changed
from ..errors import ApiError, Json, OperationError, bad_request, in_use, invalid_field, not_ready
from ..http import urls
from ..store import Record
from . import instance_disks


async def attach(call: Call) -> Json:
    """instances.attachDisk: an existing disk, while the instance runs or is off."""
    record, asked = _find(call), call.body
    disk = _resolve(call, record, asked)
    boot = asked.get("boot", False)
    disks = record.body["disks"]
    if boot and record.body["status"] != "TERMINATED":
        raise bad_request("The instance must be stopped before a boot disk can be attached.")
    if boot and any(other["boot"] for other in disks):
        raise invalid_field("boot", "true", "The instance has a boot disk already.")
    machine = urls.last(record.body["machineType"])
    instance_disks.check_type(machine, urls.last(disk.body["type"]))
    taken = {other["index"] for other in disks}
    index = 0 if boot else next(index for index in count(1) if index not in taken)
    shown = instance_disks.describe(index, asked, disk)
    instance_disks.check_device("deviceName", shown["deviceName"], disks)
    record.body["disks"] = sorted([*disks, shown], key=lambda one: one["index"])
    if boot:
        record.private |= {
            "boot_disk_id": disk.body["id"],
            "machine": disk.private["machine"],
            "image": disk.private["image"],
        }
    disk.body["users"] = [*disk.body.get("users", ()), record.body["selfLink"]]
    disk.body["lastAttachTimestamp"] = stamp(call.cloud.clock.now())
    call.cloud.store.save(disk)
    save_changed(call.cloud.store, record)

    async def show(operation: Record) -> None:
        if record.body["status"] != "RUNNING":
            return
        machines = call.cloud.machines
        try:
            await machines.attach(record.body["id"], make_data_disk(call.cloud, disk, shown))
        except OperationError:
            _release(call, record, shown)
            raise
        await machines.metadata_changed(record.body["id"])

    return call.start("attachDisk", record.key, record.body["id"], show)


def _find(call: Call) -> Record:
    record = call.find("instances", call.path["instance"])
    if record.private.get("deleting") or record.body["status"] not in ("RUNNING", "TERMINATED"):
        raise not_ready(record.key.path)
    return record


def _resolve(call: Call, record: Record, asked: Json) -> Record:
    """Return the disk that is to be attached; ApiError if it may not be."""
    if asked.get("type", "PERSISTENT") != "PERSISTENT":
        raise invalid_field("type", asked["type"], "Local SSDs exist only with a new instance.")
    if "initializeParams" in asked:
        raise bad_request("A disk cannot be created and attached at the same time.")
    if asked.get("forceAttach") or call.query.get("forceAttach") == "true":
        raise bad_request("Only regional disks can be attached by force.")
    if not asked.get("source"):
        raise ApiError(400, "required", "Required field 'source' not specified")
    mode = asked.get("mode", "READ_WRITE")
    if asked.get("boot") and mode != "READ_WRITE":
        raise invalid_field("mode", mode, "A boot disk must be attached in READ_WRITE mode.")
    disk = instance_disks.find_free(call, "source", asked["source"], mode)
    if record.body["selfLink"] in disk.body.get("users", ()):
        raise in_use("disk", disk.key.path, record.key.path)
    if disk.body["status"] != "READY":
        raise not_ready(disk.key.path)
    return disk


async def detach(call: Call) -> Json:
    """instances.detachDisk: by its device name; the boot disk only while TERMINATED."""
    record, device = _find(call), call.query["deviceName"]
    shown = next((one for one in record.body["disks"] if one["deviceName"] == device), None)
    if shown is None:
        raise invalid_field(
            "deviceName", device, f"No attached disk found with device name '{device}'"
        )
    if shown["type"] == "SCRATCH":
        raise invalid_field("deviceName", device, "Local SSDs cannot be detached.")
    if shown["boot"] and record.body["status"] != "TERMINATED":
        raise bad_request("The instance must be stopped before its boot disk can be detached.")

    async def take(operation: Record) -> None:
        await call.cloud.machines.detach(record.body["id"], device)
        _release(call, record, shown)
        if record.body["status"] == "RUNNING":
            await call.cloud.machines.metadata_changed(record.body["id"])

    return call.start("detachDisk", record.key, record.body["id"], take)


def _release(call: Call, record: Record, shown: Json) -> None:
    """Take a disk out of an instance, unless either is gone."""
    store = call.cloud.store
    if store.get(record.key) is not record or shown not in record.body["disks"]:
        return
    record.body["disks"] = [one for one in record.body["disks"] if one is not shown]
    if shown["boot"]:
        record.private["boot_disk_id"] = ""
    if disk := find_disk(store, record, shown):
        users = disk.body.get("users", ())
        disk.body["users"] = [user for user in users if user != record.body["selfLink"]]
        disk.body["lastDetachTimestamp"] = stamp(call.cloud.clock.now())
        store.save(disk)
    save_changed(store, record)


METHODS: dict[str, Handler] = {
    "compute.instances.attachDisk": attach,
    "compute.instances.detachDisk": detach,
}
