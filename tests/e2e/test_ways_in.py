"""Logging in where a project, an organisation or the user's own rules make it harder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.harness.attempts import failed
from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually
from tests.harness.instances import API, instance, metadata_of
from tests.harness.laptop import Laptop

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'


def path_of(vm: dict[str, Any]) -> str:
    return f"{API}/zones/{vm['zone'].rpartition('/')[2]}/instances/{vm['name']}"


def set_metadata(sky: LocalCloud, **changed: str) -> None:
    vm = instance(sky)
    items = {**metadata_of(vm), **{key.replace("_", "-"): value for key, value in changed.items()}}
    body = {
        "fingerprint": vm["metadata"]["fingerprint"],
        "items": [{"key": key, "value": value} for key, value in items.items()],
    }
    sky.ask("POST", f"{path_of(vm)}/setMetadata", body)


def set_project_metadata(sky: LocalCloud, **items: str) -> None:
    shared = sky.ask("GET", API)["commonInstanceMetadata"]
    body = {
        "fingerprint": shared["fingerprint"],
        "items": [{"key": key.replace("_", "-"), "value": text} for key, text in items.items()],
    }
    sky.ask("POST", f"{API}/setCommonInstanceMetadata", body)


# -- OS Login ------------------------------------------------------------------------------------


def test_a_project_that_asks_for_os_login_works(sky: LocalCloud) -> None:
    set_project_metadata(sky, enable_oslogin="TRUE")
    try:
        sky("up")
        assert sky("exec", "echo", "in").stdout == "in\n"
    finally:
        set_project_metadata(sky)


def test_os_login_on_the_vm_is_named_with_the_command_that_mends_it(sky: LocalCloud) -> None:
    sky("up")
    set_metadata(sky, enable_oslogin="TRUE")
    error = failed(sky, code=5)
    assert "OS Login is on for tester-vm" in error["message"]
    zone = instance(sky)["zone"].rpartition("/")[2]
    assert error["hint"] == (
        f"gcloud compute instances add-metadata tester-vm --zone {zone} "
        "--project vmctl-local --metadata enable-oslogin=FALSE"
    )
    set_metadata(sky, enable_oslogin="FALSE")
    sky("up")


def test_an_organisation_that_requires_os_login_is_named(sky: LocalCloud) -> None:
    sky.fault(
        kind="http",
        method="compute.instances.insert",
        status=412,
        reason="conditionNotMet",
        message="Constraint constraints/compute.requireOsLogin violated for project 1.",
    )
    error = failed(sky, code=5)
    assert "requires OS Login" in error["message"]
    assert "requireOsLogin" in error["hint"]
    assert sky.machines() == []


# -- host keys -------------------------------------------------------------------------------------


def test_without_guest_attributes_host_keys_come_from_the_serial_port(sky: LocalCloud) -> None:
    sky.fault(
        kind="http",
        method="compute.instances.getGuestAttributes",
        status=412,
        reason="conditionNotMet",
        message="Constraint constraints/compute.disableGuestAttributesAccess violated.",
    )
    sky("up")
    vm = instance(sky)
    pins = sky.laptop.home / "data" / "hostkeys" / f"compute.{vm['id']}"
    shown = sky.ask("GET", f"{path_of(vm)}/serialPort?port=1")["contents"]
    pinned = pins.read_text().split()[2]
    assert pinned in shown
    assert sky("exec", "echo", "in").stdout == "in\n"


def test_a_host_key_that_changed_is_exit_7_and_nothing_was_sent(sky: LocalCloud) -> None:
    sky("up")
    pins = sky.laptop.home / "data" / "hostkeys" / f"compute.{instance(sky)['id']}"
    other = "AAAAC3NzaC1lZDI1NTE5AAAAIB6sJbZ2w0b5M1vMZx0m0o3Z1x9m0f8kq5jz4m0tq3nB"
    pins.write_text(f"{pins.name} ssh-ed25519 {other}\n")
    sky("down")
    sky("up", code=7)
    sky("exec", "touch", "sent", code=7)
    pins.unlink()  # as the message says, for one who replaced it himself
    sky("up")
    assert sky("exec", "ls").stdout == ""


# -- SSH limited to one address --------------------------------------------------------------------

ALLOW, DENY = "vmctl-tester-vm-ssh-allow", "vmctl-tester-vm-ssh-deny"


def rules(sky: LocalCloud) -> dict[str, dict[str, Any]]:
    found = sky.ask("GET", f"{API}/global/firewalls").get("items", [])
    return {rule["name"]: rule for rule in found if rule["name"].startswith("vmctl-")}


def move_away(sky: LocalCloud) -> None:
    """As if we came from another address than the one that is let in."""
    sky.ask("PATCH", f"{API}/global/firewalls/{ALLOW}", {"sourceRanges": ["10.9.9.9/32"]})


def elsewhere(sky: LocalCloud) -> Laptop:
    """The same person at another computer: no connection of hers is warm."""
    runtime = sky.laptop.home.parent / "r"
    runtime.mkdir(mode=0o700, exist_ok=True)
    extra = {"XDG_RUNTIME_DIR": str(runtime)}
    return Laptop(sky.laptop.home.with_name("other"), sky.laptop.emulator_home, extra)


def test_ssh_is_limited_to_the_address_that_the_vm_sees(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    found = rules(sky)
    assert set(found) == {ALLOW, DENY}
    allow, deny = found[ALLOW], found[DENY]
    assert allow["sourceRanges"] == ["127.0.0.1/32"]
    assert deny["sourceRanges"] == ["0.0.0.0/0"]
    assert allow["priority"] < deny["priority"] < 65534, "before default-allow-ssh"
    assert allow["targetTags"] == deny["targetTags"] == ["tester-vm"], "nobody else's VM"
    assert "tester-vm" in instance(sky)["tags"]["items"]
    assert "limited to your address 127.0.0.1" in sky("status").stdout
    assert "Nothing is left behind" in sky("ls", "--orphans").stderr
    sky("up")
    assert {name: rule["id"] for name, rule in rules(sky).items()} == {
        name: rule["id"] for name, rule in found.items()
    }
    sky("down", "--delete", "--yes")
    assert rules(sky) == {}


def test_from_another_address_up_sets_the_limit_anew(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    move_away(sky)
    other = elsewhere(sky)
    shut = other("exec", "true", cwd=sky.folder, code=7)
    assert "does not answer" in shut.stderr
    told = other("up", cwd=sky.folder).stderr
    assert "the limit is lifted until you are let in" in told
    found = rules(sky)
    assert found[ALLOW]["sourceRanges"] == ["127.0.0.1/32"]
    assert not found[DENY]["disabled"]
    assert other("exec", "echo", "in", cwd=sky.folder).stdout == "in\n"
    other("down", cwd=sky.folder)
    other("up", cwd=sky.folder)
    assert not rules(sky)[DENY]["disabled"]


def test_an_up_that_fails_leaves_the_door_shut(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    move_away(sky)
    set_metadata(sky, enable_oslogin="TRUE")
    elsewhere(sky)("up", cwd=sky.folder, code=5)
    assert not rules(sky)[DENY]["disabled"]


def test_open_ssh_takes_the_limit_away(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    sky("up", "--open-ssh")
    assert rules(sky) == {}
    assert "limited" not in sky("status").stdout
    assert sky("exec", "echo", "in").stdout == "in\n"


def test_rules_of_a_vm_deleted_in_the_console_are_collected(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    sky.ask("DELETE", path_of(instance(sky)))
    eventually(lambda: sky.machines() == [])
    assert ALLOW in sky("ls", "--orphans").stdout
    sky("gc", "--yes")
    assert rules(sky) == {}


def test_a_new_vm_is_not_shut_in_by_the_rules_of_an_earlier_one(sky: LocalCloud) -> None:
    sky("up", "--restrict-ssh")
    move_away(sky)
    sky.ask("DELETE", path_of(instance(sky)))
    eventually(lambda: sky.machines() == [])
    told = elsewhere(sky)("up", cwd=sky.folder).stderr
    assert "the limit is lifted until you are let in" in told
    assert rules(sky)[ALLOW]["sourceRanges"] == ["127.0.0.1/32"]


# -- without an external address -------------------------------------------------------------------

needs_gcloud = pytest.mark.gcloud


@pytest.fixture
def hidden(sky: LocalCloud) -> LocalCloud:
    """A machine that is reached by the real gcloud through the emulator's own proxy."""
    if shutil.which("gcloud") is None:
        reason = "gcloud is not installed: nothing was tunnelled through the proxy"
        if os.environ.get("CI", "").lower() in ("1", "true", "yes"):
            pytest.fail(reason)
        pytest.skip(reason)
    told = sky("up", "--no-external-address").stderr
    assert "unless its network has Cloud NAT" in told
    return sky


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
    assert "limited to Google's Identity-Aware Proxy" in hidden("status").stdout
    assert elsewhere(hidden)("exec", "echo", "in", cwd=hidden.folder).stdout == "in\n"


@needs_gcloud
def test_a_firewall_that_shuts_the_proxy_out_is_named_with_its_mending(hidden: LocalCloud) -> None:
    shut = {
        "name": "no-ssh",
        "network": "global/networks/default",
        "priority": 10,
        "denied": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "sourceRanges": ["35.235.240.0/20"],
    }
    hidden.ask("POST", f"{API}/global/firewalls", shut)
    try:
        error = failed(hidden, code=7)
        assert "no firewall rule lets Google's Identity-Aware Proxy" in error["message"]
        assert "--source-ranges 35.235.240.0/20" in error["hint"]
        told = elsewhere(hidden)("exec", "true", cwd=hidden.folder, code=7).stderr
        assert "Identity-Aware Proxy does not reach the VM's SSH port" in told
        assert "4003" in told
    finally:
        hidden.ask("DELETE", f"{API}/global/firewalls/no-ssh")
    hidden("up")
