"""Something that Google is doing: asked for now, finished later."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.domain.google.api_errors import ApiError


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as last seen; `failure` may be set only once it is done.

    A refusal at once (an HTTP error in answer to the request) reads as an operation that is
    done and failed: Google delivers the same refusals both ways.
    """

    name: str
    kind: str  # insert, start, stop, delete, setMetadata …
    zone: str  # "" for an operation of a region or of the whole project
    target: str  # the VM's name
    is_done: bool
    status_message: str = ""
    failure: ApiError | None = None
    region: str = ""


def refused(kind: str, zone: str, target: str, failure: ApiError) -> Operation:
    """The operation that a refused request would have been."""
    return Operation("", kind, zone, target, is_done=True, failure=failure)
