"""Operations as resources: get, list and wait, in zones, in regions and globally."""

from __future__ import annotations

from ..cloud.call import Call, Handler
from ..errors import Json
from ..http import paging, urls
from . import stored


async def wait(call: Call) -> Json:
    """Return the operation once it is DONE, or as it is after two minutes."""
    record = call.find("operations", call.path["operation"])
    await call.cloud.operations.wait(record)
    return record.body


async def list_operations(call: Call) -> Json:
    """zoneOperations.list and its two siblings, the oldest first."""
    found = call.cloud.store.find("operations", call.project, call.scope)
    bodies = sorted((r.body for r in found), key=lambda body: str(body["insertTime"]))
    return paging.make_page("compute#operationList", call.url_path, bodies, call.query)


METHODS: dict[str, Handler] = {
    "compute.globalOperations.aggregatedList": stored.list_scopes(
        "operations", "operation", first=(urls.GLOBAL,)
    ),
    **{
        f"compute.{place}Operations.{name}": handler
        for place in ("zone", "region", "global")
        for name, handler in (
            ("get", stored.get_one("operations", "operation")),
            ("wait", wait),
            ("list", list_operations),
        )
    },
}
