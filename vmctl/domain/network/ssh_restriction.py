"""SSH limited to one address: a rule that lets it in, and one behind it that lets nobody in.

An allow rule alone restricts nothing next to the `default-allow-ssh` that Google gives a network.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from vmctl.domain.errors import VmctlError
from vmctl.domain.machine.leftovers import FIREWALL_PREFIX
from vmctl.domain.network.firewall import IAP_RANGE, LONGEST_NAME

LIMIT_LABEL = "vmctl-ssh-from"  # on the VM: for its owner to read; the rules are what counts
ALLOW_PRIORITY, DENY_PRIORITY = 900, 1000  # the smaller number is heard first
SUSPENDED = "lifted"  # the label's value while the rules keep nobody out
SILENT_S = 4.0  # a port that lets us in answers sooner
AFTER_REPORT_S = 5.0  # SSH is up so long after the VM's own first word
LONGEST_BOOT_S = 120.0  # until SSH is up, of a VM that tells nothing
_THROUGH_IAP = "iap"


@dataclass(frozen=True, slots=True)
class RuleNames:
    """The two rules of one VM."""

    allow: str
    deny: str

    @classmethod
    def of(cls, instance_name: str) -> RuleNames:
        """Names that begin with vmctl's mark, and never those of another VM."""
        room = LONGEST_NAME - len(FIREWALL_PREFIX) - len("-ssh-allow")
        stem = instance_name
        if len(stem) > room:
            digest = hashlib.sha256(stem.encode()).hexdigest()[:8]
            stem = f"{stem[: room - 9].rstrip('-')}-{digest}"
        return cls(f"{FIREWALL_PREFIX}{stem}-ssh-allow", f"{FIREWALL_PREFIX}{stem}-ssh-deny")


def is_blocked(silent_s: float, up_s: float, told_s: float | None) -> bool:
    """Whether a port is shut to our address: silent, though the VM behind it must be up.

    `up_s` is the time since its start, `told_s` since its first word of itself, None before that.
    """
    up = up_s >= LONGEST_BOOT_S or (told_s is not None and told_s >= AFTER_REPORT_S)
    return up and silent_s >= SILENT_S


def source_of(connection: str) -> str:
    """The range to let in, from the VM's own `$SSH_CONNECTION`: who is seen at its other end.

    Google's proxies where the connection came through them. Raises VmctlError for anything else
    than an address.
    """
    word = connection.split()[0] if connection.split() else ""
    try:
        address = ipaddress.ip_address(word.partition("%")[0])
    except ValueError as error:
        raise VmctlError(
            f"The VM does not report the address you connect from ({connection.strip()[:60]!r}).",
            hint="Look: vmctl exec env",
        ) from error
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if address in ipaddress.ip_network(IAP_RANGE):
        return IAP_RANGE
    return f"{address}/{address.max_prefixlen}"


def label_of(source: str) -> str:
    """The label's value: a label may hold neither dots nor slashes."""
    if source == IAP_RANGE:
        return _THROUGH_IAP
    return source.partition("/")[0].replace(".", "-").replace(":", "_")


def restricted_to(labels: Mapping[str, str]) -> str | None:
    """The address that SSH is limited to, "iap", "lifted", or None."""
    value = labels.get(LIMIT_LABEL, "")
    return (value.replace("_", ":") if "_" in value else value.replace("-", ".")) or None


def restriction_text(source: str) -> str:
    """For people: from where SSH lets in."""
    if source == _THROUGH_IAP:
        return "SSH to it is restricted to Google's Identity-Aware Proxy."
    if source == SUSPENDED:
        return "SSH to it is currently not restricted; to restrict it again: vmctl up"
    return f"SSH to it is restricted to your address {source}; from another one: vmctl up"
