"""SSH limited to one address stays so: while a VM boots, after kill -9, and when nobody gets in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.bringup_process import BringUpCloud
from tests.harness.crash_points import HeldCloud
from tests.harness.laptop import project

BASE = """\
[vm]
gpu = "none"
machine = "e2-small"
image = "debian-cloud/debian-12"
restrict_ssh = true
"""
DENY, ALLOW = "vmctl-tester-{}-ssh-deny", "vmctl-tester-{}-ssh-allow"
LIFTED = "lifting the restriction until you are connected"
ELSEWHERE = "10.9.9.9/32"


@pytest.fixture
def stepped() -> Iterator[BringUpCloud]:
    """Time stands still there until somebody waits."""
    with BringUpCloud.opened("ssh-limit", toml=BASE) as made:
        yield made


@pytest.fixture
def away(one_cloud: HeldCloud) -> Iterator[HeldCloud]:
    """The VM, all tests' one, is off, and we come from another address than the one let in."""
    project(one_cloud.folder, BASE)
    if not one_cloud.machines():
        one_cloud("up")
    one_cloud("down")
    come_from_elsewhere(one_cloud)
    yield one_cloud
    one_cloud.ask("DELETE", "/emulator/v1/hold")


def come_from_elsewhere(cloud: HeldCloud) -> None:
    path = f"global/firewalls/{ALLOW.format('vm')}"
    cloud.api("PATCH", path, {"sourceRanges": [ELSEWHERE]})


def is_shut(cloud: HeldCloud) -> bool:
    rule = cloud.api("GET", f"global/firewalls/{DENY.format('vm')}")
    return not rule["disabled"]


def changes(stepped: BringUpCloud) -> list[dict[str, Any]]:
    """What has become of the rule that shuts the door."""
    done = stepped.api("GET", "global/operations").get("items", [])
    return [one for one in done if one["targetLink"].endswith(DENY.format("vm"))]


def killed_at_the_next_change_of_a_rule(cloud: HeldCloud) -> None:
    method = cloud.killed_at(1, "after", "up", method="compute.firewalls.patch")
    assert method == "compute.firewalls.patch"


def test_a_port_that_opens_late_is_waited_for_and_no_rule_is_suspended(
    stepped: BringUpCloud,
) -> None:
    stepped.up(gpu="none")
    stepped.laptop("down", cwd=stepped.folder)
    before = len(changes(stepped))
    stepped.fault(kind="slow-ssh", seconds=8)
    told = stepped.up(gpu="none")["lines"]
    assert not any(LIFTED in line for line in told)
    assert len(changes(stepped)) == before


def test_from_another_address_the_limit_is_set_before_the_vm_is_ready(away: HeldCloud) -> None:
    told = away("up").stderr
    order = [LIFTED, "is restricted to 127.0.0.1/32", "The VM is prepared"]
    assert [told.index(words) for words in order] == sorted(map(told.index, order))
    assert is_shut(away)
    assert "restricted to your address 127.0.0.1" in away("status").stdout


def test_a_rule_that_a_killed_up_suspended_is_restored_by_the_next(away: HeldCloud) -> None:
    killed_at_the_next_change_of_a_rule(away)
    assert not is_shut(away)
    assert "currently not restricted; to restrict it again: vmctl up" in away("status").stdout
    killed_at_the_next_change_of_a_rule(away)
    assert is_shut(away), "the next one begins with it"
    away("up")
    assert is_shut(away)
    assert "restricted to your address 127.0.0.1" in away("status").stdout


def test_when_the_vm_is_another_one_the_rule_is_restored(away: HeldCloud) -> None:
    (vm,) = away.all("instances")
    pins = away.laptop.home / "data" / "hostkeys" / f"compute.{vm['id']}"
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIB6sJbZ2w0b5M1vMZx0m0o3Z1x9m0f8kq5jz4m0tq3nB"
    pins.write_text(f"{pins.name} ssh-ed25519 {other}\n")
    told = away("up", code=7).stderr
    pins.unlink()
    assert LIFTED in told
    assert is_shut(away)
    assert "restricted to your address 10.9.9.9" in away("status").stdout
