"""Machine types and accelerator types that the cloud offers."""

from __future__ import annotations

from ..cloud.call import Call, Handler
from ..cloud.catalog import GPU_TITLES, MachineType
from ..errors import Json, not_found
from ..http import paging, urls
from . import stored

_BORN = "1969-12-31T16:00:00.000-08:00"


async def get_machine_type(call: Call) -> Json:
    """machineTypes.get."""
    zone, name = call.scope.partition("/")[2], call.path["machineType"]
    machine = call.cloud.catalog.machine_type(zone, name)
    if machine is None:
        raise not_found(f"projects/{call.project}/zones/{zone}/machineTypes/{name}")
    return _machine_type(call, zone, machine)


async def list_machine_types(call: Call) -> Json:
    """machineTypes.list."""
    found = _machine_types(call, call.scope.partition("/")[2])
    return paging.make_page("compute#machineTypeList", call.url_path, found, call.query)


async def list_all_machine_types(call: Call) -> Json:
    """machineTypes.aggregatedList."""
    scopes = {f"zones/{zone}": _machine_types(call, zone) for zone in call.cloud.catalog.zones}
    return stored.aggregate(call, "machineTypes", "machineType", scopes)


async def get_accelerator_type(call: Call) -> Json:
    """acceleratorTypes.get."""
    zone, name = call.scope.partition("/")[2], call.path["acceleratorType"]
    for found in _accelerator_types(call, zone):
        if found["name"] == name:
            return found
    raise not_found(f"projects/{call.project}/zones/{zone}/acceleratorTypes/{name}")


async def list_accelerator_types(call: Call) -> Json:
    """acceleratorTypes.list."""
    found = _accelerator_types(call, call.scope.partition("/")[2])
    return paging.make_page("compute#acceleratorTypeList", call.url_path, found, call.query)


async def list_all_accelerator_types(call: Call) -> Json:
    """acceleratorTypes.aggregatedList."""
    scopes = {f"zones/{zone}": _accelerator_types(call, zone) for zone in call.cloud.catalog.zones}
    return stored.aggregate(call, "acceleratorTypes", "acceleratorType", scopes)


def _machine_types(call: Call, zone: str) -> list[Json]:
    types = call.cloud.catalog.machine_types(zone).values()
    return [_machine_type(call, zone, machine) for machine in types]


def _machine_type(call: Call, zone: str, machine: MachineType) -> Json:
    sizes = f"{machine.cpus} vCPUs, {machine.memory_mb / 1024:g} GB RAM"
    body: Json = {
        "kind": "compute#machineType",
        "id": urls.stable_id("machineType", zone, machine.name),
        "creationTimestamp": _BORN,
        "name": machine.name,
        "description": "Custom created machine type." if machine.is_custom else sizes,
        "guestCpus": machine.cpus,
        "memoryMb": machine.memory_mb,
        "imageSpaceGb": 0,
        "maximumPersistentDisks": 16 if machine.shared_core else 128,
        "maximumPersistentDisksSizeGb": "3072" if machine.shared_core else "263168",
        "zone": zone,
        "selfLink": urls.link(call.project, f"zones/{zone}", "machineTypes", machine.name),
        "isSharedCpu": machine.shared_core,
        "architecture": "X86_64",
    }
    if machine.gpu:
        body["accelerators"] = [
            {"guestAcceleratorType": machine.gpu, "guestAcceleratorCount": machine.gpu_count}
        ]
    if machine.local_ssds:
        body["bundledLocalSsds"] = {
            "defaultInterface": "NVME",
            "partitionCount": machine.local_ssds,
        }
    return body


def _accelerator_types(call: Call, zone: str) -> list[Json]:
    return [
        {
            "kind": "compute#acceleratorType",
            "id": urls.stable_id("acceleratorType", zone, gpu),
            "creationTimestamp": _BORN,
            "name": gpu,
            "description": GPU_TITLES.get(gpu, gpu),
            "zone": urls.zone_link(call.project, zone),
            "selfLink": urls.link(call.project, f"zones/{zone}", "acceleratorTypes", gpu),
            "maximumCardsPerInstance": max(counts),
        }
        for gpu, counts in call.cloud.catalog.gpus(zone).items()
    ]


METHODS: dict[str, Handler] = {
    "compute.machineTypes.get": get_machine_type,
    "compute.machineTypes.list": list_machine_types,
    "compute.machineTypes.aggregatedList": list_all_machine_types,
    "compute.acceleratorTypes.get": get_accelerator_type,
    "compute.acceleratorTypes.list": list_accelerator_types,
    "compute.acceleratorTypes.aggregatedList": list_all_accelerator_types,
}
