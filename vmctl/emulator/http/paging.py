"""List replies as Compute Engine sends them: filtered, ordered, in pages, flat or by scope."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from typing import TypeVar

from ..errors import Json, invalid_field
from .filters import compile_filter
from .urls import ROOT

PAGE = 500
T = TypeVar("T")


def make_page(kind: str, path: str, resources: Iterable[Json], query: dict[str, str]) -> Json:
    """Return a list reply of `kind` (`compute#instanceList`) for the resources that match."""
    found, token = _cut(_wanted(resources, query), query)
    reply: Json = {"kind": kind, "id": path, "items": found, "selfLink": ROOT + path}
    if token:
        reply["nextPageToken"] = token
    if not found:
        del reply["items"]
    return reply


def make_aggregated(
    kind: str, path: str, field: str, scopes: dict[str, list[Json]], query: dict[str, str]
) -> Json:
    """Return an aggregated list: every scope is named, an empty one by Google's warning."""
    flat = [(scope, r) for scope, resources in scopes.items() for r in _wanted(resources, query)]
    found, token = _cut(flat, query)
    items: Json = {}
    for scope in scopes:
        here = [resource for where, resource in found if where == scope]
        items[scope] = {field: here} if here else {"warning": _no_results(scope)}
    reply: Json = {"kind": kind, "id": path, "items": items, "selfLink": ROOT + path}
    if token:
        reply["nextPageToken"] = token
    return reply


def _wanted(resources: Iterable[Json], query: dict[str, str]) -> list[Json]:
    matches = compile_filter(query.get("filter", ""))
    found = [resource for resource in resources if matches(resource)]
    order = query.get("orderBy", "")
    if order in ("creationTimestamp desc", "creationTimestamp desc,name"):
        found.sort(
            key=lambda r: str(r.get("creationTimestamp", r.get("insertTime", ""))), reverse=True
        )
    elif order not in ("", "name"):
        raise invalid_field("orderBy", order, "Only 'name' and 'creationTimestamp desc' are known.")
    return found


def _cut(found: list[T], query: dict[str, str]) -> tuple[list[T], str | None]:
    try:
        size = int(query.get("maxResults", PAGE))
        start = int(base64.urlsafe_b64decode(query.get("pageToken", "") + "==") or 0)
    except ValueError:
        raise invalid_field("pageToken", query.get("pageToken", ""), "Invalid page.") from None
    if not 0 <= size <= PAGE or start < 0:
        raise invalid_field("maxResults", size, f"Must be between 0 and {PAGE}, inclusive")
    end = start + (size or PAGE)
    token = base64.urlsafe_b64encode(str(end).encode()).decode().rstrip("=")
    return found[start:end], token if end < len(found) else None


def _no_results(scope: str) -> Json:
    return {
        "code": "NO_RESULTS_ON_PAGE",
        "message": f"There are no results for scope '{scope}' on this page.",
        "data": [{"key": "scope", "value": scope}],
    }
