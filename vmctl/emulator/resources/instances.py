"""Instances: created, listed, started, stopped, changed and asked through the API."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from ..cloud.call import Call, Handler
from ..cloud.metadata import allows_guest_attributes, fingerprint, save_changed, show_ssh_port
from ..errors import (
    ApiError,
    Json,
    bad_request,
    invalid_field,
    stale_fingerprint,
)
from ..http import urls
from ..store import Record
from . import addresses, instance_body, instance_disks, instance_templates, stored

_PASSED_ON = (
    "advancedMachineFeatures",
    "confidentialInstanceConfig",
    "description",
    "displayDevice",
    "hostname",
    "keyRevocationActionType",
    "minCpuPlatform",
    "reservationAffinity",
    "serviceAccounts",
)


async def insert(call: Call) -> Json:
    """instances.insert: all checks come before anything is saved."""
    if "sourceMachineImage" in call.query:
        raise ApiError(400, "notImplemented", "The emulator does not support sourceMachineImage.")
    if template := call.query.get("sourceInstanceTemplate"):
        properties = instance_templates.resolve(call, "sourceInstanceTemplate", template)
        call = replace(call, body=copy.deepcopy(properties) | call.body)
    record, used = build(call)
    lifecycle, instance_id = call.lifecycle, record.body["id"]
    answer = call.start("insert", record.key, instance_id, lambda op: lifecycle.insert(op, record))
    save(call, record, used)
    return answer


def build(call: Call) -> tuple[Record, list[Record]]:
    """Return a new instance and the disks that it uses, none of them saved; or ApiError(400)."""
    zone = call.path["zone"]
    key = call.new_key("instances")
    machine = instance_body.resolve_machine_type(call, zone)
    gpus = instance_body.resolve_accelerators(call, zone, machine)
    instance_id = urls.new_id()
    body = instance_body.make_skeleton(call, zone, instance_id)
    labels = instance_body.check_labels(call.body.get("labels", {}))
    body |= {
        "machineType": urls.link(call.project, f"zones/{zone}", "machineTypes", machine.name),
        "scheduling": instance_body.complete_scheduling(
            call.body.get("scheduling", {}), bool(gpus)
        ),
        "metadata": instance_body.check_metadata(call.body.get("metadata", {})),
        "tags": instance_body.make_tags(call.body.get("tags", {})),
        "networkInterfaces": instance_body.make_interfaces(call, zone),
        "labelFingerprint": fingerprint(labels),
        "shieldedInstanceConfig": {
            "enableSecureBoot": False,
            "enableVtpm": True,
            "enableIntegrityMonitoring": True,
        }
        | call.body.get("shieldedInstanceConfig", {}),
        "shieldedInstanceIntegrityPolicy": {"updateAutoLearnPolicy": True},
    }
    if labels:
        body["labels"] = labels
    if gpus:
        body["guestAccelerators"] = gpus
    body |= {name: call.body[name] for name in _PASSED_ON if name in call.body}
    if machine.series in ("n1", "e2"):
        body["cpuPlatform"] = "Intel Broadwell"
    static_ip = _static_address(call, body)
    instance_body.check_start(call, body)
    body["disks"], used = instance_disks.attach(call, zone, machine, body)
    instance_body.check_compatible(body)
    boot = used[0]
    record = Record(
        key,
        body,
        {
            "boot_disk_id": boot.body["id"],
            "machine": boot.private["machine"],
            "image": boot.private["image"],
        },
    )
    if static_ip is not None:
        record.private["static_ip"] = static_ip
    return record, used


def save(call: Call, record: Record, used: list[Record]) -> None:
    """Save a new instance and the disks that it uses."""
    for disk in used:
        disk.body["users"] = [*disk.body.get("users", ()), record.body["selfLink"]]
        disk.body["lastAttachTimestamp"] = record.body["creationTimestamp"]
        call.cloud.store.save(disk)
    save_changed(call.cloud.store, record)


def _static_address(call: Call, body: Json) -> str | None:
    """Return the reserved address that a new instance asks for."""
    static_ip = None
    for index, interface in enumerate(body["networkInterfaces"]):
        for access in interface.get("accessConfigs", ()):
            if "natIP" in access:
                field = f"resource.networkInterfaces[{index}].accessConfigs[0].natIP"
                if index:
                    raise invalid_field(
                        field, access["natIP"], "Only the first interface has a static address."
                    )
                region = urls.region_of(call.path["zone"])
                addresses.check_free(call, field, access["natIP"], region)
                static_ip = str(access["natIP"])
    return static_ip


async def start(call: Call) -> Json:
    """instances.start: no effect while it runs, refused between states."""
    record = call.find("instances", call.path["instance"])
    instance_body.check_start(call, record.body)
    return _transition(call, "start", record)


async def stop(call: Call) -> Json:
    """instances.stop: success when it is stopped already."""
    record = call.find("instances", call.path["instance"])
    check_local_ssds(call, record)
    return _transition(call, "stop", record)


def check_local_ssds(call: Call, record: Record) -> None:
    """Raise ApiError(400) for a stop that does not say what becomes of local SSDs."""
    if instance_body.has_local_ssds(record.body) and "discardLocalSsd" not in call.query:
        raise bad_request(
            "VM has a Local SSD attached but an undefined value for `discard-local-ssd`. If using "
            "gcloud, please add `--discard-local-ssd=false` or `--discard-local-ssd=true` to your "
            "command."
        )


async def suspend(call: Call) -> Json:
    """instances.suspend: only while RUNNING, and not with GPUs."""
    record = call.find("instances", call.path["instance"])
    if record.body.get("guestAccelerators"):
        raise bad_request("Instances with guest accelerators do not support suspend.")
    check_local_ssds(call, record)
    return _transition(call, "suspend", record)


async def resume(call: Call) -> Json:
    """instances.resume: of one that is SUSPENDED; no effect while it runs."""
    record = call.find("instances", call.path["instance"])
    instance_body.check_start(call, record.body)
    return _transition(call, "resume", record)


async def reset(call: Call) -> Json:
    """instances.reset: only while RUNNING."""
    return _transition(call, "reset", call.find("instances", call.path["instance"]))


async def delete(call: Call) -> Json:
    """instances.delete: from any state, unless it is protected."""
    record = call.find("instances", call.path["instance"])
    if record.body.get("deletionProtection"):
        raise invalid_field(
            "resource.deletionProtection",
            "true",
            f"Resource cannot be deleted if it's protected against deletion. {record.key.path}",
        )
    return _transition(call, "delete", record)


def _transition(call: Call, verb: str, record: Record) -> Json:
    lifecycle = call.lifecycle
    if not lifecycle.enter(verb, record):
        return call.done(verb, record)
    graceful = call.query.get("noGracefulShutdown", "false") != "true"

    async def work(operation: Record) -> None:
        if verb == "stop":
            await lifecycle.stop(operation, record, graceful=graceful)
        else:
            step: Any = getattr(lifecycle, verb)
            await step(operation, record)

    return call.start(verb, record.key, record.body["id"], work)


async def set_metadata(call: Call) -> Json:
    """instances.setMetadata: all items, under metadata's current fingerprint."""
    record = call.find("instances", call.path["instance"])
    if call.body.get("fingerprint") != record.body["metadata"]["fingerprint"]:
        raise stale_fingerprint("metadata")
    record.body["metadata"] = instance_body.check_metadata(call.body)
    show_ssh_port(record)
    save_changed(call.cloud.store, record)

    async def notify_guest(operation: Record) -> None:
        if record.body["status"] == "RUNNING":
            await call.cloud.machines.metadata_changed(record.body["id"])

    return call.start("setMetadata", record.key, record.body["id"], notify_guest)


