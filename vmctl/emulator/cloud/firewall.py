"""Which machines can be reached at port 22: what the network's firewall rules say, and when.

Rules are weighed as Compute Engine weighs them: the lowest priority number first, a deny before
an allow, and what no rule allows is denied. Whoever connects comes from the internet: a rule that
allows some of its addresses is taken to allow ours, one that denies only some is not about us.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from ..errors import Json
from ..http import urls
from ..store import Key, Record, Store

if TYPE_CHECKING:
    from .machine_host import Hosting

PORT = 22
# Google's own: the proxies of IAP and the health checks; nobody on the internet has them
_NOT_THE_INTERNET = [
    ipaddress.ip_network(text)
    for text in ("35.235.240.0/20", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
]


class Doors:
    """Opens and closes port 22 of machines; used from the server's event loop only."""

    def __init__(self, store: Store, hosting: Hosting) -> None:
        self._store = store
        self._hosting = hosting
        self._late: set[str] = set()

    def admits(self, record: Record) -> bool:
        """Whether somebody on the internet reaches an instance's port 22 now."""
        if not any(nic.get("accessConfigs") for nic in record.body["networkInterfaces"]):
            return False  # it has no address there
        return record.body["id"] not in self._late and allowed(self._store, record)

    def keep_shut(self, record: Record) -> None:
        """Nobody gets through in this boot before `open`."""
        self._late.add(record.body["id"])

    async def open(self, record: Record) -> None:
        """From now on the firewall alone decides."""
        self.forget(record)
        await self._hosting.admit(record.body["id"], self.admits(record))

    def forget(self, record: Record) -> None:
        """A new boot begins, or the instance is gone."""
        self._late.discard(record.body["id"])

    async def refresh(self, project: str) -> None:
        """The project's firewall rules have changed."""
        for record in self._store.find("instances", project):
            if record.body["status"] == "RUNNING":
                await self._hosting.admit(record.body["id"], self.admits(record))


def allowed(store: Store, record: Record, source: ipaddress.IPv4Network | None = None) -> bool:
    """Whether the rules of the instance's network let tcp:22 in from the internet.

    With `source`: from exactly these addresses."""
    project = record.key.project
    if store.get(Key(project, "networks", urls.GLOBAL, "default")) is None:
        return True  # its rules were never looked at: they are the ones that Google gives it
    tags = set(record.body.get("tags", {}).get("items", ()))
    rules = [rule.body for rule in store.find("firewalls", project)]
    for rule in sorted(rules, key=lambda rule: (rule["priority"], "allowed" in rule)):
        if not _is_about(rule, tags):
            continue
        ranges = rule.get("sourceRanges", ())
        if source is not None:
            if any(_holds(text, source) for text in ranges):
                return "allowed" in rule
            continue
        if "denied" in rule and "0.0.0.0/0" in ranges:
            return False
        if "allowed" in rule and any(map(_on_the_internet, ranges)):
            return True
    return False


def _is_about(rule: Json, tags: set[str]) -> bool:
    """Whether a rule in force speaks of port 22 of machines with such tags."""
    targets = rule.get("targetTags")
    if rule["direction"] != "INGRESS" or rule["disabled"] or (targets and not tags & set(targets)):
        return False
    return any(_covers(protocol) for protocol in rule.get("allowed") or rule.get("denied") or ())


def _covers(protocol: Json) -> bool:
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


def _holds(text: str, source: ipaddress.IPv4Network) -> bool:
    found = ipaddress.ip_network(text, strict=False)
    return isinstance(found, ipaddress.IPv4Network) and source.subnet_of(found)


def _on_the_internet(text: str) -> bool:
    found = ipaddress.ip_network(text, strict=False)
    return not any(
        found.version == inside.version and found.subnet_of(inside)  # type: ignore[arg-type]
        for inside in _NOT_THE_INTERNET
    )
