"""Evaluates the network's firewall rules: which machines can be reached at port 22, and whether
those of a network reach each other.

Rules count as on Compute Engine: the lowest priority number first, a deny before an allow, and
what no rule allows is denied. Every connection is taken to come from the internet: a rule that
allows some public addresses allows it, and a rule that denies only some does not concern it.
"""

from __future__ import annotations

import ipaddress
import logging

from ..errors import Json
from ..http import urls
from ..store import Key, Record, Store
from .machine_host import AsyncMachineHost

PORT = 22
INTERNAL = ipaddress.IPv4Network("10.128.0.0/9")  # the subnetworks of all regions
ALL_PORTS = {"0-65535", "1-65535"}
# Google's own: IAP's proxies and private networks; no public address is in them
_NOT_THE_INTERNET = [
    ipaddress.ip_network(text)
    for text in ("35.235.240.0/20", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]

log = logging.getLogger("vmctl.emulator")


class SshFirewall:
    """Opens and closes port 22 of the machines; used from the server's event loop only."""

    def __init__(self, store: Store, machines: AsyncMachineHost) -> None:
        self._store = store
        self._machines = machines
        self._blocked: set[str] = set()

    def is_open(self, record: Record) -> bool:
        """Whether an instance's port 22 can be reached from the internet now."""
        if not any(nic.get("accessConfigs") for nic in record.body["networkInterfaces"]):
            return False  # it has no address there
        return record.body["id"] not in self._blocked and allows_ssh(self._store, record)

    def block(self, record: Record) -> None:
        """Let no connection through in this boot before `unblock`."""
        self._blocked.add(record.body["id"])

    async def unblock(self, record: Record) -> None:
        """Let the firewall rules alone decide from now on."""
        self.clear(record)
        await self._machines.admit(record.body["id"], self.is_open(record))

    def clear(self, record: Record) -> None:
        """Forget a block: a new boot begins, or the instance was deleted."""
        self._blocked.discard(record.body["id"])

    async def apply_rules(self, project: str) -> None:
        """Apply changed firewall rules to the project's running machines."""
        is_open = allows_internal(self._store, project)
        await self._machines.open_network(network_name(project), is_open)
        for record in self._store.find("instances", project):
            if record.body["status"] == "RUNNING":
                await self._machines.admit(record.body["id"], self.is_open(record))


def allows_ssh(store: Store, record: Record, source: ipaddress.IPv4Network | None = None) -> bool:
    """Whether the rules of the instance's network allow tcp:22 from the internet.

    With `source`: from exactly these addresses."""
    project = record.key.project
    if _has_defaults(store, project):
        return True
    tags = set(record.body.get("tags", {}).get("items", ()))
    for rule in _in_order(store, project):
        if not _applies_to_ssh(rule, tags):
            continue
        ranges = rule.get("sourceRanges", ())
        if source is not None:
            if any(_contains(text, source) for text in ranges):
                return "allowed" in rule
            continue
        if "denied" in rule and "0.0.0.0/0" in ranges:
            return False
        if "allowed" in rule and any(map(_is_public, ranges)):
            return True
    return False


def allows_internal(store: Store, project: str) -> bool:
    """Whether the rules allow every TCP port among the network's own addresses.

    Rules for some ports or some machines only are left out: a network is open inside or is not."""
    if _has_defaults(store, project):
        return True
    for rule in _in_order(store, project):
        protocols = rule.get("allowed") or rule.get("denied") or ()
        whole = [p for p in protocols if p["IPProtocol"] in ("tcp", "6", "all")]
        whole = [p for p in whole if set(p.get("ports") or ALL_PORTS) & ALL_PORTS]
        concerned = rule["direction"] == "INGRESS" and not rule["disabled"]
        if not concerned or rule.get("targetTags") or not whole:
            continue
        if any(_contains(text, INTERNAL) for text in rule.get("sourceRanges", ())):
            return "allowed" in rule
    return False


def network_name(project: str) -> str:
    """Return the name of a project's one VPC network, unique in the emulator."""
    return f"{project}/default"


def _has_defaults(store: Store, project: str) -> bool:
    """Whether the rules are Google's defaults: nobody has read them yet."""
    return store.get(Key(project, "networks", urls.GLOBAL, "default")) is None


def _in_order(store: Store, project: str) -> list[Json]:
    """Return the project's rules, the one that counts first at the beginning."""
    rules = [rule.body for rule in store.find("firewalls", project) if _is_readable(rule)]
    return sorted(rules, key=lambda rule: (rule["priority"], "allowed" in rule))


def _is_readable(record: Record) -> bool:
    """Whether a saved rule means something; one that does not must not stop the machines."""
    rule = record.body
    try:
        list(map(_includes_ssh, [*rule.get("allowed", ()), *rule.get("denied", ())]))
        list(map(_is_public, rule.get("sourceRanges", ())))
        return bool(
            rule["priority"] >= 0 and rule["direction"] and rule["disabled"] in (True, False)
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        log.error("the firewall rule %s cannot be read and is ignored: %r", record.key.path, error)
        return False


def _applies_to_ssh(rule: Json, tags: set[str]) -> bool:
    """Whether an enabled rule concerns port 22 of machines with these tags."""
    targets = rule.get("targetTags")
    if rule["direction"] != "INGRESS" or rule["disabled"] or (targets and not tags & set(targets)):
        return False
    return any(map(_includes_ssh, rule.get("allowed") or rule.get("denied") or ()))


def _includes_ssh(protocol: Json) -> bool:
    if protocol["IPProtocol"] not in ("tcp", "6", "all"):
        return False
    ports = protocol.get("ports")
    if not ports:
        return True
    for text in ports:
        first, _, last = str(text).partition("-")
        if int(first) <= PORT <= int(last or first):
            return True
    return False


def _contains(text: str, source: ipaddress.IPv4Network) -> bool:
    found = ipaddress.ip_network(text, strict=False)
    return isinstance(found, ipaddress.IPv4Network) and source.subnet_of(found)


def _is_public(text: str) -> bool:
    found = ipaddress.ip_network(text, strict=False)
    return not any(
        found.version == inside.version and found.subnet_of(inside)  # type: ignore[arg-type]
        for inside in _NOT_THE_INTERNET
    )
