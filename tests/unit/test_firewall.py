"""From where SSH reaches a VM, by the firewall rules of its network."""

from __future__ import annotations

import pytest

from vmctl.domain.network.firewall import (
    ANYWHERE,
    IAP_RANGE,
    Rule,
    SshExposure,
    evaluate_ssh,
    is_private,
)
from vmctl.domain.readiness.checks import CheckStatus, check_firewall

SSH = (("tcp", ("22",)),)


def rule(name: str, priority: int = 65534, allows: bool = True, **more: object) -> Rule:
    given: dict[str, object] = {"protocols": SSH, "sources": (ANYWHERE,), **more}
    return Rule(name, priority, allows, **given)  # type: ignore[arg-type]


DEFAULT = rule("default-allow-ssh")


@pytest.mark.parametrize(
    ("rules", "exposure"),
    [
        ([], SshExposure(())),
        ([DEFAULT], SshExposure((ANYWHERE,), "default-allow-ssh")),
        ([rule("off", disabled=True)], SshExposure(())),
        ([rule("web", protocols=(("tcp", ("80", "443")),))], SshExposure(())),
        ([rule("udp", protocols=(("udp", None),))], SshExposure(())),
        ([rule("range", protocols=(("tcp", ("1-1024",)),))], SshExposure((ANYWHERE,), "range")),
        ([rule("all", protocols=(("all", None),))], SshExposure((ANYWHERE,), "all")),
        ([rule("others", tags=("web",))], SshExposure(())),
        ([rule("ours", tags=("web", "vmctl"))], SshExposure((ANYWHERE,), "ours")),
        # the smaller number is heard first
        ([DEFAULT, rule("deny", 1000, False)], SshExposure((), "", "deny")),
        ([DEFAULT, rule("deny", 65535, False)], SshExposure((ANYWHERE,), "default-allow-ssh")),
        # among equals what denies
        ([rule("allow", 1000), rule("deny", 1000, False)], SshExposure((), "", "deny")),
        # restricted to one address: allowed above what denies the rest
        (
            [
                DEFAULT,
                rule("deny", 1000, False, tags=("vmctl",)),
                rule("mine", 900, sources=("203.0.113.7/32",), tags=("vmctl",)),
            ],
            SshExposure(("203.0.113.7/32",), "mine", "deny"),
        ),
        # what denies a part of the world closes nothing
        ([DEFAULT, rule("deny", 1, False, sources=("198.51.100.0/24",))],
         SshExposure((ANYWHERE,), "default-allow-ssh")),
    ],
)  # fmt: skip
def test_rules_are_read_in_their_order(rules: list[Rule], exposure: SshExposure) -> None:
    assert evaluate_ssh(rules, {"vmctl"}) == exposure
    assert evaluate_ssh(list(reversed(rules)), {"vmctl"}) == exposure


@pytest.mark.parametrize(
    ("exposure", "status", "named"),
    [
        (SshExposure((ANYWHERE,), "default-allow-ssh"), CheckStatus.OK, "default-allow-ssh"),
        (SshExposure(("203.0.113.7/32",), "mine", "deny"), CheckStatus.OK, "203.0.113.7/32 only"),
        (SshExposure((IAP_RANGE,), "iap"), CheckStatus.WARNING, "IAP"),
        (SshExposure(("10.0.0.0/8", IAP_RANGE), "iap"), CheckStatus.WARNING, "IAP"),
        (SshExposure(()), CheckStatus.BROKEN, "No firewall rule"),
        (
            SshExposure(("10.128.0.0/9",), "default-allow-internal"),
            CheckStatus.BROKEN,
            "No firewall rule",
        ),
        (SshExposure((), "", "no-ssh"), CheckStatus.BROKEN, "no-ssh"),
    ],
)
def test_an_exposure_becomes_a_finding_with_its_fix(
    exposure: SshExposure, status: CheckStatus, named: str
) -> None:
    found = check_firewall(exposure, "default", "vmctl")
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
    found = check_firewall(SshExposure(sources, "a-rule"), "default", "vmctl", proxied=True)
    assert found.status is status
    assert (IAP_RANGE in found.fix) == (status is CheckStatus.BROKEN)


def test_rules_for_one_vm_are_heard_for_that_vm_only() -> None:
    own = [
        DEFAULT,
        rule("deny", 1000, False, tags=("me-lab",)),
        rule("mine", 900, sources=("203.0.113.7/32",), tags=("me-lab",)),
    ]
    assert evaluate_ssh(own, {"vmctl"}).sources == (ANYWHERE,)
    assert evaluate_ssh(own, {"vmctl", "me-lab"}).sources == ("203.0.113.7/32",)


def test_what_is_no_range_is_not_private() -> None:
    assert not is_private("anywhere")
    assert is_private("10.128.0.0/9")
