"""From the body of an insert to an instance: Compute Engine's rules, defaults and errors."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from ..clock import parse_stamp, stamp
from ..cloud.call import Call
from ..cloud.catalog import MachineType
from ..cloud.metadata import fingerprint, make_metadata
from ..errors import ApiError, Json, bad_request, invalid_field
from ..http import urls

_NAME = re.compile(r"[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?")
_LABEL_KEY = re.compile(r"[\w-]{1,63}")
_LABEL_VALUE = re.compile(r"[\w-]{0,63}")
_METADATA_KEY = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_METADATA_VALUE_LIMIT = 262144
_METADATA_TOTAL_LIMIT = 512 * 1024
RUN_LIMIT_S = (30, 120 * 24 * 3600)


def resolve_machine_type(call: Call, zone: str) -> MachineType:
    """Resolve `machineType`; ApiError(400) in Google's words when the zone has no such type."""
    text = call.body.get("machineType", "")
    if not text:
        raise invalid_field("resource.machineType", "", "A machine type must be specified.")
    reference = _reference("resource.machineType", text)
    here = reference.project in (None, call.project, urls.project_number(call.project))
    if reference.scope not in (None, f"zones/{zone}") or not here:
        raise invalid_field(
            "resource.machineType", text, f"Zone and project must match the instance's: '{zone}'."
        )
    found = call.cloud.catalog.machine_type(zone, reference.name)
    if found is None:
        raise invalid_field(
            "resource.machineType",
            text,
            f"Machine type with name '{reference.name}' does not exist in zone '{zone}'.",
        )
    return found


def resolve_accelerators(call: Call, zone: str, machine: MachineType) -> list[Json]:
    """Return the instance's `guestAccelerators`, checked against what machine and zone can hold."""
    asked = [a for a in call.body.get("guestAccelerators", ()) if a.get("acceleratorCount", 0)]
    offered = call.cloud.catalog.gpus(zone)
    field = "resource.guestAccelerators[0]"
    if len(asked) > 1:
        raise invalid_field("resource.guestAccelerators", len(asked), "At most one type is allowed")
    if not asked:
        return (
            [_accelerator(call.project, zone, machine.gpu, machine.gpu_count)]
            if (machine.gpu)
            else []
        )
    text, count = asked[0].get("acceleratorType", ""), int(asked[0]["acceleratorCount"])
    gpu = _reference(f"{field}.acceleratorType", text).name
    if gpu not in offered:
        raise invalid_field(
            f"{field}.acceleratorType",
            text,
            f"Accelerator type with name '{gpu}' does not exist in zone '{zone}'.",
        )
    fixed = machine.gpu is not None
    if (fixed and machine.gpu != gpu) or (not fixed and machine.series != "n1"):
        raise _incompatible(machine.name, gpu)
    if not fixed and not any(
        o.machine_type.startswith("n1-") for o in call.cloud.catalog.rows if o.gpu == gpu
    ):
        raise _incompatible(machine.name, gpu)
    allowed = [machine.gpu_count] if fixed else offered[gpu]
    if count not in allowed:
        raise invalid_field(
            f"{field}.acceleratorCount",
            count,
            f"The number of {gpu} accelerators on a {machine.name} must be one of "
            f"{', '.join(map(str, allowed))}.",
        )
    if not fixed:
        cpus, memory_mb = call.cloud.catalog.max_host(zone, gpu, count)
        if machine.cpus > cpus or machine.memory_mb > memory_mb:
            raise bad_request(
                f"[{machine.name}, {gpu}:{count}] features are not compatible for creating "
                f"instance. At most {cpus} vCPUs and {memory_mb} MB of memory are allowed."
            )
    return [_accelerator(call.project, zone, gpu, count)]


def complete_scheduling(body: Json, has_gpu: bool) -> Json:
    """Return the complete `scheduling`, or ApiError(400) for contradictions."""
    asked: Json = dict(body)
    spot = asked.get("provisioningModel") == "SPOT" or asked.get("preemptible", False)
    restart = asked.get("automaticRestart", not spot)
    maintenance = asked.get("onHostMaintenance", "TERMINATE" if spot else "MIGRATE")
    if spot and restart:
        raise invalid_field(
            "resource.scheduling.preemptible",
            "true",
            "Scheduling must have preemptible be false when AutomaticRestart is true.",
        )
    if spot and maintenance != "TERMINATE":
        raise invalid_field(
            "resource.scheduling.preemptible",
            "true",
            "Scheduling must have preemptible be false when OnHostMaintenance isn't TERMINATE.",
        )
    if has_gpu and maintenance != "TERMINATE":
        raise bad_request("Instances with guest accelerators do not support live migration.")
    if "maxRunDuration" in asked and "terminationTime" in asked:
        raise bad_request("Only one of maxRunDuration and terminationTime can be specified.")
    if "maxRunDuration" in asked:
        asked["maxRunDuration"] = _run_duration(asked["maxRunDuration"])
    if "terminationTime" in asked:
        try:
            parse_stamp(asked["terminationTime"])
        except ValueError:
            raise invalid_field(
                "resource.scheduling.terminationTime",
                asked["terminationTime"],
                "Must be an RFC 3339 timestamp.",
            ) from None
    limited = "maxRunDuration" in asked or "terminationTime" in asked
    if limited and "instanceTerminationAction" not in asked:
        asked["instanceTerminationAction"] = "STOP" if spot else "DELETE"
    if asked.get("instanceTerminationAction") and not (limited or spot):
        raise invalid_field(
            "resource.scheduling.instanceTerminationAction",
            asked["instanceTerminationAction"],
            "You cannot specify a termination action for a VM instance that has the standard "
            "provisioning model and no run limit.",
        )
    return asked | {
        "onHostMaintenance": maintenance,
        "automaticRestart": restart,
        "preemptible": bool(spot),
        "provisioningModel": "SPOT" if spot else asked.get("provisioningModel", "STANDARD"),
    }


