"""Logging in where a project, an organisation or the user's own rules make it harder."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import project
from tests.e2e.skies import cleared, failed, own_cloud
from tests.e2e.test_bad_days import Cloud

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'
API = "/compute/v1/projects/vmctl-local"


@pytest.fixture(scope="module")
def one_sky() -> Iterator[Cloud]:
    with own_cloud("ways-in") as made:
        project(made.folder, BASE)
        yield made


@pytest.fixture
def sky(one_sky: Cloud) -> Iterator[Cloud]:
    with cleared(one_sky):
        yield one_sky


def instance(sky: Cloud) -> dict[str, Any]:
    found = sky.ask("GET", f"{API}/aggregated/instances")
    (vm,) = [vm for scope in found["items"].values() for vm in scope.get("instances", [])]
    body: dict[str, Any] = vm
    return body


def path_of(vm: dict[str, Any]) -> str:
    return f"{API}/zones/{vm['zone'].rpartition('/')[2]}/instances/{vm['name']}"


def metadata_of(vm: dict[str, Any]) -> dict[str, str]:
    return {item["key"]: item["value"] for item in vm["metadata"]["items"]}


def set_metadata(sky: Cloud, **changed: str) -> None:
    vm = instance(sky)
    items = {**metadata_of(vm), **{key.replace("_", "-"): value for key, value in changed.items()}}
    body = {
        "fingerprint": vm["metadata"]["fingerprint"],
        "items": [{"key": key, "value": value} for key, value in items.items()],
    }
    sky.ask("POST", f"{path_of(vm)}/setMetadata", body)


def set_project_metadata(sky: Cloud, **items: str) -> None:
    shared = sky.ask("GET", API)["commonInstanceMetadata"]
    body = {
        "fingerprint": shared["fingerprint"],
        "items": [{"key": key.replace("_", "-"), "value": text} for key, text in items.items()],
    }
    sky.ask("POST", f"{API}/setCommonInstanceMetadata", body)


# -- OS Login ------------------------------------------------------------------------------------


def test_a_project_that_asks_for_os_login_works(sky: Cloud) -> None:
    set_project_metadata(sky, enable_oslogin="TRUE")
    try:
        sky("up")
        assert sky("exec", "echo", "in").stdout == "in\n"
    finally:
        set_project_metadata(sky)


def test_os_login_on_the_vm_is_named_with_the_command_that_mends_it(sky: Cloud) -> None:
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


def test_an_organisation_that_requires_os_login_is_named(sky: Cloud) -> None:
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


def test_without_guest_attributes_host_keys_come_from_the_serial_port(sky: Cloud) -> None:
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


def test_a_host_key_that_changed_is_exit_7_and_nothing_was_sent(sky: Cloud) -> None:
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
