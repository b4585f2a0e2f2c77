"""The emulator's firewall: which rules let somebody on the internet reach port 22."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vmctl.emulator.cloud.firewall import allows_ssh
from vmctl.emulator.http import urls
from vmctl.emulator.store import Key, Record, Store

INTERNAL = {"sourceRanges": ["10.128.0.0/9"], "allowed": [{"IPProtocol": "tcp"}]}
SSH = {"allowed": [{"IPProtocol": "tcp", "ports": ["22"]}], "priority": 65534}
NO_SSH = {"denied": [{"IPProtocol": "tcp", "ports": ["22"]}]}


def reached(folder: Path, *rules: dict[str, Any]) -> bool:
    """Whether a machine tagged `vmctl` is reached under these rules of its network."""
    store = Store(folder)
    store.save(Record(Key("p", "networks", urls.GLOBAL, "default"), {}))
    for number, rule in enumerate(rules):
        body = {
            "priority": 1000,
            "direction": "INGRESS",
            "disabled": False,
            "sourceRanges": ["0.0.0.0/0"],
            **rule,
        }
        store.save(Record(Key("p", "firewalls", urls.GLOBAL, f"rule-{number}"), body))
    machine = {"tags": {"items": ["vmctl"]}}
    return allows_ssh(store, Record(Key("p", "instances", "zones/z", "vm"), machine))


@pytest.mark.parametrize(
    "rules",
    [
        [SSH],
        [INTERNAL, SSH],
        [{"allowed": [{"IPProtocol": "tcp", "ports": ["20-30"]}]}],
        [{"allowed": [{"IPProtocol": "all"}]}],
        [{**SSH, "targetTags": ["other", "vmctl"]}],
        [{**SSH, "sourceRanges": ["203.0.113.7/32"]}],  # one address of the internet: ours
        [{**NO_SSH, "priority": 2000}, {**SSH, "priority": 1000}],
        [{**NO_SSH, "targetTags": ["other"]}, SSH],
        [{**NO_SSH, "disabled": True}, SSH],
        [{**NO_SSH, "sourceRanges": ["198.51.100.0/24"]}, SSH],
        [{"denied": [{"IPProtocol": "udp"}]}, SSH],
    ],
)
def test_who_is_let_in(tmp_path: Path, rules: list[dict[str, Any]]) -> None:
    assert reached(tmp_path, *rules)


@pytest.mark.parametrize(
    "rules",
    [
        [],  # what no rule allows is denied
        [INTERNAL],
        [{**SSH, "sourceRanges": ["35.235.240.0/20"]}],  # Google's own proxies only
        [{**SSH, "targetTags": ["other"]}],
        [{**SSH, "disabled": True}],
        [{**SSH, "direction": "EGRESS"}],
        [{"allowed": [{"IPProtocol": "tcp", "ports": ["80", "443"]}]}],
        [NO_SSH, SSH],
        [{**NO_SSH, "priority": 1000}, {**SSH, "priority": 1000}],  # a deny before an allow
        [{"denied": [{"IPProtocol": "all"}]}, SSH],
    ],
)
def test_who_is_not(tmp_path: Path, rules: list[dict[str, Any]]) -> None:
    assert not reached(tmp_path, *rules)


def test_rules_that_nobody_looked_at_are_googles_own(tmp_path: Path) -> None:
    machine = Record(Key("p", "instances", "zones/z", "vm"), {})
    assert allows_ssh(Store(tmp_path), machine)
