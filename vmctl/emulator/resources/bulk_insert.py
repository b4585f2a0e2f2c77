"""Many instances by one call: named by a pattern or one by one, and made all or not at all.

Each has an insert operation of its own, in the group of the call's operation, which is where
clients look for what became of them.
"""

from __future__ import annotations

import asyncio
import copy
import re
import uuid
from dataclasses import replace
from typing import Any

from ..cloud.call import Call, Handler
from ..errors import Json, OperationError, already_exists, bad_request, invalid_field
from ..http import urls
from ..store import Key, Record
from . import instance_body, instance_templates, instances

MOST = 1000
_PATTERN = re.compile(r"([^#]*)(#+)([^#]*)")


async def bulk_insert(call: Call) -> Json:
    """instances.bulkInsert: all checks come before anything is saved."""
    names, least = _choose_names(call)
    properties = call.body.get("instanceProperties", {})
    if template := call.body.get("sourceInstanceTemplate"):
        field = "resource.sourceInstanceTemplate"
        properties = instance_templates.merge(
            instance_templates.resolve(call, field, template), properties
        )
    if not properties:
        raise invalid_field("resource.instanceProperties", "", "Instance properties are required.")
    each = call.body.get("perInstanceProperties", {})
    made = []
    addresses = instance_body.list_free_addresses(call, urls.region_of(call.path["zone"]))
    for name in names:
        hostname = {key: text for key, text in each.get(name, {}).items() if key == "hostname"}
        body = copy.deepcopy(properties) | hostname | {"name": name}
        record, used = instances.build(replace(call, body=body))
        if len(names) > 1 and "static_ip" in record.private:
            raise bad_request("A static external address can be given to one instance only.")
        for interface in record.body["networkInterfaces"]:
            interface["networkIP"] = next(addresses)  # of those to come, none is saved yet
        made.append((record, used))
    return _begin(call, made, least)


def _choose_names(call: Call) -> tuple[list[str], int]:
    """Return the names of the instances, and how many of them there must be in the end."""
    pattern, each = call.body.get("namePattern"), call.body.get("perInstanceProperties", {})
    if not pattern and not each:
        raise bad_request("Either namePattern or perInstanceProperties must be specified.")
    count = int(call.body.get("count", len(each)))
    if not 1 <= count <= MOST:
        raise invalid_field("resource.count", count, f"Must be between 1 and {MOST}, inclusive")
    least = int(call.body.get("minCount", count))
    if not 1 <= least <= count:
        raise invalid_field("resource.minCount", least, f"Must be between 1 and {count}, inclusive")
    if len(each) > count or (not pattern and len(each) != count):
        raise invalid_field(
            "resource.perInstanceProperties", len(each), f"Must name {count} instances, as count."
        )
    names = [*each]
    if pattern and len(names) < count:
        names += _number(call, pattern, count - len(names))
    for name in names:
        instance_body.check_name("resource.name", name)
        key = call.key("instances", name)
        if call.cloud.store.get(key):
            raise already_exists(key.path)
    return names, least


def _number(call: Call, pattern: str, count: int) -> list[str]:
    """Return names by a pattern, numbered on from the greatest number that exists."""
    match = _PATTERN.fullmatch(pattern)
    if match is None:
        raise invalid_field(
            "resource.namePattern", pattern, "Must contain one continuous sequence of '#'."
        )
    before, digits, after = match.groups()
    like = re.compile(f"{re.escape(before)}([0-9]{{{len(digits)}}}){re.escape(after)}")
    found = call.cloud.store.find("instances", call.project, call.scope)
    taken = [int(one[1]) for record in found if (one := like.fullmatch(record.key.name))]
    first = max(taken, default=0) + 1
    if first + count > 10 ** len(digits):
        raise invalid_field(
            "resource.namePattern", pattern, f"Has too few digits for {count} more instances."
        )
    return [f"{before}{number:0{len(digits)}}{after}" for number in range(first, first + count)]


def _begin(call: Call, made: list[tuple[Record, list[Record]]], least: int) -> Json:
    operations, zone = call.cloud.operations, call.path["zone"]
    group = str(uuid.uuid4())
    target = Key(call.project, "zones", "", zone)
    whole = operations.create(
        "bulkInsert",
        target,
        urls.stable_id("zone", zone),
        request_id=call.query.get("requestId"),
        scope=call.scope,
        group=group,
    )
    whole.body["targetLink"] = urls.zone_link(call.project, zone)
    call.cloud.store.save(whole)
    parts = []
    for record, used in made:
        part = operations.create(
            "insert", record.key, record.body["id"], scope=call.scope, group=group
        )
        instances.save(call, record, used)
        parts.append((part, record))
    answer = dict(whole.body)

    async def work(operation: Record) -> None:
        await _make(call, operation, parts, least)

    operations.start(whole, work)
    return answer


async def _make(call: Call, whole: Record, parts: list[tuple[Record, Record]], least: int) -> None:
    """Boot the instances; fewer than the least are deleted again, and the operation fails."""
    lifecycle, operations = call.lifecycle, call.cloud.operations
    errors: dict[str, OperationError] = {}

    async def make(part: Record, record: Record) -> None:
        try:
            await lifecycle.insert(part, record)
        except OperationError as error:
            errors[part.key.name] = error

    fitting = list(parts)
    while len(fitting) > least and (error := _exceeds(call, fitting[-1][1])) is not None:
        part, record = fitting.pop()
        errors[part.key.name] = error
        await lifecycle.discard(record)
    await asyncio.gather(*(make(*both) for both in fitting))
    first = next(iter(errors.values()), None)
    failed = first is not None and len(parts) - len(errors) < least
    status: dict[str, Any] = {
        "targetVmCount": len(parts),
        "createdVmCount": 0 if failed else len(parts) - len(errors),
        "deletedVmCount": len(parts) - len(errors) if failed else 0,
        "failedToCreateVmCount": len(errors),
        "status": "DONE",
    }
    for part, record in parts:
        if failed and part.key.name not in errors:
            await lifecycle.discard(record)
        operations.finish(part, errors.get(part.key.name, first if failed else None))
    whole.body["instancesBulkInsertOperationMetadata"] = {"perLocationStatus": {call.scope: status}}
    if failed and first is not None:
        raise first


def _exceeds(call: Call, record: Record) -> OperationError | None:
    try:
        call.cloud.quotas.check(record)
    except OperationError as error:
        return error
    return None


METHODS: dict[str, Handler] = {"compute.instances.bulkInsert": bulk_insert}
