"""The API's methods, one module per kind of resource; each maps method ids to handlers."""

from __future__ import annotations

from ..cloud.call import Handler
from ..storage import bucket_methods, object_methods
from ..vertex import custom_jobs
from . import (
    access_configs,
    addresses,
    attached_disks,
    bulk_insert,
    catalog,
    disks,
    firewalls,
    iam,
    images,
    instance_hardware,
    instance_restarts,
    instance_templates,
    instances,
    operations,
    projects,
    snapshots,
)


def handlers() -> dict[str, Handler]:
    """Return every implemented method by its id in Google's discovery document."""
    table: dict[str, Handler] = {}
    modules = (
        instances, instance_hardware, instance_restarts, access_configs, attached_disks, iam,
        bulk_insert, instance_templates, disks, snapshots, images, addresses, catalog, operations,
        projects, firewalls, bucket_methods, object_methods, custom_jobs,
    )  # fmt: skip
    for module in modules:
        table |= module.METHODS
    return table
