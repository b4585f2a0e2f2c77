"""Firewall rules and the one network, `default`, with the rules that Google gives it.

The rules decide which connections reach port 22 of the machines (cloud/firewall.py); their other
ports cannot be reached at all.
"""

from __future__ import annotations

import ipaddress
import re

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..errors import ApiError, Json, bad_request, invalid_field, not_found
from ..http import paging, urls
from ..store import Key, Record
from . import instance_body, stored

_BORN = "2015-01-01T00:00:00.000-08:00"
PORT_LIMIT = 65535  # of priorities, too
_OUTPUT_ONLY = ("kind", "id", "creationTimestamp", "selfLink")
_WITH_PORTS = ("tcp", "6", "udp", "17", "sctp", "132")
_PROTOCOLS = ("all", "tcp", "udp", "icmp", "esp", "ah", "sctp", "ipip")
_DEFAULTS: dict[str, tuple[list[Json], list[str]]] = {
    "default-allow-icmp": ([{"IPProtocol": "icmp"}], ["0.0.0.0/0"]),
    "default-allow-internal": (
        [
            {"IPProtocol": "tcp", "ports": ["0-65535"]},
            {"IPProtocol": "udp", "ports": ["0-65535"]},
            {"IPProtocol": "icmp"},
        ],
        ["10.128.0.0/9"],
    ),
    "default-allow-rdp": ([{"IPProtocol": "tcp", "ports": ["3389"]}], ["0.0.0.0/0"]),
    "default-allow-ssh": ([{"IPProtocol": "tcp", "ports": ["22"]}], ["0.0.0.0/0"]),
}


async def insert(call: Call) -> Json:
    """firewalls.insert."""
    _ensure_defaults(call)
    key = call.new_key("firewalls")
    body = _complete(call, key, dict(call.body))
    record = Record(key, body)
    call.cloud.store.save(record)
    await call.cloud.firewall.apply_rules(call.project)
    return call.done("insert", record)


async def patch(call: Call) -> Json:
    """firewalls.patch: the given fields replace the old ones."""
    _ensure_defaults(call)
    record = call.find("firewalls", call.path["firewall"])
    kept = dict(record.body)
    if call.body.get("allowed"):
        kept.pop("denied", None)
    if call.body.get("denied"):
        kept.pop("allowed", None)
    return await _replace(call, record, kept | call.body)


async def update(call: Call) -> Json:
    """firewalls.update: the given fields are the whole rule."""
    _ensure_defaults(call)
    return await _replace(call, call.find("firewalls", call.path["firewall"]), dict(call.body))


async def _replace(call: Call, record: Record, body: Json) -> Json:
    if body.get("name", record.key.name) != record.key.name:
        raise invalid_field("resource.name", body["name"], "The name cannot be changed.")
    shown = _complete(call, record.key, body)
    changed = Record(record.key, shown | {k: record.body[k] for k in _OUTPUT_ONLY})
    call.cloud.store.save(changed)
    await call.cloud.firewall.apply_rules(call.project)
    return call.done(call.method.rpartition(".")[2], changed)


async def get(call: Call) -> Json:
    """firewalls.get."""
    _ensure_defaults(call)
    return call.find("firewalls", call.path["firewall"]).body


async def list_firewalls(call: Call) -> Json:
    """firewalls.list."""
    _ensure_defaults(call)
    found = call.cloud.store.find("firewalls", call.project)
    return paging.make_page(
        "compute#firewallList", call.url_path, [r.body for r in found], call.query
    )


async def delete(call: Call) -> Json:
    """firewalls.delete."""
    _ensure_defaults(call)
    record = call.find("firewalls", call.path["firewall"])
    call.cloud.store.delete(record.key)
    await call.cloud.firewall.apply_rules(call.project)
    return call.done("delete", record)


async def get_network(call: Call) -> Json:
    """networks.get: `default` or nothing."""
    if call.path["network"] != "default":
        raise not_found(f"projects/{call.project}/global/networks/{call.path['network']}")
    return _network(call)


async def list_networks(call: Call) -> Json:
    """networks.list."""
    return paging.make_page("compute#networkList", call.url_path, [_network(call)], call.query)


async def get_subnetwork(call: Call) -> Json:
    """subnetworks.get: the one of the region, `default`, or nothing."""
    region, name = call.path["region"], call.path["subnetwork"]
    if name != "default" or region not in call.cloud.catalog.regions:
        raise not_found(f"projects/{call.project}/regions/{region}/subnetworks/{name}")
    return _subnetwork(call, region)


async def list_subnetworks(call: Call) -> Json:
    """subnetworks.list."""
    found = [_subnetwork(call, call.scope.removeprefix("regions/"))]
    return paging.make_page("compute#subnetworkList", call.url_path, found, call.query)


async def list_all_subnetworks(call: Call) -> Json:
    """subnetworks.aggregatedList."""
    scopes = {f"regions/{r}": [_subnetwork(call, r)] for r in call.cloud.catalog.regions}
    return stored.aggregate(call, "subnetworks", "subnetwork", scopes)


def _subnetwork(call: Call, region: str) -> Json:
    return {
        "kind": "compute#subnetwork",
        "id": urls.stable_id("subnetwork", call.project, region),
        "creationTimestamp": _BORN,
        "name": "default",
        "network": urls.link(call.project, urls.GLOBAL, "networks", "default"),
        "ipCidrRange": f"10.{128 + 2 * call.cloud.catalog.regions.index(region)}.0.0/20",
        "region": f"{urls.ROOT}projects/{call.project}/regions/{region}",
        "selfLink": urls.link(call.project, f"regions/{region}", "subnetworks", "default"),
        "privateIpGoogleAccess": False,
        "purpose": "PRIVATE",
        "stackType": "IPV4_ONLY",
    }


