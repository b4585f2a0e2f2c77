"""A VM without an external address: what it cannot do, and who has to be let in to reach it."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable

from vmctl.domain.network.firewall import IAP_RANGE, SSH_PORT, Rule


def nat_caution(network: str, region: str) -> str:
    """What the user should know before such a VM is paid for."""
    return (
        "Without an external address the VM is reached through Google's Identity-Aware Proxy "
        "(gcloud, and the role roles/iap.tunnelResourceAccessor), and it can download nothing, "
        "neither packages nor data, unless its network has Cloud NAT (about $1 a month and more): "
        f"{nat_lines(network, region)}"
    )


def nat_lines(network: str, region: str) -> str:
    """The gcloud lines that set Cloud NAT up for a network in a region."""
    name = f"nat-{region}"
    return (
        f"gcloud compute routers create {name} --network={network} --region={region} && "
        f"gcloud compute routers nats create {name} --router={name} --region={region} "
        "--auto-allocate-nat-external-ips --nat-all-subnet-ip-ranges"
    )


def allows_iap(rules: Iterable[Rule], tags: Collection[str]) -> bool:
    """Whether the proxy's addresses reach SSH on a VM with these tags; deny before allow."""
    proxy = ipaddress.IPv4Network(IAP_RANGE)
    for rule in sorted(rules, key=lambda rule: (rule.priority, rule.allows)):
        if rule.is_about(tags, SSH_PORT) and any(_holds(source, proxy) for source in rule.sources):
            return rule.allows
    return False


def _holds(source: str, proxy: ipaddress.IPv4Network) -> bool:
    try:
        network = ipaddress.ip_network(source, strict=False)
    except ValueError:
        return False
    return isinstance(network, ipaddress.IPv4Network) and proxy.subnet_of(network)
