"""What happened in a Google project lately: the operations that turn things on, off, or away."""

from __future__ import annotations

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.responses import aggregated, time_of
from vmctl.domain.money.ledger import POWER_CHANGES, OperationEvent


def list_events(compute: Compute) -> list[OperationEvent]:
    """Every such operation that Google still keeps and that ended well, of whomever."""
    kinds = " OR ".join(f'(operationType = "{kind}")' for kind in POWER_CHANGES)
    found = []
    for page in compute.pages("globalOperations", "aggregatedList", filter=kinds):
        for item in aggregated(page, "operations"):
            turn = POWER_CHANGES.get(item.get("operationType", ""))
            at = time_of(item.get("endTime") or item.get("insertTime"))
            done = item.get("status") == "DONE" and "error" not in item
            if turn is not None and at is not None and done:
                found.append(OperationEvent(str(item.get("targetId", "")), turn, at))
    return found
