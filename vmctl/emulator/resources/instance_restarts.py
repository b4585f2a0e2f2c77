"""What may restart an instance: an update of its properties, and maintenance of its host."""

from __future__ import annotations

import asyncio
from typing import Any

from ..cloud.call import Call, Handler
from ..cloud.cloud import Cloud
from ..cloud.metadata import PORT_ITEM, fingerprint, read_attributes, save_changed, show_ssh_port
from ..cloud.operations import SYSTEM
from ..cloud.power import VISIBLE_S
from ..errors import (
    ApiError,
    Json,
    OperationError,
    bad_request,
    invalid_field,
    not_ready,
    stale_fingerprint,
)
from ..store import Record
from . import instance_body, instance_hardware, instances

MIGRATION_S = 1.0  # real seconds that a machine sees of a live migration
_ACTIONS = ("NO_EFFECT", "REFRESH", "RESTART")
_REFRESHED = (
    "deletionProtection",
    "description",
    "keyRevocationActionType",
    "shieldedInstanceIntegrityPolicy",
)
_RESTARTED = ("advancedMachineFeatures", "canIpForward", "displayDevice", "reservationAffinity")


async def update(call: Call) -> Json:
    """instances.update: the given properties are all; some of them restart a running instance."""
    record = call.find("instances", call.path["instance"])
    if record.private.get("deleting") or record.body["status"] not in ("RUNNING", "TERMINATED"):
        raise not_ready(record.key.path)
    if call.body.get("fingerprint") != record.body["fingerprint"]:
        raise stale_fingerprint("instance")
    _check_fixed(record, call.body)
    light, heavy = _plan_light(record, call.body), _plan_heavy(call, record)
    needed = "RESTART" if heavy else "REFRESH" if light else "NO_EFFECT"
    asked = call.query.get("minimalAction", "NO_EFFECT")
    most = call.query.get("mostDisruptiveAllowedAction", "RESTART")
    for name, value in (("minimalAction", asked), ("mostDisruptiveAllowedAction", most)):
        if value not in _ACTIONS:
            raise invalid_field(name, value, f"Must be one of {', '.join(_ACTIONS)}.")
    needed = max(needed, asked, key=_ACTIONS.index)
    if record.body["status"] != "RUNNING":
        needed = "NO_EFFECT"
    if _ACTIONS.index(needed) > _ACTIONS.index(most):
        raise bad_request(
            f"The update of '{record.key.path}' requires the action {needed}, which is more "
            f"disruptive than the allowed {most}."
        )
    if needed != "RESTART":
        instance_hardware.apply(call, record, light | heavy)
        return call.start("update", record.key, record.body["id"], _notify(call.cloud, record))
    instances.check_local_ssds(call, record)
    call.lifecycle.enter("stop", record)

    async def work(operation: Record) -> None:
        await call.lifecycle.stop(operation, record)
        if call.cloud.store.get(record.key) is not record or record.private.get("deleting"):
            return
        instance_hardware.apply(call, record, light | heavy)
        await _start(call, operation, record)

    return call.start("update", record.key, record.body["id"], work)


def _notify(cloud: Cloud, record: Record) -> Any:
    async def work(operation: Record) -> None:
        if record.body["status"] == "RUNNING":
            await cloud.machines.metadata_changed(record.body["id"])
            await cloud.machines.admit(record.body["id"], cloud.firewall.is_open(record))

    return work


async def _start(call: Call, operation: Record, record: Record) -> None:
    try:
        if call.lifecycle.enter("start", record):
            await call.lifecycle.start(operation, record)
    except ApiError as error:  # it is being deleted
        raise OperationError("RESOURCE_NOT_READY", error.message) from error


def _check_fixed(record: Record, asked: Json) -> None:
    """Raise ApiError(400) for a change of what only other methods change, or none."""
    if asked.get("name", record.key.name) != record.key.name:
        raise invalid_field("resource.name", asked["name"], "The name cannot be changed.")
    for field, part, other in (
        ("disks", "deviceName", "attachDisk and detachDisk"),
        ("networkInterfaces", "name", "addAccessConfig and deleteAccessConfig"),
    ):
        given = [one.get(part) for one in asked.get(field, ())]
        if field in asked and sorted(map(str, given)) != sorted(
            str(one[part]) for one in record.body[field]
        ):
            raise ApiError(
                400, "notImplemented", f"The emulator changes {field} by {other}, not by update."
            )