def _complete(call: Call, key: Key, body: Json) -> Json:
    """Return the rule that a request describes; ApiError(400) for one that Google refuses."""
    body = {name: value for name, value in body.items() if name not in _OUTPUT_ONLY and value != []}
    if ("allowed" in body) == ("denied" in body):
        raise bad_request("Exactly one of allowed and denied must be specified for a firewall.")
    network = body.get("network", "global/networks/default")
    if urls.last(network) != "default":
        raise not_found(f"projects/{key.project}/global/networks/{urls.last(network)}")
    egress = body.get("direction") == "EGRESS"
    for name in ("sourceRanges", "sourceTags", "sourceServiceAccounts"):
        if egress and name in body:
            raise bad_request(f"{name} cannot be specified for a firewall with direction EGRESS.")
    if not egress and not (body.get("sourceRanges") or body.get("sourceTags")):
        body["sourceRanges"] = ["0.0.0.0/0"]
    _check(body)
    return {
        "kind": "compute#firewall",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "priority": 1000,
        "direction": "INGRESS",
        "disabled": False,
        "logConfig": {"enable": False},
        **body,
        "name": key.name,
        "network": urls.link(key.project, urls.GLOBAL, "networks", "default"),
        "selfLink": urls.ROOT + key.path,
    }


def _check(body: Json) -> None:
    """Raise ApiError(400) for a priority, protocol, port, range or tag that means nothing."""
    if not 0 <= body.get("priority", 1000) <= PORT_LIMIT:
        raise invalid_field(
            "resource.priority", body["priority"], f"Must be between 0 and {PORT_LIMIT}, inclusive"
        )
    verb = "allowed" if "allowed" in body else "denied"
    for index, rule in enumerate(body[verb]):
        field = f"resource.{verb}[{index}]"
        if not rule.get("IPProtocol"):
            raise ApiError(400, "required", f"Required field '{field}.IPProtocol' not specified")
        protocol = rule["IPProtocol"].lower()
        if protocol not in _PROTOCOLS and not _is_number(protocol, 255):
            raise invalid_field(
                f"{field}.IPProtocol", rule["IPProtocol"], "Must be a known protocol or its number."
            )
        for place, text in enumerate(rule.get("ports", ())):
            if protocol not in _WITH_PORTS:
                raise invalid_field(
                    f"{field}.ports[{place}]",
                    text,
                    "Ports may only be specified on rules whose protocol is one of "
                    "[TCP, UDP, SCTP].",
                )
            first, _, last = text.partition("-")
            ends = (first, last) if "-" in text else (first, first)
            if not all(_is_number(end, PORT_LIMIT) for end in ends) or int(ends[0]) > int(ends[1]):
                raise invalid_field(
                    f"{field}.ports[{place}]",
                    text,
                    f"Must be an integer or a range of integers between 0 and {PORT_LIMIT}.",
                )
    for name in ("sourceRanges", "destinationRanges"):
        for index, text in enumerate(body.get(name, ())):
            try:
                ipaddress.ip_network(text, strict=False)
            except ValueError:
                raise invalid_field(
                    f"resource.{name}[{index}]", text, "Must be a valid CIDR address range."
                ) from None
    for name in ("sourceTags", "targetTags"):
        for index, tag in enumerate(body.get(name, ())):
            instance_body.check_name(f"resource.{name}[{index}]", tag)


def _is_number(text: str, limit: int) -> bool:
    return re.fullmatch("[0-9]{1,5}", text) is not None and int(text) <= limit


def _ensure_defaults(call: Call) -> None:
    """Give a project its default rules once; deleted ones stay deleted."""
    marker = Key(call.project, "networks", urls.GLOBAL, "default")
    if call.cloud.store.get(marker):
        return
    call.cloud.store.save(Record(marker, _network(call)))
    for name, (allowed, ranges) in _DEFAULTS.items():
        key = Key(call.project, "firewalls", urls.GLOBAL, name)
        rule: Json = {"name": name, "allowed": allowed, "sourceRanges": ranges, "priority": 65534}
        call.cloud.store.save(Record(key, _complete(call, key, rule)))


def _network(call: Call) -> Json:
    return {
        "kind": "compute#network",
        "id": urls.stable_id("network", call.project),
        "creationTimestamp": _BORN,
        "name": "default",
        "description": "Default network for the project",
        "autoCreateSubnetworks": True,
        "selfLink": urls.link(call.project, urls.GLOBAL, "networks", "default"),
        "routingConfig": {"routingMode": "REGIONAL"},
        "subnetworks": [
            urls.link(call.project, f"regions/{region}", "subnetworks", "default")
            for region in call.cloud.catalog.regions
        ],
    }


METHODS: dict[str, Handler] = {
    "compute.firewalls.insert": insert,
    "compute.firewalls.patch": patch,
    "compute.firewalls.update": update,
    "compute.firewalls.get": get,
    "compute.firewalls.list": list_firewalls,
    "compute.firewalls.delete": delete,
    "compute.networks.get": get_network,
    "compute.networks.list": list_networks,
    "compute.subnetworks.get": get_subnetwork,
    "compute.subnetworks.list": list_subnetworks,
    "compute.subnetworks.aggregatedList": list_all_subnetworks,
}
