"""The firewall rules that limit SSH to one VM: read, made, changed, deleted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vmctl.cloud.compute.compute import Compute
from vmctl.domain.errors import NotFound
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.leftovers import firewall_description
from vmctl.domain.network.firewall import SSH_PORT
from vmctl.domain.network.ssh_restriction import ALLOW_PRIORITY, DENY_PRIORITY, RuleNames

ANY = "0.0.0.0/0"


@dataclass(frozen=True, slots=True)
class SshRule:
    """One rule as it stands: whom it is about, and whether it counts."""

    sources: tuple[str, ...]
    tags: tuple[str, ...]
    in_force: bool


def read_rule(compute: Compute, name: str) -> SshRule | None:
    """A rule by its name; None when there is none."""
    try:
        (reply,) = compute.pages("firewalls", "get", firewall=name)
    except NotFound:
        return None
    return SshRule(
        tuple(reply.get("sourceRanges", ())),
        tuple(reply.get("targetTags", ())),
        not reply.get("disabled", False),
    )


def put_allow(
    compute: Compute, names: RuleNames, instance: Instance, source: str, *, there: bool
) -> Operation:
    """Ask for SSH to be let in from one range, before any other rule is heard."""
    body = _body(names.allow, instance) | {
        "priority": ALLOW_PRIORITY,
        "sourceRanges": [source],
        "allowed": [{"IPProtocol": "tcp", "ports": [str(SSH_PORT)]}],
    }
    return _put(compute, body, there=there)


def put_deny(compute: Compute, names: RuleNames, instance: Instance, *, there: bool) -> Operation:
    """Ask for SSH to be refused to everybody who was not let in before."""
    body = _body(names.deny, instance) | {
        "priority": DENY_PRIORITY,
        "sourceRanges": [ANY],
        "denied": [{"IPProtocol": "tcp", "ports": [str(SSH_PORT)]}],
    }
    return _put(compute, body, there=there)


def set_in_force(compute: Compute, name: str, in_force: bool) -> Operation:
    """Ask for a rule to count, or not to."""
    return compute.change(
        "firewalls", "patch", name, firewall=name, body={"disabled": not in_force}
    )


def delete_rule(compute: Compute, name: str) -> Operation:
    """Ask for a rule to go."""
    return compute.change("firewalls", "delete", name, firewall=name)


def add_own_tag(compute: Compute, instance: Instance) -> Operation | None:
    """Ask for the VM to carry its own name as a tag; None where it does."""
    if instance.name in instance.tags:
        return None
    return compute.add_tag(instance, instance.name)


def _body(name: str, instance: Instance) -> dict[str, Any]:
    return {
        "name": name,
        "description": firewall_description(instance.owner),
        "network": instance.network,
        "direction": "INGRESS",
        "targetTags": [instance.name],
        "disabled": False,
    }


def _put(compute: Compute, body: dict[str, Any], *, there: bool) -> Operation:
    name = body["name"]
    if there:
        changed = {key: value for key, value in body.items() if key != "network"}
        return compute.change("firewalls", "patch", name, firewall=name, body=changed)
    return compute.change("firewalls", "insert", name, body=body)