def _plan_light(record: Record, asked: Json) -> Json:
    """Return the changed properties that a running instance takes over."""
    body = record.body
    changes: Json = {name: asked.get(name) for name in _REFRESHED}
    labels = instance_body.check_labels(asked.get("labels", {}))
    changes["labels"] = labels
    if labels != body.get("labels", {}):
        if asked.get("labelFingerprint") != body["labelFingerprint"]:
            raise stale_fingerprint("labels")
        changes["labelFingerprint"] = fingerprint(labels)
    tags = instance_body.make_tags(asked.get("tags", {}))
    if tags != body["tags"]:
        if asked.get("tags", {}).get("fingerprint") != body["tags"]["fingerprint"]:
            raise stale_fingerprint("tags")
        changes["tags"] = tags
    metadata = instance_body.check_metadata(asked.get("metadata", {}))
    old, new = read_attributes(body["metadata"]), read_attributes(metadata)
    if old | {PORT_ITEM: ""} != new | {PORT_ITEM: ""}:
        if asked.get("metadata", {}).get("fingerprint") != body["metadata"]["fingerprint"]:
            raise stale_fingerprint("metadata")
        trial = Record(record.key, {"metadata": metadata}, record.private)
        show_ssh_port(trial)
        changes["metadata"] = trial.body["metadata"]
    deleted = {disk.get("deviceName"): disk.get("autoDelete") for disk in asked.get("disks", ())}
    changes["disks"] = [
        disk | {"autoDelete": bool(deleted.get(disk["deviceName"], disk["autoDelete"]))}
        for disk in body["disks"]
    ]
    return _differing(body, changes)


def _plan_heavy(call: Call, record: Record) -> Json:
    """Return the changed properties for which an instance has to be TERMINATED."""
    asked, hardware = call.body, instance_hardware
    changes: Json = {name: asked.get(name) for name in _RESTARTED}
    accounts = asked.get("serviceAccounts", [])
    if len(accounts) > 1:
        raise invalid_field("resource.serviceAccounts", len(accounts), "At most one is allowed.")
    if accounts != record.body.get("serviceAccounts", []):
        changes |= hardware.plan_account(call, record, accounts[0] if accounts else {})
    if shielded := asked.get("shieldedInstanceConfig"):
        changes |= hardware.plan_shielded(call, record, shielded)
    trial = Record(record.key, dict(record.body), record.private)
    trial.body.pop("minCpuPlatform", None)
    gpus = bool([g for g in asked.get("guestAccelerators", ()) if g.get("acceleratorCount")])
    trial.body["scheduling"] = changes["scheduling"] = instance_body.complete_scheduling(
        asked.get("scheduling", {}), gpus
    )
    changes |= hardware.plan_parts(call, trial, asked)
    trial.body |= {k: v for k, v in changes.items() if v}
    changes |= hardware.plan_platform(call, trial, asked)
    changed = _differing(record.body, changes)
    if changed.keys() == {"cpuPlatform"}:
        return {}
    return changed


def _differing(body: Json, changes: Json) -> Json:
    empty: Any = (None, "", [], {}, False)
    return {
        name: value
        for name, value in changes.items()
        if value != body.get(name) and not (value in empty and body.get(name) in empty)
    }


async def simulate_maintenance(call: Call) -> Json:
    """instances.simulateMaintenanceEvent: live migration, or, without it, a stop and a restart."""
    record = call.find("instances", call.path["instance"])
    if record.private.get("deleting") or record.body["status"] != "RUNNING":
        raise not_ready(record.key.path)
    cloud, lifecycle = call.cloud, call.lifecycle
    action = record.body["scheduling"]["onHostMaintenance"]

    async def work(operation: Record) -> None:
        record.private["maintenance"] = f"{action}_ON_HOST_MAINTENANCE"
        cloud.store.save(record)
        await cloud.machines.metadata_changed(record.body["id"])
        await asyncio.sleep(VISIBLE_S if action == "TERMINATE" else MIGRATION_S)
        verb = "terminate" if action == "TERMINATE" else "migrate"
        _tell(cloud, record, f"compute.instances.{verb}OnHostMaintenance")
        stopped = action == "TERMINATE" and _stops(call, record)
        if stopped:
            await lifecycle.stop(operation, record)
        record.private.pop("maintenance", None)
        if call.cloud.store.get(record.key) is not record or record.private.get("deleting"):
            return
        save_changed(cloud.store, record)
        if not stopped:
            await cloud.machines.metadata_changed(record.body["id"])
        elif record.body["scheduling"]["automaticRestart"]:
            _tell(cloud, record, "compute.instances.automaticRestart")
            await _start(call, operation, record)

    return call.start("simulateMaintenanceEvent", record.key, record.body["id"], work)


def _stops(call: Call, record: Record) -> bool:
    try:
        return call.lifecycle.enter("stop", record)
    except ApiError:  # it ended, or is being deleted, meanwhile
        return False


def _tell(cloud: Cloud, record: Record, kind: str) -> None:
    operation = cloud.operations.create(kind, record.key, record.body["id"], user=SYSTEM)
    cloud.operations.finish(operation)


METHODS: dict[str, Handler] = {
    "compute.instances.update": update,
    "compute.instances.simulateMaintenanceEvent": simulate_maintenance,
}