def check_metadata(body: Json) -> Json:
    """Return a metadata resource with fingerprint; ApiError(400) for bad keys and sizes."""
    items: list[Json] = []
    total = 0
    for index, item in enumerate(body.get("items", ())):
        key, value = item.get("key", ""), item.get("value", "")
        field = f"resource.metadata.items[{index}]"
        if not _METADATA_KEY.fullmatch(key):
            raise invalid_field(
                f"{field}.key", key, f"Must be a match of regex '{_METADATA_KEY.pattern}'"
            )
        if any(key == other["key"] for other in items):
            raise invalid_field("resource.metadata", key, f"Duplicate metadata key '{key}' found.")
        if len(value.encode()) > _METADATA_VALUE_LIMIT:
            raise invalid_field(
                f"{field}.value", "", f"Value exceeds the limit of {_METADATA_VALUE_LIMIT} bytes."
            )
        total += len(key) + len(value.encode())
        items.append({"key": key, "value": value})
    if total > _METADATA_TOTAL_LIMIT:
        raise invalid_field("resource.metadata", "", "Metadata exceeds the limit of 512 KB.")
    return make_metadata(items)


def check_labels(body: Json, field: str = "resource.labels") -> dict[str, str]:
    """Return labels unchanged; ApiError(400) if one breaks Google's rules."""
    if len(body) > 64:
        raise invalid_field(field, len(body), "At most 64 labels are allowed.")
    for key, value in body.items():
        good = _LABEL_KEY.fullmatch(key) and key[0].isalpha() and key == key.lower()
        if not good:
            raise invalid_field(
                field,
                key,
                "Label keys start with a lowercase letter and contain only lowercase "
                "letters, numeric characters, underscores and dashes, at most 63 characters.",
            )
        if not _LABEL_VALUE.fullmatch(value) or value != value.lower():
            raise invalid_field(
                field,
                value,
                "Label values contain only lowercase letters, numeric characters, "
                "underscores and dashes, at most 63 characters.",
            )
    return dict(body)


def check_name(field: str, text: str) -> None:
    """Raise ApiError(400) unless a text may be the name of a resource."""
    if not _NAME.fullmatch(text):
        raise invalid_field(field, text, f"Must be a match of regex '{_NAME.pattern}'")


def make_tags(body: Json) -> Json:
    """Return the `tags` resource with its fingerprint."""
    items = list(body.get("items", ()))
    for index, tag in enumerate(items):
        check_name(f"resource.tags.items[{index}]", tag)
    result: Json = {"fingerprint": fingerprint(items)}
    if items:
        result["items"] = items
    return result


def make_interfaces(call: Call, zone: str) -> list[Json]:
    """Return the network interfaces with an internal address each; only `default` exists."""
    asked = call.body.get("networkInterfaces", ())
    if not asked:
        raise invalid_field(
            "resource.networkInterfaces", "", "At least one network interface is required."
        )
    result = []
    addresses = list_free_addresses(call, urls.region_of(zone))
    for index, interface in enumerate(asked):
        field = f"resource.networkInterfaces[{index}]"
        network = interface.get("network")
        if network and urls.last(network) != "default":
            raise invalid_field(
                f"{field}.network", network, "The referenced network resource cannot be found."
            )
        region = urls.region_of(zone)
        subnetwork = interface.get("subnetwork")
        if subnetwork and urls.last(subnetwork) != "default":
            raise invalid_field(
                f"{field}.subnetwork",
                subnetwork,
                "The referenced subnetwork resource cannot be found.",
            )
        accesses = interface.get("accessConfigs", ())
        if len(accesses) > 1:
            raise invalid_field(
                f"{field}.accessConfigs", len(accesses), "At most one access config is supported."
            )
        shown: Json = {
            "kind": "compute#networkInterface",
            "name": f"nic{index}",
            "network": urls.link(call.project, urls.GLOBAL, "networks", "default"),
            "subnetwork": urls.link(call.project, f"regions/{region}", "subnetworks", "default"),
            "networkIP": next(addresses),
            "stackType": "IPV4_ONLY",
        }
        if "nicType" in interface:
            shown["nicType"] = interface["nicType"]
        if accesses:
            shown["accessConfigs"] = [make_access(f"{field}.accessConfigs[0]", accesses[0])]
        shown["fingerprint"] = fingerprint(shown)
        result.append(shown)
    return result