async def set_tags(call: Call) -> Json:
    """instances.setTags: all tags, under their current fingerprint."""
    record = call.find("instances", call.path["instance"])
    if call.body.get("fingerprint") != record.body["tags"]["fingerprint"]:
        raise stale_fingerprint("tags")
    record.body["tags"] = instance_body.make_tags(call.body)
    save_changed(call.cloud.store, record)
    return call.done("setTags", record)


async def set_scheduling(call: Call) -> Json:
    """instances.setScheduling: only while TERMINATED."""
    record = call.find("instances", call.path["instance"])
    if record.body["status"] != "TERMINATED":
        raise bad_request(
            f"Scheduling of the instance '{record.key.path}' can be changed only while it is "
            "TERMINATED."
        )
    has_gpu = bool(record.body.get("guestAccelerators"))
    scheduling = instance_body.complete_scheduling(call.body, has_gpu)
    instance_body.check_compatible(record.body | {"scheduling": scheduling})
    record.body["scheduling"] = scheduling
    save_changed(call.cloud.store, record)
    return call.done("setScheduling", record)


async def set_disk_auto_delete(call: Call) -> Json:
    """instances.setDiskAutoDelete: whether an attached disk goes with the instance."""
    record = call.find("instances", call.path["instance"])
    device = call.query["deviceName"]
    for disk in record.body["disks"]:
        if disk["deviceName"] == device:
            disk["autoDelete"] = call.query["autoDelete"] == "true"
            save_changed(call.cloud.store, record)
            return call.done("setDiskAutoDelete", record)
    raise invalid_field("deviceName", device, f"No attached disk found with device name '{device}'")


