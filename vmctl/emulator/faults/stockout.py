"""Google's error for a zone without capacity, word for word."""

from __future__ import annotations

from ..errors import OperationError
from ..http import urls

HELP = {
    "description": "Troubleshooting documentation",
    "url": "https://cloud.google.com/compute/docs/resource-error",
}


def stockout_error(
    place: str, machine: str, gpu: str | None, count: int, others: list[str], *, plain: bool
) -> OperationError:
    """Return the error for a machine that `place`, `projects/P/zones/Z`, cannot give.

    `others` are the zones that could; `plain` asks for the error without details."""
    start = f"The zone '{place}' does not have enough resources available to fulfill the request.  "
    if plain:
        return OperationError(
            "ZONE_RESOURCE_POOL_EXHAUSTED",
            start + "Try a different zone, or try again later.",
            http_code=503,
            http_message="SERVICE UNAVAILABLE",
        )
    zone = urls.last(place)
    carrying = f" with {count} {gpu} accelerator(s)" if gpu else ""
    consider = (
        f"Consider trying your request in the {', '.join(others)} zone(s), which currently has "
        "capacity to accommodate your request. Alternatively, try"
        if others
        else "Alternatively, try"
    )
    message = (
        f"A {machine} VM instance{carrying} is currently unavailable in the {zone} zone. {consider}"
        " your request again with a different VM hardware configuration or at a later time."
    )
    metadatas = {"vmType": machine, "zone": zone, "zonesAvailable": ",".join(others)}
    if gpu:
        metadatas["attachment"] = f"{gpu}:{count}"
    reason = {
        "reason": "resource_availability",
        "domain": "compute.googleapis.com",
        "metadatas": metadatas,
    }
    return OperationError(
        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
        start + "'NULL:0/NULL:0/NULL:0 (state:STOCKOUT, sub-state:STOCKOUT, "
        "resource type:compute)'.",
        http_code=503,
        http_message="SERVICE UNAVAILABLE",
        details=[
            {"help": {"links": [HELP]}},
            {"localizedMessage": {"locale": "en-US", "message": message}},
            {"errorInfo": reason},
        ],
    )
