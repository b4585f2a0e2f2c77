"""What a VM's watchdog tells through the API."""

from __future__ import annotations

from vmctl.cloud.compute.compute import Compute
from vmctl.domain.errors import AccessDenied, Conflict, InvalidInput, NotFound
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.watchdog import ATTRIBUTES, WatchReport


def watch_report(compute: Compute, instance: Instance) -> WatchReport | None:
    """What it saw last; None where it has not reported, or it may not be read."""
    try:
        (reply,) = compute.pages(
            "instances",
            "getGuestAttributes",
            zone=instance.zone,
            instance=instance.name,
            queryPath=ATTRIBUTES,
        )
    except (NotFound, AccessDenied, InvalidInput, Conflict):
        return None
    for item in reply.get("queryValue", {}).get("items", []):
        if item.get("key") == "watchdog":
            return WatchReport.parse(str(item.get("value", "")))
    return None
