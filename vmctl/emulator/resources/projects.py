"""Projects, regions and zones: where things are, what is allowed, and the shared metadata."""

from __future__ import annotations

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..cloud.metadata import make_metadata
from ..errors import Json, not_found, stale_fingerprint
from ..http import paging, urls
from ..store import Key, Record
from . import instance_body

_BORN = "2015-01-01T00:00:00.000-08:00"


def ensure_project(call: Call) -> Record:
    """Return the project's record, a new one for a project that was never changed."""
    key = Key(call.project, "projects", urls.GLOBAL, call.project)
    record = call.cloud.store.get(key)
    if record is not None:
        return record
    body: Json = {
        "kind": "compute#project",
        "id": urls.project_number(call.project),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": call.project,
        "commonInstanceMetadata": make_metadata([]),
        "selfLink": f"{urls.ROOT}projects/{call.project}",
        "defaultServiceAccount": f"{urls.project_number(call.project)}"
        "-compute@developer.gserviceaccount.com",
        "xpnProjectStatus": "UNSPECIFIED_XPN_PROJECT_STATUS",
        "defaultNetworkTier": "PREMIUM",
        "vmDnsSetting": "ZONAL_ONLY",
    }
    record = Record(key, body)
    call.cloud.store.save(record)
    return record


async def get_project(call: Call) -> Json:
    """projects.get, with its quotas as they stand."""
    quotas = call.cloud.quotas.of_project(call.project)
    return ensure_project(call).body | {"quotas": quotas}


async def set_common_metadata(call: Call) -> Json:
    """projects.setCommonInstanceMetadata: all items, under their current fingerprint."""
    record = ensure_project(call)
    current = record.body["commonInstanceMetadata"]
    if call.body.get("fingerprint", current["fingerprint"]) != current["fingerprint"]:
        raise stale_fingerprint("metadata")
    record.body["commonInstanceMetadata"] = instance_body.check_metadata(call.body)
    call.cloud.store.save(record)

    async def notify_guests(operation: Record) -> None:
        for instance in call.cloud.store.find("instances", call.project):
            if instance.body["status"] == "RUNNING":
                await call.cloud.machines.metadata_changed(instance.body["id"])

    operations = call.cloud.operations
    operation = operations.create(
        "compute.projects.setCommonInstanceMetadata",
        record.key,
        record.body["id"],
        request_id=call.query.get("requestId"),
        scope=urls.GLOBAL,
    )
    operation.body["targetLink"] = record.body["selfLink"]
    answer = dict(operation.body)
    operations.start(operation, notify_guests)
    return answer


async def get_zone(call: Call) -> Json:
    """zones.get."""
    zone = call.path["zone"]
    if zone not in call.cloud.catalog.zones:
        raise not_found(f"projects/{call.project}/zones/{zone}")
    return _zone(call, zone)


async def list_zones(call: Call) -> Json:
    """zones.list."""
    zones = [_zone(call, zone) for zone in call.cloud.catalog.zones]
    return paging.make_page("compute#zoneList", call.url_path, zones, call.query)


async def get_region(call: Call) -> Json:
    """regions.get, with the project's quotas there."""
    region = call.path["region"]
    if region not in call.cloud.catalog.regions:
        raise not_found(f"projects/{call.project}/regions/{region}")
    return _region(call, region)


async def list_regions(call: Call) -> Json:
    """regions.list."""
    regions = [_region(call, region) for region in call.cloud.catalog.regions]
    return paging.make_page("compute#regionList", call.url_path, regions, call.query)


def _zone(call: Call, zone: str) -> Json:
    return {
        "kind": "compute#zone",
        "id": urls.stable_id("zone", zone),
        "creationTimestamp": _BORN,
        "name": zone,
        "description": zone,
        "status": "UP",
        "region": f"{urls.ROOT}projects/{call.project}/regions/{urls.region_of(zone)}",
        "selfLink": urls.zone_link(call.project, zone),
        "availableCpuPlatforms": ["Intel Broadwell", "Intel Skylake", "Intel Cascade Lake"],
        "supportsPzs": False,
    }


def _region(call: Call, region: str) -> Json:
    return {
        "kind": "compute#region",
        "id": urls.stable_id("region", region),
        "creationTimestamp": _BORN,
        "name": region,
        "description": region,
        "status": "UP",
        "zones": [
            urls.zone_link(call.project, zone) for zone in call.cloud.catalog.zones_of(region)
        ],
        "quotas": call.cloud.quotas.of_region(call.project, region),
        "selfLink": f"{urls.ROOT}projects/{call.project}/regions/{region}",
        "supportsPzs": False,
    }


METHODS: dict[str, Handler] = {
    "compute.projects.get": get_project,
    "compute.projects.setCommonInstanceMetadata": set_common_metadata,
    "compute.zones.get": get_zone,
    "compute.zones.list": list_zones,
    "compute.regions.get": get_region,
    "compute.regions.list": list_regions,
}
