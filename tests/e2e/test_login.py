"""Logging in where a project, an organisation or the user's own rules make it harder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.harness.attempts import run_failing
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.instances import API, instance, metadata_of
from tests.harness.laptop import Laptop

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'


def path_of(vm: dict[str, Any]) -> str:
    return f"{API}/zones/{vm['zone'].rpartition('/')[2]}/instances/{vm['name']}"


def set_metadata(cloud: LocalCloud, **changed: str) -> None:
    vm = instance(cloud)
    items = {**metadata_of(vm), **{key.replace("_", "-"): value for key, value in changed.items()}}
    body = {
        "fingerprint": vm["metadata"]["fingerprint"],
        "items": [{"key": key, "value": value} for key, value in items.items()],
    }
    cloud.ask("POST", f"{path_of(vm)}/setMetadata", body)


def set_project_metadata(cloud: LocalCloud, **items: str) -> None:
    shared = cloud.ask("GET", API)["commonInstanceMetadata"]
    body = {
        "fingerprint": shared["fingerprint"],
        "items": [{"key": key.replace("_", "-"), "value": text} for key, text in items.items()],
    }
    cloud.ask("POST", f"{API}/setCommonInstanceMetadata", body)


ALLOW, DENY = "vmctl-tester-vm-ssh-allow", "vmctl-tester-vm-ssh-deny"


def rules(cloud: LocalCloud) -> dict[str, dict[str, Any]]:
    found = cloud.ask("GET", f"{API}/global/firewalls").get("items", [])
    return {rule["name"]: rule for rule in found if rule["name"].startswith("vmctl-")}


def move_away(cloud: LocalCloud) -> None:
    """As if we came from another address than the one that is let in."""
    cloud.ask("PATCH", f"{API}/global/firewalls/{ALLOW}", {"sourceRanges": ["10.9.9.9/32"]})


def delete_in_the_console(cloud: LocalCloud) -> None:
    cloud.ask("DELETE", path_of(instance(cloud)))
    eventually(lambda: cloud.machines() == [])


def elsewhere(cloud: LocalCloud, name: str) -> Laptop:
    """The same person at another computer: no connection of hers is warm."""
    runtime = cloud.base / name
    runtime.mkdir(mode=0o700)
    extra = {"XDG_RUNTIME_DIR": str(runtime)}
    return Laptop(cloud.base / f"laptop-{name}", cloud.laptop.emulator_home, extra)


def emptied(cloud: LocalCloud) -> LocalCloud:
    """Nothing of the tests before is left; those that share a machine follow each other."""
    cloud.clear()
    set_project_metadata(cloud)
    return cloud


@pytest.fixture(scope="module")
def guarded(one_cloud: LocalCloud) -> LocalCloud:
    """One machine, made in a project that asks for OS Login and forbids guest attributes."""
    emptied(one_cloud)
    set_project_metadata(one_cloud, enable_oslogin="TRUE")
    one_cloud.fault(
        kind="http",
        method="compute.instances.getGuestAttributes",
        status=412,
        reason="conditionNotMet",
        message="Constraint constraints/compute.disableGuestAttributesAccess violated.",
    )
    one_cloud("up")
    return one_cloud


# -- OS Login ------------------------------------------------------------------------------------


def test_a_project_that_asks_for_os_login_works(guarded: LocalCloud) -> None:
    shared = guarded.ask("GET", API)["commonInstanceMetadata"]["items"]
    assert {"key": "enable-oslogin", "value": "TRUE"} in shared
    assert guarded("exec", "echo", "in").stdout == "in\n"


def test_os_login_on_the_vm_is_named_with_the_command_that_fixes_it(guarded: LocalCloud) -> None:
    set_metadata(guarded, enable_oslogin="TRUE")
    error = run_failing(guarded, code=5)
    assert "OS Login is on for tester-vm" in error["message"]
    zone = instance(guarded)["zone"].rpartition("/")[2]
    assert error["hint"] == (
        f"gcloud compute instances add-metadata tester-vm --zone {zone} "
        "--project vmctl-local --metadata enable-oslogin=FALSE"
    )
    set_metadata(guarded, enable_oslogin="FALSE")
    guarded("up")


# -- host keys -------------------------------------------------------------------------------------


def test_without_guest_attributes_host_keys_come_from_the_serial_port(guarded: LocalCloud) -> None:
    vm = instance(guarded)
    pins = guarded.laptop.home / "data" / "hostkeys" / f"compute.{vm['id']}"
    shown = guarded.ask("GET", f"{path_of(vm)}/serialPort?port=1")["contents"]
    pinned = pins.read_text().split()[2]
    assert pinned in shown
    assert guarded("exec", "echo", "in").stdout == "in\n"


def test_a_host_key_that_changed_is_exit_7_and_nothing_was_sent(guarded: LocalCloud) -> None:
    pins = guarded.laptop.home / "data" / "hostkeys" / f"compute.{instance(guarded)['id']}"
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIB6sJbZ2w0b5M1vMZx0m0o3Z1x9m0f8kq5jz4m0tq3nB"
    pins.write_text(f"{pins.name} ssh-ed25519 {other}\n")
    guarded("down")
    guarded("up", code=7)
    guarded("exec", "touch", "sent", code=7)
    pins.unlink()  # as the message says, for one who replaced it himself
    guarded("up")
    assert guarded("exec", "ls").stdout == ""


def test_rules_of_a_vm_deleted_in_the_console_are_collected(guarded: LocalCloud) -> None:
    guarded("up", "--restrict-ssh")
    delete_in_the_console(guarded)
    assert ALLOW in guarded("ls", "--orphans").stdout
    guarded("gc", "--yes")
    assert rules(guarded) == {}


def test_an_organisation_that_requires_os_login_is_named(one_cloud: LocalCloud) -> None:
    cloud = emptied(one_cloud)
    cloud.fault(
        kind="http",
        method="compute.instances.insert",
        status=412,
        reason="conditionNotMet",
        message="Constraint constraints/compute.requireOsLogin violated for project 1.",
    )
    error = run_failing(cloud, code=5)
    assert "requires OS Login" in error["message"]
    assert "requireOsLogin" in error["hint"]
    assert cloud.machines() == []


# -- SSH limited to one address --------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(one_cloud: LocalCloud) -> LocalCloud:
    """One machine that only one address is let in to."""
    emptied(one_cloud)("up", "--restrict-ssh")
    return one_cloud


def test_ssh_is_limited_to_the_address_that_the_vm_sees(limited: LocalCloud) -> None:
    found = rules(limited)
    assert set(found) == {ALLOW, DENY}
    allow, deny = found[ALLOW], found[DENY]
    assert allow["sourceRanges"] == ["127.0.0.1/32"]
    assert deny["sourceRanges"] == ["0.0.0.0/0"]
    assert allow["priority"] < deny["priority"] < 65534, "before default-allow-ssh"
    assert allow["targetTags"] == deny["targetTags"] == ["tester-vm"], "nobody else's VM"
    assert "tester-vm" in instance(limited)["tags"]["items"]
    assert "restricted to your address 127.0.0.1" in limited("status").stdout
    assert "Nothing is left over" in limited("ls", "--orphans").stderr
    limited("up")
    assert {name: rule["id"] for name, rule in rules(limited).items()} == {
        name: rule["id"] for name, rule in found.items()
    }


def test_from_another_address_up_sets_the_restriction_again(limited: LocalCloud) -> None:
    move_away(limited)
    other = elsewhere(limited, "first")
    shut = other("exec", "true", cwd=limited.folder, code=7)
    assert "does not answer" in shut.stderr
    told = other("up", cwd=limited.folder).stderr
    assert "lifting the restriction until you are connected" in told
    found = rules(limited)
    assert found[ALLOW]["sourceRanges"] == ["127.0.0.1/32"]
    assert not found[DENY]["disabled"]
    assert other("exec", "echo", "in", cwd=limited.folder).stdout == "in\n"
    other("down", cwd=limited.folder)
    other("up", cwd=limited.folder)
    assert not rules(limited)[DENY]["disabled"]


def test_an_up_that_fails_leaves_the_restriction_in_force(limited: LocalCloud) -> None:
    move_away(limited)
    set_metadata(limited, enable_oslogin="TRUE")
    elsewhere(limited, "second")("up", cwd=limited.folder, code=5)
    assert not rules(limited)[DENY]["disabled"]
    set_metadata(limited, enable_oslogin="FALSE")


def test_open_ssh_takes_the_limit_away(limited: LocalCloud) -> None:
    limited("up", "--open-ssh")
    assert rules(limited) == {}
    assert "limited" not in limited("status").stdout
    assert limited("exec", "echo", "in").stdout == "in\n"


def test_a_new_vm_is_not_shut_in_by_the_rules_of_an_earlier_one(limited: LocalCloud) -> None:
    limited("up", "--restrict-ssh")
    move_away(limited)
    delete_in_the_console(limited)
    told = elsewhere(limited, "third")("up", cwd=limited.folder).stderr
    assert "lifting the restriction until you are connected" in told
    assert rules(limited)[ALLOW]["sourceRanges"] == ["127.0.0.1/32"]
    limited("down", "--delete", "--yes")
    assert rules(limited) == {}


# -- without an external address -------------------------------------------------------------------

needs_gcloud = pytest.mark.gcloud


@pytest.fixture(scope="module")
def hidden(one_cloud: LocalCloud) -> LocalCloud:
    """A machine that is reached by the real gcloud through the emulator's own proxy."""
    if shutil.which("gcloud") is None:
        reason = "gcloud is not installed: nothing was tunnelled through the proxy"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(reason)
        pytest.skip(reason)
    told = emptied(one_cloud)("up", "--no-external-address").stderr
    assert "unless its network has Cloud NAT" in told
    return one_cloud


