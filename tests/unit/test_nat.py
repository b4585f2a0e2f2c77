"""A VM without an external address: how it is reached, and what stands in the way."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from vmctl.cloud.compute.iap import tunnel_command
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, NotFound, Unreachable
from vmctl.domain.login.ssh_config import Host, host_block
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.network.firewall import IAP_RANGE, Rule
from vmctl.domain.network.nat import allows_iap, nat_caution

TARGET = Target("42", "ada-train", 22, "ada", "/k", "/p", proxy="gcloud start --at 100%")


def rule(priority: int, *sources: str, allows: bool = True, tags: tuple[str, ...] = ()) -> Rule:
    return Rule(f"r{priority}", priority, allows, (("tcp", ("22",)),), sources, tags)


@pytest.mark.parametrize(
    ("rules", "admitted"),
    [
        ([], False),
        ([rule(65534, "0.0.0.0/0")], True),
        ([rule(65534, "0.0.0.0/0"), rule(10, "0.0.0.0/0", allows=False)], False),
        ([rule(10, "0.0.0.0/0", allows=False), rule(5, IAP_RANGE)], True),
        ([rule(1000, "203.0.113.0/24")], False),
        ([rule(1000, IAP_RANGE, tags=("other",))], False),
        ([rule(1000, IAP_RANGE, tags=("ada-train",))], True),
        ([rule(5, IAP_RANGE), rule(5, IAP_RANGE, allows=False)], False),
        ([rule(5, "2001:db8::/32"), rule(6, "nonsense")], False),
    ],
)
def test_who_lets_the_proxy_in(rules: list[Rule], admitted: bool) -> None:
    assert allows_iap(rules, ("vmctl", "ada-train")) is admitted


def test_a_rule_for_every_vm_counts_for_one_without_tags() -> None:
    assert allows_iap([rule(1, IAP_RANGE)], ())


def test_the_proxy_is_said_to_every_ssh() -> None:
    for text in (TARGET.ssh_config("/s"), host_block(Host("h", "a", "p", False, "g", "", TARGET))):
        assert "    ProxyCommand gcloud start --at 100%%\n" in text
        assert "    ConnectTimeout 30\n" in text
    without = Target("42", "203.0.113.7", 22, "ada", "/k", "/p")
    assert "ProxyCommand" not in without.ssh_config("/s")


def test_two_proxies_are_two_connections() -> None:
    other = Target("42", "ada-train", 22, "ada", "/k", "/p", proxy="gcloud other")
    assert other.digest != TARGET.digest


@pytest.mark.parametrize(
    ("said", "kind", "hint"),
    [
        ("Error while connecting [4003: 'failed to connect to backend']. (Failed to connect to "
         "port 22)", Unreachable, IAP_RANGE),
        ("Error while connecting [Handshake status 403 Forbidden].", AccessDenied,
         "roles/iap.tunnelResourceAccessor"),
        ("Error while connecting [4033: 'not authorized'].", AccessDenied, "gcloud auth login"),
        ("(gcloud.compute.start-iap-tunnel) Something new", Unreachable, "vmctl status"),
    ],
)  # fmt: skip
def test_what_the_proxy_says_is_shown(said: str, kind: type[Exception], hint: str) -> None:
    lines = f"ERROR: {said}\niap_tunnel.py\nkex_exchange_identification: Connection closed\n"
    failure = TARGET.failure(lines)
    assert type(failure) is kind
    assert said in failure.message
    assert hint in failure.hint


def test_what_is_said_without_a_mark_is_shown_as_it_is() -> None:
    failure = TARGET.failure("sh: 1: gcloud: start-iap-tunnel: not found\n")
    assert "gcloud: start-iap-tunnel: not found" in failure.message


VM = Instance("ada-train", "42", "europe-west1-b", Status.RUNNING, "e2-small", external=False,
              google_project="p-1")  # fmt: skip
PROJECT = Project(root=Path("/"), name="train", owner="ada")


def test_the_tunnel_is_gcloud_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "gcloud"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    words = shlex.split(tunnel_command(PROJECT, VM))
    assert words[:5] == [str(program), "compute", "start-iap-tunnel", "ada-train", "22"]
    assert {"--listen-on-stdin", "--zone=europe-west1-b", "--project=p-1"} <= set(words)


def test_without_gcloud_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotFound, match="gcloud is not installed"):
        tunnel_command(PROJECT, VM)


def test_the_need_for_cloud_nat_comes_with_its_commands() -> None:
    said = nat_caution("default", "europe-west1")
    assert "gcloud compute routers create" in said
    assert "gcloud compute routers nats create" in said
