"""Instance templates: the properties of instances to be made, kept under a name."""

from __future__ import annotations

from typing import Any

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..errors import ApiError, Json, invalid_field
from ..http import urls
from ..store import Key, Record
from . import instance_body, stored


async def insert(call: Call) -> Json:
    """instanceTemplates.insert; zones and what they offer are looked at when it is used."""
    key = call.new_key("instanceTemplates")
    instance_body.check_name("resource.name", key.name)
    if "sourceInstance" in call.body:
        raise ApiError(400, "notImplemented", "The emulator does not support sourceInstance.")
    properties = call.body.get("properties", {})
    machine = properties.get("machineType", "")
    if not machine or "/" in machine:
        raise invalid_field(
            "resource.properties.machineType", machine, "The name of a machine type is required."
        )
    for field in ("disks", "networkInterfaces"):
        if not properties.get(field):
            raise invalid_field(f"resource.properties.{field}", "", "At least one is required.")
    if not properties["disks"][0].get("boot"):
        raise invalid_field("resource.properties.disks", "", "The first must be the boot disk.")
    instance_body.check_labels(properties.get("labels", {}), "resource.properties.labels")
    properties["metadata"] = instance_body.check_metadata(properties.get("metadata", {}))
    body: Json = {
        "kind": "compute#instanceTemplate",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        "description": call.body.get("description", ""),
        "properties": properties,
        "selfLink": urls.ROOT + key.path,
    }
    record = Record(key, body)
    call.cloud.store.save(record)
    return call.done("insert", record)


async def delete(call: Call) -> Json:
    """instanceTemplates.delete: what was made from it stays."""
    record = call.find("instanceTemplates", call.path["instanceTemplate"])
    call.cloud.store.delete(record.key)
    return call.done("delete", record)


def resolve(call: Call, field: str, text: str) -> Json:
    """Return the properties of the template that a URL names; ApiError(400) without one."""
    key = Key(call.project, "instanceTemplates", urls.GLOBAL, urls.last(text))
    record = call.cloud.store.look_up(key)
    if record is None:
        raise invalid_field(field, text, "The referenced instance template cannot be found.")
    properties: Json = record.body["properties"]
    return properties


def merge(old: Any, new: Any) -> Any:
    """Return a JSON Merge Patch's outcome (RFC 7396), for patches without null."""
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    return old | {name: merge(old.get(name), value) for name, value in new.items()}


METHODS: dict[str, Handler] = {
    "compute.instanceTemplates.insert": insert,
    "compute.instanceTemplates.get": stored.get_one("instanceTemplates", "instanceTemplate"),
    "compute.instanceTemplates.list": stored.list_scope("instanceTemplates", "instanceTemplate"),
    "compute.instanceTemplates.aggregatedList": stored.list_scopes(
        "instanceTemplates", "instanceTemplate", regional=True, first=(urls.GLOBAL,)
    ),
    "compute.instanceTemplates.delete": delete,
}