@needs_gcloud
def test_a_vm_without_an_address_works_through_google_s_proxy(
    hidden: LocalCloud, tmp_path: Path
) -> None:
    vm = instance(hidden)
    assert "accessConfigs" not in vm["networkInterfaces"][0]
    assert hidden("exec", "hostname").stdout == "tester-vm\n"
    (hidden.folder / "sent.bin").write_bytes(bytes(range(256)) * 4000)
    hidden("push")
    hidden("fetch", "sent.bin", "--to", str(tmp_path))
    assert (tmp_path / "sent.bin").read_bytes() == (hidden.folder / "sent.bin").read_bytes()
    config = tmp_path / "config"
    hidden("ssh-config", "--file", str(config))
    told = subprocess.run(
        ["ssh", "-F", str(config), "vm.local.vmctl", "hostname"],
        env=hidden.laptop.environ, capture_output=True, text=True, timeout=120, check=True,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert told.stdout == "tester-vm\n"
    hidden("ssh-config", "--remove", "--file", str(config))
    (step,) = json.loads(hidden("ssh", "--print-gcloud", "--json").stdout)["steps"]
    assert "--tunnel-through-iap" in step["argv"]


@needs_gcloud
def test_ssh_limited_to_the_proxy_stays_reachable(hidden: LocalCloud) -> None:
    hidden("up", "--restrict-ssh")
    assert rules(hidden)[ALLOW]["sourceRanges"] == ["35.235.240.0/20"]
    assert "restricted to Google's Identity-Aware Proxy" in hidden("status").stdout
    assert elsewhere(hidden, "limited")("exec", "echo", "in", cwd=hidden.folder).stdout == "in\n"


@needs_gcloud
def test_a_firewall_that_shuts_the_proxy_out_is_named_with_its_fix(hidden: LocalCloud) -> None:
    shut = {
        "name": "no-ssh",
        "network": "global/networks/default",
        "priority": 10,
        "denied": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "sourceRanges": ["35.235.240.0/20"],
    }
    hidden.ask("POST", f"{API}/global/firewalls", shut)
    try:
        error = run_failing(hidden, code=7)
        assert "no firewall rule lets Google's Identity-Aware Proxy" in error["message"]
        assert "--source-ranges 35.235.240.0/20" in error["hint"]
        told = elsewhere(hidden, "shut")("exec", "true", cwd=hidden.folder, code=7).stderr
        assert "Identity-Aware Proxy does not reach the VM's SSH port" in told
        assert "4003" in told
    finally:
        hidden.ask("DELETE", f"{API}/global/firewalls/no-ssh")
    hidden("up")
