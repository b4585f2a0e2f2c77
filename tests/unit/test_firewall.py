"""From where SSH reaches a VM, by the firewall rules of its network."""

from __future__ import annotations

import pytest

from vmctl.domain.network.firewall import ANYWHERE, IAP_RANGE, Door, Rule, is_private, ssh_door
from vmctl.domain.readiness.checks import CheckStatus, firewall_finding

SSH = (("tcp", ("22",)),)


def rule(name: str, priority: int = 65534, allows: bool = True, **more: object) -> Rule:
    given: dict[str, object] = {"protocols": SSH, "sources": (ANYWHERE,), **more}
    return Rule(name, priority, allows, **given)  # type: ignore[arg-type]


DEFAULT = rule("default-allow-ssh")


@pytest.mark.parametrize(
    ("rules", "door"),
    [
        ([], Door(())),
        ([DEFAULT], Door((ANYWHERE,), "default-allow-ssh")),
        ([rule("off", disabled=True)], Door(())),
        ([rule("web", protocols=(("tcp", ("80", "443")),))], Door(())),
        ([rule("udp", protocols=(("udp", None),))], Door(())),
        ([rule("range", protocols=(("tcp", ("1-1024",)),))], Door((ANYWHERE,), "range")),
        ([rule("all", protocols=(("all", None),))], Door((ANYWHERE,), "all")),
        ([rule("others", tags=("web",))], Door(())),
        ([rule("ours", tags=("web", "vmctl"))], Door((ANYWHERE,), "ours")),
        # the smaller number is heard first
        ([DEFAULT, rule("deny", 1000, False)], Door((), "", "deny")),
        ([DEFAULT, rule("deny", 65535, False)], Door((ANYWHERE,), "default-allow-ssh")),
        # among equals what denies
        ([rule("allow", 1000), rule("deny", 1000, False)], Door((), "", "deny")),
        # restricted to one address: allowed above what denies the rest
        (
            [
                DEFAULT,
                rule("deny", 1000, False, tags=("vmctl",)),
                rule("mine", 900, sources=("203.0.113.7/32",), tags=("vmctl",)),
            ],
            Door(("203.0.113.7/32",), "mine", "deny"),
        ),
        # what denies a part of the world closes nothing
        ([DEFAULT, rule("deny", 1, False, sources=("198.51.100.0/24",))],
         Door((ANYWHERE,), "default-allow-ssh")),
    ],
)  # fmt: skip
def test_rules_are_read_in_their_order(rules: list[Rule], door: Door) -> None:
    assert ssh_door(rules, {"vmctl"}) == door
    assert ssh_door(list(reversed(rules)), {"vmctl"}) == door


@pytest.mark.parametrize(
    ("door", "status", "named"),
    [
        (Door((ANYWHERE,), "default-allow-ssh"), CheckStatus.OK, "default-allow-ssh"),
        (Door(("203.0.113.7/32",), "mine", "deny"), CheckStatus.OK, "203.0.113.7/32 only"),
        (Door((IAP_RANGE,), "iap"), CheckStatus.WARNING, "IAP"),
        (Door(("10.0.0.0/8", IAP_RANGE), "iap"), CheckStatus.WARNING, "IAP"),
        (Door(()), CheckStatus.BROKEN, "No firewall rule"),
        (Door(("10.128.0.0/9",), "default-allow-internal"), CheckStatus.BROKEN, "No firewall rule"),
        (Door((), "", "no-ssh"), CheckStatus.BROKEN, "no-ssh"),
    ],
)
def test_a_door_becomes_a_finding_with_its_fix(door: Door, status: CheckStatus, named: str) -> None:
    found = firewall_finding(door, "default", "vmctl")
    assert found.status is status
    assert named in found.message
    assert bool(found.fix) == (status is not CheckStatus.OK)
    assert (found.exit_code == 7) == (status is CheckStatus.BROKEN)


@pytest.mark.parametrize(
    ("sources", "status"),
    [
        ((ANYWHERE,), CheckStatus.OK),
        ((IAP_RANGE,), CheckStatus.OK),
        (("203.0.113.7/32",), CheckStatus.BROKEN),
    ],
)
def test_a_vm_without_an_address_needs_the_proxy_let_in(
    sources: tuple[str, ...], status: CheckStatus
) -> None:
    found = firewall_finding(Door(sources, "a-rule"), "default", "vmctl", proxied=True)
    assert found.status is status
    assert (IAP_RANGE in found.fix) == (status is CheckStatus.BROKEN)


def test_rules_for_one_vm_are_heard_for_that_vm_only() -> None:
    own = [
        DEFAULT,
        rule("deny", 1000, False, tags=("me-lab",)),
        rule("mine", 900, sources=("203.0.113.7/32",), tags=("me-lab",)),
    ]
    assert ssh_door(own, {"vmctl"}).sources == (ANYWHERE,)
    assert ssh_door(own, {"vmctl", "me-lab"}).sources == ("203.0.113.7/32",)


def test_what_is_no_range_is_not_private() -> None:
    assert not is_private("anywhere")
    assert is_private("10.128.0.0/9")
