"""The API's methods, one module per kind of resource; each maps method ids to handlers."""

from __future__ import annotations

from ..cloud import Handler
from . import disks, firewalls, instances, offers, operations, projects


def handlers() -> dict[str, Handler]:
    """Return every implemented method by its id in Google's discovery document."""
    table: dict[str, Handler] = {}
    for module in (instances, disks, offers, operations, projects, firewalls):
        table |= module.METHODS
    return table
