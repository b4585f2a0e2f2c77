"""Firewall rules and the one network, `default`, with the rules that Google gives it.

The rules decide which connections reach port 22 of the machines (cloud/firewall.py); their other
ports cannot be reached at all.
"""

from __future__ import annotations

from ..clock import stamp
from ..cloud.call import Call, Handler
from ..errors import Json, bad_request, invalid_field, not_found
from ..http import paging, urls
from ..store import Key, Record

_BORN = "2015-01-01T00:00:00.000-08:00"
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
    changed = {name: value for name, value in call.body.items() if name not in ("id", "selfLink")}
    if changed.get("name", record.key.name) != record.key.name:
        raise invalid_field("resource.name", changed["name"], "The name cannot be changed.")
    if "allowed" in changed:
        record.body.pop("denied", None)
    if "denied" in changed:
        record.body.pop("allowed", None)
    record.body = _complete(call, record.key, record.body | changed)
    call.cloud.store.save(record)
    await call.cloud.firewall.apply_rules(call.project)
    return call.done("patch", record)


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
    if ("allowed" in body) == ("denied" in body):
        raise bad_request("Exactly one of allowed and denied must be specified for a firewall.")
    network = body.get("network", "global/networks/default")
    if urls.last(network) != "default":
        raise not_found(f"projects/{key.project}/global/networks/{urls.last(network)}")
    body["network"] = urls.link(key.project, urls.GLOBAL, "networks", "default")
    if body.get("direction", "INGRESS") == "INGRESS" and not (
        body.get("sourceRanges") or body.get("sourceTags")
    ):
        body["sourceRanges"] = ["0.0.0.0/0"]
    return {
        "kind": "compute#firewall",
        "id": urls.new_id(),
        "creationTimestamp": stamp(call.cloud.clock.now()),
        "priority": 1000,
        "direction": "INGRESS",
        "disabled": False,
        "logConfig": {"enable": False},
        **body,
        "selfLink": urls.ROOT + key.path,
    }


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
    "compute.firewalls.get": get,
    "compute.firewalls.list": list_firewalls,
    "compute.firewalls.delete": delete,
    "compute.networks.get": get_network,
    "compute.networks.list": list_networks,
    "compute.subnetworks.get": get_subnetwork,
}
