"""Static external addresses: reserved in a region, listed, labelled and released.

Instances never use one: each has an ephemeral address.
"""

from __future__ import annotations

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..cloud.metadata import fingerprint
from ..errors import Json, bad_request
from ..http import urls
from ..store import Record
from . import instance_body, stored


async def insert(call: Call) -> Json:
    """addresses.insert: an external IPv4 address."""
    key = call.new_key("addresses")
    instance_body.check_name("resource.name", key.name)
    if call.body.get("addressType", "EXTERNAL") != "EXTERNAL":
        raise bad_request("The emulator reserves external addresses only.")
    labels = instance_body.check_labels(call.body.get("labels", {}))
    taken = {record.body["address"] for record in call.cloud.store.find("addresses")}
    body: Json = {
        "kind": "compute#address",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        # from RFC 5737's blocks for documentation, which no host has
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


async def delete(call: Call) -> Json:
    """addresses.delete."""
    record = call.find("addresses", call.path["address"])
    call.cloud.store.delete(record.key)
    return call.done("delete", record)


METHODS: dict[str, Handler] = {
    "compute.addresses.insert": insert,
    "compute.addresses.get": stored.get_one("addresses", "address"),
    "compute.addresses.list": stored.list_scope("addresses", "address"),
    "compute.addresses.aggregatedList": stored.list_scopes("addresses", "address", regional=True),
    "compute.addresses.delete": delete,
    "compute.addresses.setLabels": stored.set_labels("addresses"),
}
