"""Operations as resources: asked for, listed and waited on, in zones, regions and globally."""

from __future__ import annotations

from ..cloud.call import Call, Handler
from ..errors import Json
from ..http import paging, urls
from .disks import by_zone


async def get(call: Call) -> Json:
    """zoneOperations.get, regionOperations.get and globalOperations.get."""
    return call.find("operations", call.path["operation"]).body


async def wait(call: Call) -> Json:
    """Return the operation once it is DONE, or as it is after two minutes."""
    record = call.find("operations", call.path["operation"])
    await call.cloud.operations.wait(record)
    return record.body


async def list_operations(call: Call) -> Json:
    """zoneOperations.list and its two siblings, the oldest first."""
    found = call.cloud.store.find("operations", call.project, call.scope)
    bodies = sorted((r.body for r in found), key=lambda body: str(body["insertTime"]))
    return paging.page("compute#operationList", call.url_path, bodies, call.query)


async def aggregated(call: Call) -> Json:
    """globalOperations.aggregatedList: of all zones, and the global ones."""
    scopes: dict[str, list[Json]] = {urls.GLOBAL: []}
    scopes |= by_zone(call, "operations")
    return paging.aggregated(
        "compute#operationAggregatedList", call.url_path, "operations", scopes, call.query
    )


METHODS: dict[str, Handler] = {
    "compute.globalOperations.aggregatedList": aggregated,
    **{
        f"compute.{place}Operations.{name}": handler
        for place in ("zone", "region", "global")
        for name, handler in (("get", get), ("wait", wait), ("list", list_operations))
    },
}