def make_access(field: str, asked: Json) -> Json:
    """Return the access config that a request asks for."""
    if asked.get("type", "ONE_TO_ONE_NAT") != "ONE_TO_ONE_NAT":
        raise invalid_field(f"{field}.type", asked["type"], "Only ONE_TO_ONE_NAT is supported.")
    access = {
        "kind": "compute#accessConfig",
        "type": "ONE_TO_ONE_NAT",
        "name": asked.get("name", "External NAT"),
        "networkTier": asked.get("networkTier", "PREMIUM"),
    }
    return access | ({"natIP": asked["natIP"]} if asked.get("natIP") else {})


def list_free_addresses(call: Call, region: str) -> Iterator[str]:
    """Return the internal addresses of a region that no instance of the project has."""
    second = 128 + 2 * call.cloud.catalog.regions.index(region)
    taken = {
        interface["networkIP"]
        for record in call.cloud.store.find("instances", call.project)
        for interface in record.body["networkInterfaces"]
    }
    candidates = (f"10.{second}.{n // 250}.{n % 250 + 2}" for n in range(60000))
    return (address for address in candidates if address not in taken)


def _run_duration(asked: Any) -> Json:
    seconds = int(asked.get("seconds", 0))
    low, high = RUN_LIMIT_S
    if not low <= seconds <= high:
        raise invalid_field(
            "resource.scheduling.maxRunDuration.seconds",
            seconds,
            f"Must be between {low} and {high} seconds.",
        )
    return {"seconds": str(seconds), "nanos": int(asked.get("nanos", 0))}


def _accelerator(project: str, zone: str, gpu: str, count: int) -> Json:
    return {
        "acceleratorType": urls.link(project, f"zones/{zone}", "acceleratorTypes", gpu),
        "acceleratorCount": count,
    }


def _incompatible(machine: str, gpu: str) -> ApiError:
    return bad_request(f"[{machine}, {gpu}] features are not compatible for creating instance.")


def _reference(field: str, text: str) -> urls.Reference:
    try:
        return urls.Reference(text)
    except ValueError:
        raise invalid_field(field, text, "The URL is malformed.") from None


def check_start(call: Call, body: Json) -> None:
    """Raise ApiError(400) if an instance has no boot disk or its terminationTime has passed."""
    if not any(disk["boot"] for disk in body.get("disks", [{"boot": True}])):
        raise bad_request(f"The instance '{body['name']}' has no boot disk.")
    limit = body["scheduling"].get("terminationTime")
    if limit and parse_stamp(limit) <= call.cloud.clock.now():
        raise bad_request(f"Termination time {limit} of the instance is in the past.")


def check_compatible(body: Json) -> None:
    """Raise ApiError(400) for what an instance's machine type does not go with.

    Local SSDs whose end at a run limit is not settled are refused too."""
    machine, scheduling = urls.last(body["machineType"]), body["scheduling"]
    scratch = has_local_ssds(body)
    if machine.startswith("e2-"):
        _check_e2(machine, body, scratch)
    limited = "maxRunDuration" in scheduling or "terminationTime" in scheduling
    discards = scheduling.get("onInstanceStopAction", {}).get("discardLocalSsd")
    if scratch and limited and scheduling["instanceTerminationAction"] == "STOP" and not discards:
        raise bad_request(
            "You must set onInstanceStopAction.discardLocalSsd to true to stop an instance with "
            "Local SSDs at the end of its run time."
        )


def has_local_ssds(body: Json) -> bool:
    """Whether an instance has local SSDs, its machine type's own ones included."""
    return any(disk["type"] == "SCRATCH" for disk in body["disks"])


def _check_e2(machine: str, body: Json, scratch: bool) -> None:
    scheduling = body["scheduling"]
    if scratch:
        raise bad_request(
            f"[local-ssd, {machine}] features are not compatible for creating instance."
        )
    if "minCpuPlatform" in body:
        raise invalid_field(
            "resource.minCpuPlatform",
            body["minCpuPlatform"],
            f"A minimum CPU platform cannot be set for machine type '{machine}'.",
        )
    if scheduling["onHostMaintenance"] == "TERMINATE" and not scheduling["preemptible"]:
        raise bad_request(
            "e2 instances do not support onHostMaintenance=TERMINATE unless they are preemptible."
        )


def make_skeleton(call: Call, zone: str, instance_id: str) -> Json:
    """Return the parts of a new instance that do not depend on the request."""
    return {
        "kind": "compute#instance",
        "id": instance_id,
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": call.require_name(),
        "status": "PROVISIONING",
        "zone": urls.zone_link(call.project, zone),
        "cpuPlatform": "Unknown CPU Platform",
        "selfLink": urls.link(call.project, f"zones/{zone}", "instances", call.require_name()),
        "resourceStatus": {"scheduling": {}},
        "startRestricted": False,
        "deletionProtection": bool(call.body.get("deletionProtection", False)),
        "canIpForward": bool(call.body.get("canIpForward", False)),
    }
