"""Whom SSH is limited to, and what the rules and the label are called."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.errors import VmctlError
from vmctl.domain.network.firewall import IAP_RANGE, Rule, evaluate_ssh
from vmctl.domain.network.ssh_restriction import (
    ALLOW_PRIORITY,
    DENY_PRIORITY,
    LIMIT_LABEL,
    SUSPENDED,
    RuleNames,
    is_blocked,
    label_of,
    restricted_to,
    restriction_text,
    source_of,
)

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)


@given(NAMES, NAMES)
def test_names_are_google_s_and_one_vm_s_alone(first: str, second: str) -> None:
    rules = RuleNames.of(first)
    for name in (rules.allow, rules.deny):
        assert re.fullmatch(r"vmctl-[a-z0-9-]{0,56}[a-z0-9]", name)
        assert len(name) <= 63
    if first != second:
        assert {rules.allow, rules.deny}.isdisjoint(
            {RuleNames.of(second).allow, RuleNames.of(second).deny}
        )


@pytest.mark.parametrize(
    ("seen", "source"),
    [
        ("203.0.113.7 51234 10.132.0.2 22\n", "203.0.113.7/32"),
        ("::ffff:203.0.113.7 51234 10.132.0.2 22", "203.0.113.7/32"),
        ("2001:db8::7 51234 2001:db8::1 22", "2001:db8::7/128"),
        ("35.235.241.5 51234 10.132.0.2 22", IAP_RANGE),
    ],
)
def test_the_address_is_the_one_that_the_vm_sees(seen: str, source: str) -> None:
    assert source_of(seen) == source


@pytest.mark.parametrize("said", ["", "\n", "nobody 1 2 3", "0.0.0.0/0 1 2 3"])
def test_what_is_no_address_opens_nothing(said: str) -> None:
    with pytest.raises(VmctlError):
        source_of(said)


@given(st.ip_addresses(v=4) | st.ip_addresses(v=6))
def test_the_label_can_be_read_back(address: object) -> None:
    source = source_of(f"{address} 1 x 22")
    value = label_of(source)
    assert re.fullmatch(r"[a-z0-9_-]{1,63}", value)
    if source != IAP_RANGE:
        assert restricted_to({LIMIT_LABEL: value}) == source.partition("/")[0]


def test_people_read_from_where() -> None:
    assert restricted_to({}) is None
    assert "203.0.113.7; from another one: vmctl up" in restriction_text("203.0.113.7")
    assert "Identity-Aware Proxy" in restriction_text(label_of(IAP_RANGE))
    assert restricted_to({LIMIT_LABEL: SUSPENDED}) == SUSPENDED
    assert "currently not restricted" in restriction_text(SUSPENDED)


@pytest.mark.parametrize(
    ("silent_s", "up_s", "told_s", "shut"),
    [
        (9.0, 9.0, None, False),  # it may be booting
        (9.0, 9.0, 1.0, False),  # its SSH server may come a moment later
        (9.0, 15.0, 6.0, True),
        (9.0, 200.0, None, True),  # a VM that tells nothing of itself
        (1.0, 200.0, 100.0, False),  # nobody has waited for an answer yet
    ],
)
def test_a_port_is_shut_to_us_when_the_vm_behind_it_must_be_up(
    silent_s: float, up_s: float, told_s: float | None, shut: bool
) -> None:
    assert is_blocked(silent_s, up_s, told_s) is shut


def test_the_two_rules_leave_one_way_in_beside_google_s_own() -> None:
    def rule(name: str, priority: int, source: str, *, allows: bool, tag: str = "") -> Rule:
        tags = (tag,) if tag else ()
        return Rule(name, priority, allows, (("tcp", ("22",)),), (source,), tags)

    rules = [
        rule("default-allow-ssh", 65534, "0.0.0.0/0", allows=True),
        rule("allow", ALLOW_PRIORITY, "203.0.113.7/32", allows=True, tag="ada-train"),
        rule("deny", DENY_PRIORITY, "0.0.0.0/0", allows=False, tag="ada-train"),
    ]
    assert evaluate_ssh(rules, ("ada-train",)).sources == ("203.0.113.7/32",)
    assert "0.0.0.0/0" in evaluate_ssh(rules, ("eve-train",)).sources
