"""Static external addresses: reserved in a region, listed, labelled and given back.

No instance uses one: an instance's own address comes and goes with it.
"""

from __future__ import annotations

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..cloud.metadata import fingerprint
from ..errors import Json, already_exists, bad_request
from ..http import paging, urls
from ..store import Record
from . import instance_body


async def insert(call: Call) -> Json:
    """addresses.insert: an external IPv4 address."""
    key = call.key("addresses", call.require_name())
    instance_body.check_name("resource.name", key.name)
    if call.cloud.store.get(key):
        raise already_exists(key.path)
    if call.body.get("addressType", "EXTERNAL") != "EXTERNAL":
        raise bad_request("The emulator reserves external addresses only.")
    labels = instance_body.labels(call.body.get("labels", {}))
    taken = {record.body["address"] for record in call.cloud.store.find("addresses")}
    body: Json = {
        "kind": "compute#address",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        # of the block that RFC 5737 keeps for documentation: nobody is reached by mistake
        "address": next(a for a in map(_address, range(1, 768)) if a not in taken),
        "addressType": "EXTERNAL",
        "networkTier": call.body.get("networkTier", "PREMIUM"),
        "ipVersion": "IPV4",
        "status": "RESERVED",
        "region": f"{urls.ROOT}projects/{call.project}/{key.scope}",
        "selfLink": urls.ROOT + key.path,
        "labelFingerprint": fingerprint(labels),
    }
    if labels:
        body["labels"] = labels
    if "description" in call.body:
        body["description"] = call.body["description"]
    record = Record(key, body)
    call.cloud.store.save(record)
    return call.done("insert", record)


def _address(number: int) -> str:
    blocks = ("192.0.2", "198.51.100", "203.0.113")
    return f"{blocks[number // 256 % len(blocks)]}.{number % 256}"


async def get(call: Call) -> Json:
    """addresses.get."""
    return call.find("addresses", call.path["address"]).body


async def list_addresses(call: Call) -> Json:
    """addresses.list."""
    found = call.cloud.store.find("addresses", call.project, call.scope)
    return paging.page("compute#addressList", call.url_path, [r.body for r in found], call.query)


async def aggregated(call: Call) -> Json:
    """addresses.aggregatedList."""
    scopes: dict[str, list[Json]] = {f"regions/{r}": [] for r in call.cloud.catalog.regions}
    for record in call.cloud.store.find("addresses", call.project):
        scopes.setdefault(record.key.scope, []).append(record.body)
    return paging.aggregated(
        "compute#addressAggregatedList", call.url_path, "addresses", scopes, call.query
    )


async def delete(call: Call) -> Json:
    """addresses.delete."""
    record = call.find("addresses", call.path["address"])
    call.cloud.store.delete(record.key)
    return call.done("delete", record)


async def set_labels(call: Call) -> Json:
    """addresses.setLabels, with the current fingerprint."""
    return instance_body.update_labels(call, call.find("addresses", call.path["resource"]))


METHODS: dict[str, Handler] = {
    "compute.addresses.insert": insert,
    "compute.addresses.get": get,
    "compute.addresses.list": list_addresses,
    "compute.addresses.aggregatedList": aggregated,
    "compute.addresses.delete": delete,
    "compute.addresses.setLabels": set_labels,
}
