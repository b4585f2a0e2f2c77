"""The API's methods, one module per kind of resource; each maps method ids to handlers."""

from __future__ import annotations

from ..cloud.call import Handler
from . import addresses, catalog, disks, firewalls, instances, operations, projects, snapshots


def handlers() -> dict[str, Handler]:
    """Return every implemented method by its id in Google's discovery document."""
    table: dict[str, Handler] = {}
    modules = (instances, disks, snapshots, addresses, catalog, operations, projects, firewalls)
    for module in modules:
        table |= module.METHODS
    return table
