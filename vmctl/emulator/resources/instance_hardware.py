"""What an instance is made of: machine type, GPUs, CPU platform, service account, boot checks.

Each is changed only while the instance is TERMINATED, and checked together with the others.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

from ..cloud.call import Call, Handler
from ..cloud.metadata import save_changed
from ..errors import ApiError, Json, bad_request, invalid_field
from ..http import urls
from ..store import Record
from . import instance_body, instance_disks

Plan: TypeAlias = Callable[[Call, Record, Json], Json]  # changed fields, or ApiError

_N1 = (
    "Intel Sandy Bridge",
    "Intel Ivy Bridge",
    "Intel Haswell",
    "Intel Broadwell",
    "Intel Skylake",
)
_PLATFORMS = {"n1": _N1, "a2": ["Intel Cascade Lake"], "g2": ["Intel Cascade Lake"]}
_UNKNOWN = "Unknown CPU Platform"
_EMAIL = re.compile(r"[\w.+-]+@[\w.-]+\.[a-z]+")
_SCOPE = re.compile(r"https://(www\.googleapis\.com/auth/[\w./-]+|mail\.google\.com/)")


async def set_machine_type(call: Call) -> Json:
    """instances.setMachineType: a predefined or a custom one; the GPUs must go with it."""
    return _change_stopped(call, "machine type", plan_machine)


async def set_machine_resources(call: Call) -> Json:
    """instances.setMachineResources: other GPUs, or none."""
    return _change_stopped(call, "accelerators", plan_accelerators)


async def set_service_account(call: Call) -> Json:
    """instances.setServiceAccount: one with its scopes; none when both are empty."""
    return _change_stopped(call, "service account", plan_account)


async def set_min_cpu_platform(call: Call) -> Json:
    """instances.setMinCpuPlatform: by name; `Automatic`, or none, for Google's choice."""
    return _change_stopped(call, "minimum CPU platform", plan_platform)


async def update_shielded_config(call: Call) -> Json:
    """instances.updateShieldedInstanceConfig: the given fields replace the old ones."""
    return _change_stopped(call, "Shielded VM configuration", plan_shielded)


def _change_stopped(call: Call, what: str, plan: Plan) -> Json:
    record = call.find("instances", call.path["instance"])
    if record.body["status"] != "TERMINATED":
        raise bad_request(f"The instance must be stopped before the {what} can be changed.")
    apply(call, record, plan(call, record, call.body))
    return call.done(call.method.rpartition(".")[2], record)


def apply(call: Call, record: Record, changes: Json) -> None:
    """Change an instance's fields and save it; empty values remove theirs."""
    for name, value in changes.items():
        if value in (None, "", [], {}):
            record.body.pop(name, None)
        else:
            record.body[name] = value
    save_changed(call.cloud.store, record)


def plan_machine(call: Call, record: Record, asked: Json) -> Json:
    """Return the fields that another machine type changes; ApiError(400) when it does not fit."""
    if not asked.get("machineType"):
        raise ApiError(400, "required", "Required field 'machineType' not specified")
    zone = urls.last(record.key.scope)
    old = call.cloud.catalog.machine_type(zone, urls.last(record.body["machineType"]))
    kept = [] if old is None or old.gpu else record.body.get("guestAccelerators", [])
    return plan_parts(call, record, {"guestAccelerators": kept, **asked})


def plan_accelerators(call: Call, record: Record, asked: Json) -> Json:
    """Return the fields that other GPUs change; ApiError(400) when they do not fit."""
    gpus = asked.get("guestAccelerators", [])
    parts = {"machineType": record.body["machineType"], "guestAccelerators": gpus}
    return plan_parts(call, record, parts)


def plan_parts(call: Call, record: Record, asked: Json) -> Json:
    """Return the fields that another machine type and GPUs change; the platform stays."""
    zone = urls.last(record.key.scope)
    asking = replace(call, body=asked)
    machine = instance_body.resolve_machine_type(asking, zone)
    gpus = instance_body.resolve_accelerators(asking, zone, machine)
    link = urls.link(call.project, f"zones/{zone}", "machineTypes", machine.name)
    if link != record.body["machineType"] and (
        machine.local_ssds or instance_body.has_local_ssds(record.body)
    ):
        raise bad_request("The machine type of an instance with Local SSDs cannot be changed.")
    for disk in record.body["disks"]:
        if "source" in disk:
            kind = call.cloud.store.get(call.key("disks", urls.last(disk["source"])))
            instance_disks.check_type(machine.name, urls.last(kind.body["type"]) if kind else "")
    changes: Json = {"machineType": link, "guestAccelerators": gpus}
    instance_body.complete_scheduling(record.body["scheduling"], bool(gpus))
    changed = Record(record.key, record.body | changes)
    return changes | plan_platform(call, changed, record.body)


def plan_account(call: Call, record: Record, asked: Json) -> Json:
    """Return the field that another service account changes; ApiError(400) for a malformed one."""
    email, scopes = asked.get("email", ""), asked.get("scopes", [])
    if email and email != "default" and not _EMAIL.fullmatch(email):
        raise invalid_field("email", email, "Must be the email address of a service account.")
    for index, scope in enumerate(scopes):
        if not _SCOPE.fullmatch(scope):
            raise invalid_field(f"scopes[{index}]", scope, "Must be the URL of an OAuth scope.")
    if email in ("", "default"):
        number = urls.project_number(record.key.project)
        email = f"{number}-compute@developer.gserviceaccount.com" if email or scopes else ""
    return {"serviceAccounts": [{"email": email, "scopes": scopes}] if email else []}


def plan_platform(call: Call, record: Record, asked: Json) -> Json:
    """Return the fields that a minimum CPU platform changes; ApiError(400) for an unknown one."""
    name = asked.get("minCpuPlatform", "")
    name = "" if name == "Automatic" else name
    trial = {k: v for k, v in record.body.items() if k != "minCpuPlatform"}
    instance_body.check_compatible(trial | ({"minCpuPlatform": name} if name else {}))
    machine = urls.last(record.body["machineType"])
    found = call.cloud.catalog.machine_type(urls.last(record.key.scope), machine)
    series = found.series if found else ""
    if name and name not in _PLATFORMS.get(series, []):
        raise invalid_field(
            "minCpuPlatform", name, f"The machine type '{machine}' has no such CPU platform."
        )
    shown = name or ("Intel Broadwell" if series in ("n1", "e2") else _UNKNOWN)
    return {"minCpuPlatform": name, "cpuPlatform": shown}


def plan_shielded(call: Call, record: Record, asked: Json) -> Json:
    """Return the field that changed boot checks set; ApiError(400) for some without a vTPM."""
    config = record.body["shieldedInstanceConfig"] | asked
    if config["enableIntegrityMonitoring"] and not config["enableVtpm"]:
        raise invalid_field(
            "enableIntegrityMonitoring", "true", "Integrity monitoring requires the vTPM."
        )
    return {"shieldedInstanceConfig": config}


METHODS: dict[str, Handler] = {
    "compute.instances.setMachineType": set_machine_type,
    "compute.instances.setMachineResources": set_machine_resources,
    "compute.instances.setServiceAccount": set_service_account,
    "compute.instances.setMinCpuPlatform": set_min_cpu_platform,
    "compute.instances.updateShieldedInstanceConfig": update_shielded_config,
}