async def set_deletion_protection(call: Call) -> Json:
    """instances.setDeletionProtection."""
    record = call.find("instances", call.path["resource"])
    record.body["deletionProtection"] = call.query.get("deletionProtection", "true") == "true"
    save_changed(call.cloud.store, record)
    return call.done("setDeletionProtection", record)


async def get_guest_attributes(call: Call) -> Json:
    """instances.getGuestAttributes: one variable, or all below a namespace."""
    record = call.find("instances", call.path["instance"])
    if not allows_guest_attributes(call.cloud.store, record):
        raise ApiError(
            403,
            "forbidden",
            "Guest attributes endpoint access is disabled. Set the metadata key "
            "'enable-guest-attributes' to 'TRUE' to enable it.",
        )
    saved: dict[str, str] = record.private.get("guest_attributes", {})
    reply: Json = {
        "kind": "compute#guestAttributes",
        "selfLink": urls.ROOT + call.url_path,
    }
    variable = call.query.get("variableKey")
    if variable is not None:
        if variable not in saved:
            raise _no_attribute(variable)
        return reply | {"variableKey": variable, "variableValue": saved[variable]}
    wanted = call.query.get("queryPath", "")
    items = [
        {"namespace": path.partition("/")[0], "key": path.partition("/")[2], "value": value}
        for path, value in sorted(saved.items())
        if path == wanted
        or path.startswith(wanted if wanted.endswith("/") else f"{wanted}/")
        or not wanted
    ]
    if not items:
        raise _no_attribute(wanted)
    return reply | {"queryPath": wanted, "queryValue": {"items": items}}


def _no_attribute(path: str) -> ApiError:
    return ApiError(
        404, "notFound", f"The resource '{path}' of type 'Guest Attribute' was not found."
    )


async def get_serial_port(call: Call) -> Json:
    """instances.getSerialPortOutput: port 1 from `start` on, of which a megabyte is kept.

    Positions count from the first byte ever written; a negative one, from the end."""
    record = call.find("instances", call.path["instance"])
    port = call.query.get("port", "1")
    if port not in ("1", "2", "3", "4"):
        raise invalid_field("port", port, "Must be between 1 and 4, inclusive")
    first, output = 0, b""
    if port == "1":
        first, output = await call.cloud.machines.serial_output(record.body["id"])
    end, begin = first + len(output), int(call.query.get("start", "0"))
    begin = min(max(begin if begin >= 0 else end + begin, first), end)
    return {
        "kind": "compute#serialPortOutput",
        "contents": output[begin - first :].decode("utf-8", "replace"),
        "start": str(begin),
        "next": str(end),
        "selfLink": urls.ROOT + call.url_path,
    }


METHODS: dict[str, Handler] = {
    "compute.instances.insert": insert,
    "compute.instances.get": stored.get_one("instances", "instance"),
    "compute.instances.list": stored.list_scope("instances", "instance"),
    "compute.instances.aggregatedList": stored.list_scopes("instances", "instance"),
    "compute.instances.start": start,
    "compute.instances.stop": stop,
    "compute.instances.suspend": suspend,
    "compute.instances.resume": resume,
    "compute.instances.reset": reset,
    "compute.instances.delete": delete,
    "compute.instances.setMetadata": set_metadata,
    "compute.instances.setLabels": stored.set_labels("instances", "instance"),
    "compute.instances.setTags": set_tags,
    "compute.instances.setScheduling": set_scheduling,
    "compute.instances.setDiskAutoDelete": set_disk_auto_delete,
    "compute.instances.setDeletionProtection": set_deletion_protection,
    "compute.instances.getGuestAttributes": get_guest_attributes,
    "compute.instances.getSerialPortOutput": get_serial_port,
}
