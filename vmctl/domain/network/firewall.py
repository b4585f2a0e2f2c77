"""Firewall rules read as Compute Engine applies them: from where SSH reaches a VM."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass

ANYWHERE = "0.0.0.0/0"
IAP_RANGE = "35.235.240.0/20"  # Google's Identity-Aware Proxy
SSH_PORT = 22
LONGEST_NAME = 63  # of a rule
_TCP = {"tcp", "6", "all"}
_PRIVATE = tuple(
    ipaddress.IPv4Network(own)
    for own in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "127.0.0.0/8")
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule for what comes in; `ports` None means every port."""

    name: str
    priority: int  # the smaller number is heard first
    allows: bool
    protocols: tuple[tuple[str, tuple[str, ...] | None], ...]
    sources: tuple[str, ...]  # address ranges
    tags: tuple[str, ...] = ()  # the VMs that it is about; none: all of the network
    disabled: bool = False

    def is_about(self, tags: Collection[str], port: int) -> bool:
        """Whether it has a word to say about this TCP port of a VM with these tags."""
        if self.disabled or (self.tags and not set(self.tags) & set(tags)):
            return False
        return any(
            protocol.lower() in _TCP and (ports is None or any(_has(one, port) for one in ports))
            for protocol, ports in self.protocols
        )


@dataclass(frozen=True, slots=True)
class SshExposure:
    """The address ranges that are let in, and the rule that decided last."""

    sources: tuple[str, ...]
    rule: str = ""
    closed_by: str = ""


def evaluate_ssh(rules: Iterable[Rule], tags: Collection[str], port: int = SSH_PORT) -> SshExposure:
    """From where SSH is reached, by the rules in order of priority, deny before allow in ties."""
    sources: list[str] = []
    last = ""
    for rule in sorted(rules, key=lambda rule: (rule.priority, rule.allows)):
        if not rule.is_about(tags, port):
            continue
        if rule.allows:
            sources += [source for source in rule.sources if source not in sources]
            last = rule.name
            if ANYWHERE in rule.sources:
                break
        elif ANYWHERE in rule.sources:
            return SshExposure(tuple(sources), last, rule.name)
    return SshExposure(tuple(sources), last)


def rule_to_make(network: str, source: str = ANYWHERE) -> str:
    """The command that lets SSH into a network, given by its path; a shared one is its host's."""
    name = network.rpartition("/")[2] or "default"
    project = network.partition("projects/")[2].partition("/")[0]
    what = "allow-ssh-from-iap" if source == IAP_RANGE else "allow-ssh"
    rule = f"{name[: LONGEST_NAME - len(what) - 1].rstrip('-')}-{what}"
    return (
        f"gcloud compute firewall-rules create {rule} --network {name} --direction INGRESS "
        f"--allow tcp:{SSH_PORT} --source-ranges {source}"
        + (f" --project {project}" if project else "")
    )


def is_private(source: str) -> bool:
    """Whether a range holds only addresses of networks apart from the internet."""
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        return False
    if isinstance(network, ipaddress.IPv6Network):
        return network.is_private
    return any(network.subnet_of(own) for own in _PRIVATE)


def _has(ports: str, port: int) -> bool:
    first, _, last = ports.partition("-")
    try:
        return int(first) <= port <= int(last or first)
    except ValueError:
        return False
