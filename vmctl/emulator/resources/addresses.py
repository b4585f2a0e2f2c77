"""Static external addresses: reserved in a region, used by instances, labelled and released.

An address is in use while an instance has it, so that nothing is saved twice. Those that are not
asked for by number are of this computer, as the instances' own: machines listen there. A machine
whose address is any other shows it, and is reached through the Identity-Aware Proxy only.
"""

from __future__ import annotations

import ipaddress

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..cloud.metadata import fingerprint
from ..errors import ApiError, Json, bad_request, in_use, invalid_field
from ..http import paging, urls
from ..machines import random_address
from ..store import Record
from . import instance_body, stored


async def insert(call: Call) -> Json:
    """addresses.insert: an external IPv4 address."""
    key = call.new_key("addresses")
    instance_body.check_name("resource.name", key.name)
    if call.body.get("addressType", "EXTERNAL") != "EXTERNAL":
        raise bad_request("The emulator reserves external addresses only.")
    labels = instance_body.check_labels(call.body.get("labels", {}))
    address, user = _choose(call)
    body: Json = {
        "kind": "compute#address",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "name": key.name,
        "address": address,
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
    if user is not None:
        user.private["static_ip"] = address
        call.cloud.store.save(user)
    return call.done("insert", record)


def _choose(call: Call) -> tuple[str, Record | None]:
    """Return the address to reserve, and the instance that has it already."""
    store = call.cloud.store
    taken = {record.body["address"] for record in store.find("addresses")}
    users = {_shown_address(record): record for record in store.find("instances")}
    asked = call.body.get("address")
    if asked is None:
        chosen = iter(random_address, None)
        return next(a for a in chosen if a not in taken and a not in users), None
    try:
        ipaddress.IPv4Address(asked)
    except ValueError:
        raise invalid_field("resource.address", asked, "Must be a valid IPv4 address.") from None
    user = users.get(asked)
    elsewhere = user is not None and (user.key.project, _region(user)) != (
        call.project,
        call.path["region"],
    )
    if asked in taken or elsewhere:
        raise invalid_field(
            "resource.address", asked, "Specified IP address is already reserved or in use."
        )
    return asked, user


def _shown_address(instance: Record) -> str | None:
    for access in instance.body["networkInterfaces"][0].get("accessConfigs", ()):
        return str(access["natIP"]) if "natIP" in access else None
    return None


def _region(instance: Record) -> str:
    return urls.region_of(urls.last(instance.key.scope))


def check_free(call: Call, field: str, address: str, region: str) -> None:
    """Raise ApiError(400) unless an address is reserved in a region and no instance has it."""
    found = call.cloud.store.find("addresses", call.project, f"regions/{region}")
    reserved = next((record for record in found if record.body["address"] == address), None)
    if reserved is None:
        raise invalid_field(
            field,
            address,
            f"The specified external IP address '{address}' was not found in region '{region}'.",
        )
    if _users(call, reserved):
        raise ApiError(
            400,
            "resourceInUseByAnotherResource",
            f"IP '{address}' is already being used by another resource.",
        )


def _users(call: Call, record: Record) -> list[str]:
    return [
        str(instance.body["selfLink"])
        for instance in call.cloud.store.find("instances", record.key.project)
        if instance.private.get("static_ip") == record.body["address"]
    ]


def _show(call: Call, record: Record) -> Json:
    users = _users(call, record)
    return record.body | ({"status": "IN_USE", "users": users} if users else {})


async def get(call: Call) -> Json:
    """addresses.get."""
    return _show(call, call.find("addresses", call.path["address"]))


async def list_addresses(call: Call) -> Json:
    """addresses.list."""
    found = [_show(call, r) for r in call.cloud.store.find("addresses", call.project, call.scope)]
    return paging.make_page("compute#addressList", call.url_path, found, call.query)


async def list_all_addresses(call: Call) -> Json:
    """addresses.aggregatedList."""
    scopes: dict[str, list[Json]] = {f"regions/{r}": [] for r in call.cloud.catalog.regions}
    for record in call.cloud.store.find("addresses", call.project):
        scopes[record.key.scope].append(_show(call, record))
    return stored.aggregate(call, "addresses", "address", scopes)


async def delete(call: Call) -> Json:
    """addresses.delete: refused while an instance has it."""
    record = call.find("addresses", call.path["address"])
    for user in _users(call, record):
        raise in_use("address", record.key.path, user.removeprefix(urls.ROOT))
    call.cloud.store.delete(record.key)
    return call.done("delete", record)


METHODS: dict[str, Handler] = {
    "compute.addresses.insert": insert,
    "compute.addresses.get": get,
    "compute.addresses.list": list_addresses,
    "compute.addresses.aggregatedList": list_all_addresses,
    "compute.addresses.delete": delete,
    "compute.addresses.setLabels": stored.set_labels("addresses"),
}
