"""Permissions in other projects: Google's public ones, whose images everyone may read."""

from __future__ import annotations

from ..cloud.catalog import IMAGES
from ..errors import ApiError

PUBLIC_PROJECTS = frozenset(image.project for image in IMAGES)
_OPEN = ("compute.images.", "compute.imageFamilyViews.", "compute.licenses.")
_PERMISSION_OF = {"insert": "create", "aggregatedList": "list", "patch": "update"}


def check_permission(method: str, project: str | None, path: str) -> None:
    """Raise ApiError(403) for calls to Google's own projects other than reading images."""
    if project not in PUBLIC_PROJECTS:
        return
    service, collection, verb = method.split(".")
    reads = verb in ("get", "getFromFamily", "list")
    if reads and method.startswith(_OPEN):
        return
    permission = f"{service}.{collection}.{_PERMISSION_OF.get(verb, verb)}"
    on_collection = verb in ("list", "aggregatedList", "insert")
    resource = f"projects/{project}" if on_collection else path
    raise ApiError(403, "forbidden", f"Required '{permission}' permission for '{resource}'")
