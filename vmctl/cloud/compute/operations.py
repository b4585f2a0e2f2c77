"""Operations as Google reports them; one that is DONE with HTTP 200 may still have failed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.cloud.compute.responses import last_part, time_of
from vmctl.domain.google.api_errors import ApiError, classify
from vmctl.domain.google.operation import Operation
from vmctl.domain.google.stop_reason import EVENTS, SystemEvent

if TYPE_CHECKING:
    from vmctl.domain.money.ledger import OperationEvent


def operation_of(reply: Mapping[str, Any]) -> Operation:
    """An operation from the reply that announced it, or from a later look."""
    return Operation(
        name=reply["name"],
        kind=reply.get("operationType", ""),
        zone=last_part(reply.get("zone", "")),
        target=last_part(reply.get("targetLink", "")),
        is_done=reply.get("status") == "DONE",
        status_message=reply.get("statusMessage", ""),
        failure=_failure(reply),
        region=last_part(reply.get("region", "")),
    )


def event_of(reply: Mapping[str, Any]) -> SystemEvent | None:
    """What Google did to a VM by itself, from an operation of its own; None for any other."""
    at = time_of(reply.get("insertTime") or reply.get("startTime"))
    kind = reply.get("operationType", "")
    if kind not in EVENTS or at is None:
        return None
    return SystemEvent(kind, str(reply.get("targetId", "")), at)


def power_event_of(reply: Mapping[str, Any]) -> OperationEvent | None:
    """What an operation that ended well turned on, off, or away; None for any other."""
    from vmctl.domain.money.ledger import POWER_CHANGES, OperationEvent  # for the bill only

    change = POWER_CHANGES.get(reply.get("operationType", ""))
    at = time_of(reply.get("endTime") or reply.get("insertTime"))
    done = reply.get("status") == "DONE" and "error" not in reply
    if change is None or at is None or not done:
        return None
    return OperationEvent(str(reply.get("targetId", "")), change, at)


def _failure(reply: Mapping[str, Any]) -> ApiError | None:
    errors = reply.get("error", {}).get("errors", [])
    status = reply.get("httpErrorStatusCode")
    if not errors:
        if status is None:
            return None
        return classify(str(status), reply.get("httpErrorMessage", ""), http_status=status)
    first = errors[0]
    failure = classify(
        first.get("code", ""),
        first.get("message", ""),
        http_status=status,
        details=tuple(first.get("errorDetails", ())),
    )
    return replace(failure, message=_spoken(first) or failure.message)


def _spoken(error: Mapping[str, Any]) -> str:
    """Google's sentence for people where it sends one besides the technical text."""
    for detail in error.get("errorDetails", []):
        localized = detail.get("localizedMessage", {}).get("message")
        if localized:
            return " ".join(str(localized).split())
    return ""
