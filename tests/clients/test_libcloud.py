"""apache-libcloud's driver for Compute Engine: one interface for many clouds, errors by reason."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import libcloud.security
import pytest
import requests
from libcloud.common import google
from libcloud.compute.drivers.gce import GCENodeDriver
from libcloud.compute.types import NodeState

from .conftest import REGION, ZONE, Site
from .redirect.sitecustomize import lead_to

pytestmark = pytest.mark.timeout(120)
FAR = "2999-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def driver(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    token = tmp_path_factory.mktemp("libcloud") / "token"
    token.write_text(json.dumps({"access_token": site.token, "expire_time": FAR}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(libcloud.security, "CA_CERTS_PATH", site.certificate)
        patch.setattr(requests.Session, "prepare_request", requests.Session.prepare_request)
        patch.setattr(google.GoogleBaseConnection, "poll_interval", 0.05)
        lead_to(site.url)
        yield GCENodeDriver(
            "somebody", "secret", ZONE, site.project, auth_type="IA", credential_file=str(token)
        )


def create(driver: Any, name: str, **more: Any) -> Any:
    size = more.pop("size", "e2-small")
    image = driver.ex_get_image_from_family("debian-12", ["debian-cloud"], False)
    return driver.create_node(name, size, image, use_existing_disk=False, **more)


@pytest.fixture(scope="module")
def node(driver: Any) -> Any:
    """A machine that runs."""
    return create(
        driver, "vm1", ex_tags=["web"], ex_labels={"owner": "me"}, ex_metadata={"note": "hello"}
    )


@pytest.fixture(scope="module")
def volume(driver: Any) -> Any:
    return driver.create_volume(12, "d1", ex_disk_type="pd-ssd")


# -- what is offered --


def test_zones_are_locations(driver: Any) -> None:
    assert ZONE in {place.name for place in driver.list_locations()}


def test_zones_know_when_they_are_up(driver: Any) -> None:
    zone = driver.ex_get_zone(ZONE)
    assert (zone.name, zone.status, zone.country) == (ZONE, "UP", "europe")


def test_regions_have_quotas(driver: Any) -> None:
    region = driver.ex_get_region(REGION)
    assert ZONE in {zone.name for zone in region.zones}
    assert "NVIDIA_T4_GPUS" in {quota["metric"] for quota in region.quotas}
    assert REGION in {one.name for one in driver.ex_list_regions()}


def test_the_project(driver: Any, site: Site) -> None:
    project = driver.ex_get_project()
    assert project.name == site.project
    assert {quota["metric"] for quota in project.quotas} >= {"GPUS_ALL_REGIONS"}


def test_sizes_of_a_zone(driver: Any) -> None:
    sizes = {size.name: size for size in driver.list_sizes()}
    assert (sizes["n1-standard-4"].ram, sizes["n1-standard-4"].extra["guestCpus"]) == (15360, 4)


def test_sizes_of_all_zones(driver: Any) -> None:
    pages = driver.ex_list(driver.list_sizes, location="all").page()
    zones = {size.extra["zone"].name for page in pages for size in page}
    assert {ZONE, "us-central1-a"} <= zones


def test_sizes_by_a_filter(driver: Any) -> None:
    listed = driver.ex_list(driver.list_sizes).filter('name eq "n1-standard-[48]"')
    assert [size.name for page in listed.page(1) for size in page] == [
        "n1-standard-4", "n1-standard-8",
    ]  # fmt: skip


def test_one_size(driver: Any) -> None:
    assert driver.ex_get_size("a2-highgpu-1g", "us-central1-a").ram == 87040


def test_a_custom_size(driver: Any) -> None:
    assert driver.ex_get_size("custom-4-16384").ram == 16384


def test_one_gpu(driver: Any) -> None:
    gpu = driver.ex_get_accelerator_type("nvidia-tesla-t4")
    assert (gpu.name, gpu.extra["maximumCardsPerInstance"]) == ("nvidia-tesla-t4", 4)


def test_disk_types(driver: Any) -> None:
    assert "pd-ssd" in {kind.name for kind in driver.ex_list_disktypes()}
    assert driver.ex_get_disktype("pd-balanced").extra["default_disk_size_gb"] == "100"


def test_images_of_a_public_project(driver: Any) -> None:
    found = driver.list_images(ex_project="debian-cloud")
    assert [image.extra["family"] for image in found] == ["debian-12"]


def test_the_image_of_a_family(driver: Any) -> None:
    image = driver.ex_get_image_from_family("debian-12", ex_project_list=["debian-cloud"])
    assert image.name.startswith("debian-12-v")
    assert driver.ex_get_image(image.extra["selfLink"]).id == image.id


def test_the_default_network(driver: Any) -> None:
    assert [one.name for one in driver.ex_list_networks()] == ["default"]
    assert driver.ex_get_network("default").mode == "auto"


def test_subnetworks(driver: Any) -> None:
    here = driver.ex_list_subnetworks(REGION)
    assert [(one.name, one.network.name) for one in here] == [("default", "default")]
    assert here[0].cidr in {one.cidr for one in driver.ex_list_subnetworks("all")}


# -- nodes --


def test_a_node_runs(driver: Any, node: Any) -> None:
    assert node.state == NodeState.RUNNING
    assert node.size == "e2-small"
    assert node.public_ips[0]
    assert node.private_ips[0].startswith("10.")
    assert node.extra["labels"] == {"owner": "me"}


def test_nodes_of_a_zone(driver: Any, node: Any) -> None:
    assert [one.name for one in driver.list_nodes()] == ["vm1"]


def test_nodes_of_all_zones(driver: Any, node: Any) -> None:
    assert [one.id for one in driver.list_nodes("all")] == [node.id]


def test_nodes_in_pages(driver: Any, node: Any) -> None:
    pages = list(driver.ex_list(driver.list_nodes, ex_zone="all").page(1))
    assert [one.name for page in pages for one in page] == ["vm1"]


def test_labels_of_a_node(driver: Any, node: Any) -> None:
    fresh = driver.ex_get_node("vm1")
    assert driver.ex_set_node_labels(fresh, {"owner": "me", "stage": "test"})
    assert driver.ex_get_node("vm1").extra["labels"]["stage"] == "test"
    with pytest.raises(google.GoogleBaseError) as refused:
        driver.ex_set_node_labels(fresh, {"owner": "you"})
    assert refused.value.code == "conditionNotMet"


def test_metadata_of_a_node(driver: Any, node: Any) -> None:
    assert driver.ex_set_node_metadata(driver.ex_get_node("vm1"), {"note": "again"})
    items = driver.ex_get_node("vm1").extra["metadata"]["items"]
    assert {item["key"]: item["value"] for item in items}["note"] == "again"


def test_tags_of_a_node(driver: Any, node: Any) -> None:
    assert driver.ex_set_node_tags(driver.ex_get_node("vm1"), ["web", "db"])
    assert driver.ex_get_node("vm1").extra["tags"] == ["web", "db"]


def test_what_the_serial_port_said(driver: Any, node: Any) -> None:
    assert driver.ex_get_serial_output(node)


def test_an_external_address_is_taken_and_given(driver: Any, node: Any) -> None:
    assert driver.ex_delete_access_config(node, "External NAT", "nic0")
    assert not any(driver.ex_get_node("vm1").public_ips)
    assert driver.ex_add_access_config(node, "External NAT", "nic0")
    assert driver.ex_get_node("vm1").public_ips[0]


def test_a_disk_that_stays(driver: Any, node: Any) -> None:
    disk = driver.ex_get_volume("vm1")
    assert driver.ex_set_volume_auto_delete(disk, node, auto_delete=False)
    assert not driver.ex_get_node("vm1").extra["disks"][0]["autoDelete"]


def test_a_volume_is_attached_and_detached(driver: Any, node: Any) -> None:
    more = driver.create_volume(10, "more")
    assert driver.attach_volume(node, more)
    disks = driver.ex_get_node("vm1").extra["disks"]
    assert [disk["deviceName"] for disk in disks][1:] == ["more"]
    assert driver.detach_volume(more, ex_node=node)
    assert len(driver.ex_get_node("vm1").extra["disks"]) == 1


def test_a_disk_in_use_is_not_destroyed(driver: Any, node: Any) -> None:
    with pytest.raises(google.InvalidRequestError) as refused:
        driver.destroy_volume(driver.ex_get_volume("vm1"))
    assert refused.value.code == "resourceInUseByAnotherResource"


def test_a_name_is_taken_once(driver: Any, node: Any) -> None:
    with pytest.raises(google.ResourceExistsError):
        create(driver, "vm1", ex_boot_disk=driver.ex_get_volume("vm1"))


def test_reboot(driver: Any, node: Any) -> None:
    assert driver.reboot_node(node)
    assert driver.ex_get_node("vm1").state == NodeState.RUNNING


def test_stop(driver: Any, node: Any) -> None:
    assert driver.stop_node(node)
    assert driver.ex_get_node("vm1").state == NodeState.STOPPED


def test_another_size_while_it_is_off(driver: Any, node: Any) -> None:
    assert driver.ex_set_machine_type(node, "e2-medium")
    assert driver.ex_get_node("vm1").size == "e2-medium"


def test_start(driver: Any, node: Any) -> None:
    assert driver.start_node(node)
    assert driver.ex_get_node("vm1").state == NodeState.RUNNING


def test_a_gpu_node(driver: Any, site: Site) -> None:
    site.cloud.fault(kind="slow-boot", seconds=1, instance="gpu", calls=1)
    gpu = create(
        driver, "gpu", size="n1-standard-4", ex_accelerator_type="nvidia-tesla-t4",
        ex_accelerator_count=1, ex_on_host_maintenance="TERMINATE", ex_automatic_restart=False,
    )  # fmt: skip
    assert gpu.extra["status"] == "RUNNING"
    assert driver.destroy_node(gpu)


def test_a_stockout_is_named(driver: Any, site: Site) -> None:
    site.cloud.fault(kind="stockout", zone=ZONE, calls=1)
    with pytest.raises(google.GoogleBaseError) as refused:
        create(driver, "nowhere")
    assert "ZONE_RESOURCE_POOL_EXHAUSTED" in str(refused.value.code)


def test_a_quota_is_named(driver: Any, site: Site) -> None:
    site.cloud.fault(kind="quota", metric="CPUS", region=REGION, limit=0, calls=1)
    with pytest.raises(google.QuotaExceededError):
        create(driver, "nowhere")
    site.cloud.no_faults()


def test_a_node_and_its_disk_are_destroyed(driver: Any, node: Any) -> None:
    assert driver.destroy_node(driver.ex_get_node("vm1"), destroy_boot_disk=True)
    assert driver.list_nodes("all") == []
    with pytest.raises(google.ResourceNotFoundError):
        driver.ex_get_volume("vm1")


# -- volumes and snapshots --


def test_a_volume(driver: Any, volume: Any) -> None:
    assert (volume.name, int(volume.size), volume.extra["type"]) == ("d1", 12, "pd-ssd")
    assert volume.extra["status"] == "READY"
    assert "d1" in {one.name for one in driver.list_volumes()}
    assert "d1" in {one.name for one in driver.list_volumes("all")}


def test_labels_of_a_volume(driver: Any, volume: Any) -> None:
    assert driver.ex_set_volume_labels(driver.ex_get_volume("d1"), {"team": "a"})
    assert driver.ex_get_volume("d1").extra["labels"] == {"team": "a"}


def test_a_volume_grows(driver: Any) -> None:
    small = driver.create_volume(10, "d3")
    assert driver.ex_resize_volume(small, 20)
    assert int(driver.ex_get_volume("d3").size) == 20


def test_a_snapshot(driver: Any, volume: Any) -> None:
    made = driver.create_volume_snapshot(volume, "s1")
    assert (made.name, int(made.size)) == ("s1", 12)
    assert [one.name for one in driver.ex_list_snapshots()] == ["s1"]
    assert [one.name for one in driver.list_volume_snapshots(volume)] == ["s1"]


def test_a_volume_of_a_snapshot(driver: Any, volume: Any) -> None:
    copy = driver.create_volume(12, "d2", snapshot="s1")
    assert copy.extra["sourceSnapshot"].endswith("/snapshots/s1")
    assert driver.destroy_volume(copy)


def test_an_image_of_a_volume(driver: Any, volume: Any) -> None:
    made = driver.ex_create_image("i1", volume, family="mine", ex_labels={"team": "a"})
    assert (made.name, made.extra["status"], made.extra["family"]) == ("i1", "READY", "mine")
    assert [image.name for image in driver.list_images()][:1] == ["i1"]
    assert driver.ex_get_image_from_family("mine").id == made.id
    copy = driver.create_volume(12, "d4", image=made)
    assert copy.extra["sourceImage"] == made.extra["selfLink"]
    assert driver.ex_delete_image(made)


def test_a_snapshot_is_destroyed(driver: Any, volume: Any) -> None:
    assert driver.destroy_volume_snapshot(driver.ex_get_snapshot("s1"))
    with pytest.raises(google.ResourceNotFoundError):
        driver.ex_get_snapshot("s1")


# -- addresses and firewall rules --


def test_an_address_by_its_number(driver: Any) -> None:
    made = driver.ex_create_address("a1", address="203.0.113.9")
    assert (made.name, made.address) == ("a1", "203.0.113.9")
    assert made.region.name == REGION
    assert made.extra["status"] == "RESERVED"
    assert [one.name for one in driver.ex_list_addresses("all")] == ["a1"]


def test_a_node_at_a_reserved_address(driver: Any) -> None:
    made = create(driver, "vm2", external_ip=driver.ex_get_address("a1"))
    assert made.public_ips == ["203.0.113.9"]
    assert driver.destroy_node(made)


def test_an_address_is_released(driver: Any) -> None:
    assert driver.ex_destroy_address(driver.ex_get_address("a1"))
    with pytest.raises(google.ResourceNotFoundError):
        driver.ex_get_address("a1")


def test_a_firewall_rule_is_made(driver: Any) -> None:
    rule = driver.ex_create_firewall(
        "web", [{"IPProtocol": "tcp", "ports": ["8000-9000"]}], source_ranges=["10.0.0.0/8"]
    )
    assert (rule.name, rule.priority, rule.direction) == ("web", 1000, "INGRESS")
    assert rule.allowed == [{"IPProtocol": "tcp", "ports": ["8000-9000"]}]
    assert {"web", "default-allow-ssh"} <= {one.name for one in driver.ex_list_firewalls()}


def test_a_firewall_rule_is_replaced(driver: Any) -> None:
    rule = driver.ex_get_firewall("web")
    rule.source_ranges, rule.allowed = ["10.1.0.0/16"], [{"IPProtocol": "udp"}]
    assert driver.ex_update_firewall(rule).source_ranges == ["10.1.0.0/16"]
    assert driver.ex_get_firewall("web").allowed == [{"IPProtocol": "udp"}]


def test_a_firewall_rule_is_destroyed(driver: Any) -> None:
    assert driver.ex_destroy_firewall(driver.ex_get_firewall("web"))
    with pytest.raises(google.ResourceNotFoundError):
        driver.ex_get_firewall("web")


@pytest.mark.parametrize("ports", [["ssh"], ["70000"], ["9-8"]])
def test_a_wrong_firewall_rule_is_refused(driver: Any, ports: list[str]) -> None:
    with pytest.raises(google.InvalidRequestError):
        driver.ex_create_firewall("p", [{"IPProtocol": "tcp", "ports": ports}])
    assert "p" not in {one.name for one in driver.ex_list_firewalls()}


# -- refusals --

NOTHING: dict[str, Callable[[Any], Any]] = {
    "node": lambda d: d.ex_get_node("none"),
    "volume": lambda d: d.connection.request(f"/zones/{ZONE}/disks/none"),
    "size": lambda d: d.ex_get_size("none"),
    "network": lambda d: d.ex_get_network("none"),
    "address": lambda d: d.ex_get_address("none", REGION),
    "region": lambda d: d.ex_get_region("mars"),
    "gpu": lambda d: d.ex_get_accelerator_type("none"),
    "image": lambda d: d.ex_get_image_from_family("none", ["debian-cloud"], False),
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_is_not_there_is_not_found(driver: Any, what: str) -> None:
    with pytest.raises(google.ResourceNotFoundError):
        NOTHING[what](driver)


def test_a_method_that_is_not_there_is_refused_by_name(driver: Any) -> None:
    with pytest.raises(google.InvalidRequestError, match=r"compute\.urlMaps\.list"):
        driver.ex_list_urlmaps()


def test_common_metadata_of_the_project(driver: Any) -> None:
    assert driver.ex_set_common_instance_metadata({"shared": "yes"})
    items = driver.ex_get_project().extra["commonInstanceMetadata"]["items"]
    assert items == [{"key": "shared", "value": "yes"}]


def test_a_wrong_secret_is_refused(site: Site, driver: Any, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(json.dumps({"access_token": "wrong", "expire_time": FAR}))
    with pytest.raises(Exception, match="bearer token") as refused:
        GCENodeDriver(
            "somebody", "secret", ZONE, site.project, auth_type="IA", credential_file=str(token)
        )
    assert refused.value.http_code == 401
