"""google-cloud-compute, Google's client for Python: messages, typed exceptions, futures."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from google.api_core import exceptions
from google.auth.exceptions import RefreshError
from google.cloud import compute_v1
from google.oauth2.credentials import Credentials

from .conftest import IMAGE, REGION, ZONE, Site

pytestmark = pytest.mark.timeout(120)
LIMIT_S = 60
SCOPE = "https://www.googleapis.com/auth/cloud-platform"


class Client:
    """The clients of all collections, each made once, and the project in every request."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.credentials = Credentials(site.token)
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        """The client of a collection: `zone_operations` is that of ZoneOperationsClient."""
        if name not in self._made:
            kind = "".join(word.capitalize() for word in name.split("_")) + "Client"
            made = self._made[name] = getattr(compute_v1, kind)(
                credentials=self.credentials, client_options={"api_endpoint": self.site.url}
            )
            if not name.endswith("_operations"):
                # left to itself, `result()` polls Google, whatever the endpoint
                made.transport._extended_operations_services = {
                    scope: getattr(self, scope)
                    for scope in ("zone_operations", "region_operations", "global_operations")
                }
        return self._made[name]

    def close(self) -> None:
        for one in self._made.values():
            one.transport.close()


@pytest.fixture(scope="module")
def google(site: Site) -> Iterator[Client]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REQUESTS_CA_BUNDLE", site.certificate)
        client = Client(site)
        yield client
        client.close()


@pytest.fixture(scope="module")
def here(site: Site) -> dict[str, str]:
    return {"project": site.project, "zone": ZONE}


def body(name: str, **more: Any) -> compute_v1.Instance:
    """A small machine."""
    disk = compute_v1.AttachedDisk(
        boot=True,
        auto_delete=True,
        initialize_params=compute_v1.AttachedDiskInitializeParams(source_image=IMAGE),
    )
    network = compute_v1.NetworkInterface(
        network="global/networks/default",
        access_configs=[compute_v1.AccessConfig(name="External NAT")],
    )
    return compute_v1.Instance(
        name=name,
        machine_type=f"zones/{ZONE}/machineTypes/e2-small",
        disks=[disk],
        network_interfaces=[network],
        **more,
    )


@pytest.fixture(scope="module")
def machine(google: Client, here: dict[str, str]) -> str:
    """A machine that runs."""
    made = body("vm1", labels={"owner": "me"}, tags=compute_v1.Tags(items=["web"]))
    google.instances.insert(**here, instance_resource=made).result(LIMIT_S)
    return "vm1"


@pytest.fixture(scope="module")
def disks(google: Client, here: dict[str, str]) -> list[str]:
    """Five disks, of which two are labelled."""
    names = [f"d{i}" for i in range(5)]
    for i, name in enumerate(names):
        labels = {"team": "a"} if i < 2 else {}
        made = compute_v1.Disk(name=name, size_gb=10 + i, labels=labels)
        google.disks.insert(**here, disk_resource=made).result(LIMIT_S)
    return names


# -- what is offered --


def test_zones_have_their_region_and_a_filter_chooses(google: Client, site: Site) -> None:
    request = compute_v1.ListZonesRequest(
        project=site.project, filter=f'name eq ".*\\b{REGION}\\b.*"'
    )
    found = {zone.name: zone.region for zone in google.zones.list(request)}
    assert set(found) == {f"{REGION}-{letter}" for letter in "bcd"}
    assert all(region.endswith(f"/regions/{REGION}") for region in found.values())


def test_one_zone_is_up(google: Client, here: dict[str, str]) -> None:
    assert google.zones.get(**here).status == "UP"


def test_regions_have_quotas(google: Client, site: Site) -> None:
    found = google.regions.get(project=site.project, region=REGION)
    quotas = {quota.metric: quota.limit for quota in found.quotas}
    assert quotas["NVIDIA_T4_GPUS"] >= 1
    assert any(url.endswith(ZONE) for url in found.zones)


def test_all_regions_are_listed(google: Client, site: Site) -> None:
    assert REGION in {region.name for region in google.regions.list(project=site.project)}


def test_the_project_has_a_number_and_quotas(google: Client, site: Site) -> None:
    found = google.projects.get(project=site.project)
    assert (found.name, found.default_network_tier) == (site.project, "PREMIUM")
    assert found.id > 0
    assert any(quota.metric == "GPUS_ALL_REGIONS" for quota in found.quotas)


def test_the_projects_number_names_the_same_project(google: Client, site: Site) -> None:
    number = google.projects.get(project=site.project).id
    assert google.projects.get(project=str(number)).name == site.project


def test_machine_types_come_in_pages_that_the_pager_follows(
    google: Client, here: dict[str, str]
) -> None:
    request = compute_v1.ListMachineTypesRequest(**here, max_results=20)
    pages = list(google.machine_types.list(request).pages)
    names = [kind.name for page in pages for kind in page.items]
    assert len(pages) > 2
    assert len(names) == len(set(names))
    assert all(len(page.items) <= 20 for page in pages)


def test_machine_types_are_chosen_by_number(google: Client, here: dict[str, str]) -> None:
    request = compute_v1.ListMachineTypesRequest(
        **here, filter='(name = "n1-standard-4") OR (name = "n1-standard-8") AND (guestCpus = 8)'
    )
    assert [kind.name for kind in google.machine_types.list(request)] == ["n1-standard-8"]


def test_one_machine_type(google: Client, here: dict[str, str]) -> None:
    found = google.machine_types.get(**here, machine_type="n1-standard-4")
    assert (found.guest_cpus, found.memory_mb) == (4, 15360)


def test_a_custom_machine_type(google: Client, here: dict[str, str]) -> None:
    found = google.machine_types.get(**here, machine_type="custom-4-16384")
    assert (found.guest_cpus, found.memory_mb) == (4, 16384)


def test_gpus_of_all_zones(google: Client, site: Site) -> None:
    request = compute_v1.AggregatedListAcceleratorTypesRequest(
        project=site.project, filter="name = nvidia-tesla-t4"
    )
    scopes = dict(google.accelerator_types.aggregated_list(request))
    found = {scope for scope, kinds in scopes.items() if kinds.accelerator_types}
    assert f"zones/{ZONE}" in found
    empty = scopes[next(scope for scope in scopes if scope not in found)]
    assert empty.warning.code == "NO_RESULTS_ON_PAGE"


def test_one_gpu(google: Client, here: dict[str, str]) -> None:
    found = google.accelerator_types.get(**here, accelerator_type="nvidia-tesla-t4")
    assert found.maximum_cards_per_instance == 4


def test_disk_types(google: Client, here: dict[str, str]) -> None:
    assert {"pd-standard", "pd-ssd", "pd-balanced"} <= {
        kind.name for kind in google.disk_types.list(**here)
    }
    assert google.disk_types.get(**here, disk_type="pd-ssd").default_disk_size_gb > 0


def test_images_of_a_family(google: Client) -> None:
    newest = google.images.get_from_family(project="debian-cloud", family="debian-12")
    request = compute_v1.ListImagesRequest(
        project="debian-cloud", filter=r'family eq ".*\bdebian\-12\b.*"'
    )
    found = [image.name for image in google.images.list(request)]
    assert newest.name in found
    assert google.images.get(project="debian-cloud", image=newest.name).id == newest.id


def test_networks_and_subnetworks(google: Client, site: Site) -> None:
    assert [n.name for n in google.networks.list(project=site.project)] == ["default"]
    network = google.networks.get(project=site.project, network="default")
    assert network.auto_create_subnetworks
    subnetwork = google.subnetworks.get(project=site.project, region=REGION, subnetwork="default")
    assert subnetwork.network == network.self_link
    listed = [one.self_link for one in google.subnetworks.list(project=site.project, region=REGION)]
    assert listed == [subnetwork.self_link]
    scopes = google.subnetworks.aggregated_list(project=site.project)
    assert set(network.subnetworks) == {
        s.self_link for _, found in scopes for s in found.subnetworks
    }


# -- instances --


def test_what_runs_is_told_in_full(google: Client, here: dict[str, str], machine: str) -> None:
    found = google.instances.get(**here, instance=machine)
    assert found.status == "RUNNING"
    assert found.network_interfaces[0].access_configs[0].nat_i_p
    assert found.disks[0].boot
    assert found.machine_type.endswith("/machineTypes/e2-small")
    nic = found.network_interfaces[0]
    region = {"project": here["project"], "region": REGION}
    subnetwork = google.subnetworks.get(**region, subnetwork=nic.subnetwork.rpartition("/")[2])
    assert ip_address(nic.network_i_p) in ip_network(subnetwork.ip_cidr_range)


def test_an_instance_is_found_by_its_number(
    google: Client, here: dict[str, str], machine: str
) -> None:
    number = google.instances.get(**here, instance=machine).id
    assert google.instances.get(**here, instance=str(number)).name == machine


def test_the_projects_number_leads_to_its_instances(
    google: Client, site: Site, machine: str
) -> None:
    number = google.projects.get(project=site.project).id
    found = google.instances.list(project=str(number), zone=ZONE)
    assert machine in [one.name for one in found]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("labels.owner=me", True),
        ("labels.owner:*", True),
        ("status eq RUNNING", True),
        ("status != RUNNING", False),
        ("name:vm*", True),
        (f'machineType = "https://www.googleapis.com/compute/v1/projects/x/zones/{ZONE}/y"', False),
        ("-labels.owner=me", False),
        ("labels.owner=me AND NOT status=RUNNING", False),
    ],
)
def test_filters_choose_instances(
    google: Client, here: dict[str, str], machine: str, text: str, is_found: bool
) -> None:
    request = compute_v1.ListInstancesRequest(**here, filter=text)
    found = [one.name for one in google.instances.list(request)]
    assert (machine in found) == is_found


def test_instances_of_all_zones(google: Client, site: Site, machine: str) -> None:
    request = compute_v1.AggregatedListInstancesRequest(project=site.project, max_results=10)
    scopes = dict(google.instances.aggregated_list(request))
    assert [one.name for one in scopes[f"zones/{ZONE}"].instances] == [machine]


def test_labels_need_the_current_fingerprint(
    google: Client, here: dict[str, str], machine: str
) -> None:
    before = google.instances.get(**here, instance=machine)
    wanted = compute_v1.InstancesSetLabelsRequest(
        labels={**before.labels, "stage": "test"}, label_fingerprint=before.label_fingerprint
    )
    change = {**here, "instance": machine, "instances_set_labels_request_resource": wanted}
    google.instances.set_labels(**change).result(LIMIT_S)
    assert google.instances.get(**here, instance=machine).labels["stage"] == "test"
    with pytest.raises(exceptions.PreconditionFailed, match="fingerprint"):
        google.instances.set_labels(**change)


def test_metadata_is_set_under_its_fingerprint(
    google: Client, here: dict[str, str], machine: str
) -> None:
    metadata = google.instances.get(**here, instance=machine).metadata
    metadata.items.append(compute_v1.Items(key="note", value="hello"))
    google.instances.set_metadata(**here, instance=machine, metadata_resource=metadata).result(
        LIMIT_S
    )
    found = google.instances.get(**here, instance=machine).metadata
    assert {item.key: item.value for item in found.items}["note"] == "hello"
    assert found.fingerprint != metadata.fingerprint


def test_tags_are_set_under_their_fingerprint(
    google: Client, here: dict[str, str], machine: str
) -> None:
    tags = google.instances.get(**here, instance=machine).tags
    tags.items.append("db")
    google.instances.set_tags(**here, instance=machine, tags_resource=tags).result(LIMIT_S)
    assert list(google.instances.get(**here, instance=machine).tags.items) == ["web", "db"]


def test_a_protected_instance_is_not_deleted(
    google: Client, here: dict[str, str], machine: str
) -> None:
    def protect(wanted: bool) -> None:
        request = compute_v1.SetDeletionProtectionInstanceRequest(
            **here, resource=machine, deletion_protection=wanted
        )
        google.instances.set_deletion_protection(request).result(LIMIT_S)

    protect(True)
    with pytest.raises(exceptions.BadRequest, match="protect"):
        google.instances.delete(**here, instance=machine)
    protect(False)


def test_a_disk_stays_when_its_machine_goes(
    google: Client, here: dict[str, str], machine: str
) -> None:
    device = google.instances.get(**here, instance=machine).disks[0].device_name
    for wanted in (False, True):
        google.instances.set_disk_auto_delete(
            **here, instance=machine, auto_delete=wanted, device_name=device
        ).result(LIMIT_S)
        assert google.instances.get(**here, instance=machine).disks[0].auto_delete == wanted


def test_an_empty_parameter_is_a_bad_request(
    google: Client, here: dict[str, str], machine: str
) -> None:
    with pytest.raises(exceptions.BadRequest, match="deviceName"):
        google.instances.set_disk_auto_delete(
            compute_v1.SetDiskAutoDeleteInstanceRequest(**here, instance=machine)
        )


def test_scheduling_is_changed_while_it_is_off(
    google: Client, here: dict[str, str], machine: str
) -> None:
    wanted = google.instances.get(**here, instance=machine).scheduling
    with pytest.raises(exceptions.BadRequest, match="only while it is TERMINATED"):
        google.instances.set_scheduling(**here, instance=machine, scheduling_resource=wanted)


def test_the_serial_port_goes_on_where_it_was_left(
    google: Client, here: dict[str, str], machine: str
) -> None:
    first = google.instances.get_serial_port_output(**here, instance=machine)
    assert first.contents
    assert first.next_ == first.start + len(first.contents.encode())
    request = compute_v1.GetSerialPortOutputInstanceRequest(
        **here, instance=machine, start=first.next_
    )
    assert google.instances.get_serial_port_output(request).start == first.next_
    last = compute_v1.GetSerialPortOutputInstanceRequest(**here, instance=machine, start=-20)
    assert len(google.instances.get_serial_port_output(last).contents.encode()) <= 20


def test_guest_attributes_that_are_off_are_refused(
    google: Client, here: dict[str, str], machine: str
) -> None:
    with pytest.raises(exceptions.Forbidden, match="enable-guest-attributes"):
        google.instances.get_guest_attributes(**here, instance=machine)


def test_an_external_address_is_taken_and_given(
    google: Client, here: dict[str, str], machine: str
) -> None:
    def addresses() -> list[str]:
        nic = google.instances.get(**here, instance=machine).network_interfaces[0]
        return [access.nat_i_p for access in nic.access_configs]

    before = addresses()
    where = {**here, "instance": machine, "network_interface": "nic0"}
    google.instances.delete_access_config(**where, access_config="External NAT").result(LIMIT_S)
    assert addresses() == []
    wanted = compute_v1.AccessConfig(name="External NAT")
    google.instances.add_access_config(**where, access_config_resource=wanted).result(LIMIT_S)
    assert len(addresses()) == len(before) == 1


def test_permissions(google: Client, here: dict[str, str], machine: str) -> None:
    wanted = ["compute.instances.get", "compute.instances.delete"]
    found = google.instances.test_iam_permissions(
        **here, resource=machine, test_permissions_request_resource={"permissions": wanted}
    )
    assert list(found.permissions) == wanted


def test_reset_keeps_it_running(google: Client, here: dict[str, str], machine: str) -> None:
    google.instances.reset(**here, instance=machine).result(LIMIT_S)
    assert google.instances.get(**here, instance=machine).status == "RUNNING"


def test_a_disk_is_attached_and_detached(
    google: Client, here: dict[str, str], machine: str
) -> None:
    google.disks.insert(**here, disk_resource={"name": "more", "size_gb": 10}).result(LIMIT_S)
    wanted = compute_v1.AttachedDisk(source=f"zones/{ZONE}/disks/more", device_name="data")
    vm = {**here, "instance": machine}
    google.instances.attach_disk(**vm, attached_disk_resource=wanted).result(LIMIT_S)
    assert [one.device_name for one in google.instances.get(**vm).disks][1:] == ["data"]
    assert len(google.disks.get(**here, disk="more").users) == 1
    google.instances.detach_disk(**vm, device_name="data").result(LIMIT_S)
    assert len(google.instances.get(**vm).disks) == 1
    assert not google.disks.get(**here, disk="more").users


def test_a_running_instances_disk_is_in_use(
    google: Client, here: dict[str, str], machine: str
) -> None:
    with pytest.raises(exceptions.BadRequest, match="already being used by"):
        google.disks.delete(**here, disk=machine)


def test_stop_change_and_start(google: Client, here: dict[str, str], machine: str) -> None:
    google.instances.stop(**here, instance=machine).result(LIMIT_S)
    stopped = google.instances.get(**here, instance=machine)
    assert (stopped.status, bool(stopped.last_stop_timestamp)) == ("TERMINATED", True)
    kind = f"zones/{ZONE}/machineTypes/e2-medium"
    google.instances.set_machine_type(
        **here,
        instance=machine,
        instances_set_machine_type_request_resource={"machine_type": kind},
    ).result(LIMIT_S)
    google.instances.set_service_account(
        **here,
        instance=machine,
        instances_set_service_account_request_resource={"email": "me@b.com", "scopes": [SCOPE]},
    ).result(LIMIT_S)
    google.instances.start(**here, instance=machine).result(LIMIT_S)
    found = google.instances.get(**here, instance=machine)
    assert found.status == "RUNNING"
    assert found.machine_type.endswith("/e2-medium")
    assert [account.email for account in found.service_accounts] == ["me@b.com"]


def test_suspend_and_resume(google: Client, here: dict[str, str], machine: str) -> None:
    google.instances.suspend(**here, instance=machine).result(LIMIT_S)
    assert google.instances.get(**here, instance=machine).status == "SUSPENDED"
    google.instances.resume(**here, instance=machine).result(LIMIT_S)
    assert google.instances.get(**here, instance=machine).status == "RUNNING"


def test_what_is_on_local_ssds_is_given_up_in_words(google: Client, here: dict[str, str]) -> None:
    scratch = compute_v1.AttachedDisk(
        type_="SCRATCH",
        auto_delete=True,
        interface="NVME",
        initialize_params=compute_v1.AttachedDiskInitializeParams(
            disk_type=f"zones/{ZONE}/diskTypes/local-ssd"
        ),
    )
    made = body("ssd")
    made.machine_type = f"zones/{ZONE}/machineTypes/n1-standard-1"
    made.disks.append(scratch)
    google.instances.insert(**here, instance_resource=made).result(LIMIT_S)
    with pytest.raises(exceptions.BadRequest, match="discard"):
        google.instances.stop(**here, instance="ssd")
    stop = compute_v1.StopInstanceRequest(**here, instance="ssd", discard_local_ssd=True)
    google.instances.stop(stop).result(LIMIT_S)
    google.instances.delete(**here, instance="ssd").result(LIMIT_S)


@pytest.mark.parametrize(
    ("kind", "scheduling"),
    [
        ("e2-small", {"on_host_maintenance": "TERMINATE"}),
        ("n1-standard-1", {"max_run_duration": {"seconds": 5}}),
        ("n1-standard-1", {"provisioning_model": "SPOT", "automatic_restart": True}),
    ],
    ids=["e2-migrates", "five-seconds", "spot-restarts"],
)
def test_scheduling_that_google_refuses(
    google: Client, here: dict[str, str], kind: str, scheduling: dict[str, Any]
) -> None:
    made = body("odd", scheduling=compute_v1.Scheduling(scheduling))
    made.machine_type = f"zones/{ZONE}/machineTypes/{kind}"
    with pytest.raises(exceptions.BadRequest):
        google.instances.insert(**here, instance_resource=made)


def test_a_name_is_taken_once(google: Client, here: dict[str, str], machine: str) -> None:
    with pytest.raises(exceptions.Conflict, match="already exists"):
        google.instances.insert(**here, instance_resource=body(machine))


def test_a_repeated_request_id_starts_nothing_new(
    google: Client, site: Site, here: dict[str, str]
) -> None:
    site.boots_never("twice")
    request = compute_v1.InsertInstanceRequest(
        **here, instance_resource=body("twice"), request_id=str(uuid.uuid4())
    )
    first, second = google.instances.insert(request), google.instances.insert(request)
    assert first.name == second.name
    site.eventually_is("twice", "STAGING")
    google.instances.delete(**here, instance="twice").result(LIMIT_S)


def test_a_gpu_machine_that_would_migrate_is_refused(google: Client, here: dict[str, str]) -> None:
    gpu = compute_v1.AcceleratorConfig(
        accelerator_count=1, accelerator_type=f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4"
    )
    made = body("gpu", guest_accelerators=[gpu])
    made.machine_type = f"zones/{ZONE}/machineTypes/n1-standard-4"
    with pytest.raises(exceptions.BadRequest, match="do not support live migration"):
        google.instances.insert(**here, instance_resource=made)


def test_a_gpu_machine_of_a_custom_type(google: Client, site: Site, here: dict[str, str]) -> None:
    gpu = compute_v1.AcceleratorConfig(
        accelerator_count=1, accelerator_type=f"zones/{ZONE}/acceleratorTypes/nvidia-tesla-t4"
    )
    scheduling = compute_v1.Scheduling(on_host_maintenance="TERMINATE", automatic_restart=False)
    made = body("gpu", guest_accelerators=[gpu], scheduling=scheduling)
    made.machine_type = f"zones/{ZONE}/machineTypes/custom-4-16384"
    site.boots_never("gpu")
    google.instances.insert(**here, instance_resource=made)
    site.eventually_is("gpu", "STAGING")
    found = google.instances.get(**here, instance="gpu")
    assert found.guest_accelerators[0].accelerator_count == 1
    google.instances.delete(**here, instance="gpu").result(LIMIT_S)


def test_a_stockout_fails_the_operation_with_its_code(
    google: Client, site: Site, here: dict[str, str]
) -> None:
    site.cloud.fault(kind="stockout", zone=ZONE, calls=1)
    made = google.instances.insert(**here, instance_resource=body("nowhere"))
    with pytest.raises(exceptions.ServiceUnavailable, match="ZONE_RESOURCE_POOL_EXHAUSTED"):
        made.result(LIMIT_S)
    assert made.error_code == 503
    with pytest.raises(exceptions.NotFound):
        google.instances.get(**here, instance="nowhere")


def test_a_busy_service_is_asked_again(google: Client, site: Site, here: dict[str, str]) -> None:
    """The client's own retry takes a 503 as something that passes."""
    site.cloud.fault(kind="http", method="compute.zones.get", status=503, calls=1)
    assert google.zones.get(**here).name == ZONE


# -- disks and snapshots --


def test_disks_come_in_pages(google: Client, here: dict[str, str], disks: list[str]) -> None:
    request = compute_v1.ListDisksRequest(**here, max_results=2, filter="name:d*")
    pages = list(google.disks.list(request).pages)
    assert [disk.name for page in pages for disk in page.items] == disks
    assert [len(page.items) for page in pages] == [2, 2, 1]


def test_disks_of_all_zones(google: Client, site: Site, disks: list[str]) -> None:
    request = compute_v1.AggregatedListDisksRequest(
        project=site.project, filter="labels.team=a", include_all_scopes=True
    )
    found = [d.name for _, scope in google.disks.aggregated_list(request) for d in scope.disks]
    assert found == disks[:2]


def test_a_disk_is_found_by_its_number(
    google: Client, here: dict[str, str], disks: list[str]
) -> None:
    found = google.disks.get(**here, disk=disks[3])
    assert (found.size_gb, found.status) == (13, "READY")
    assert google.disks.get(**here, disk=str(found.id)).name == disks[3]


def test_labels_of_a_disk(google: Client, here: dict[str, str], disks: list[str]) -> None:
    wanted = compute_v1.ZoneSetLabelsRequest(
        labels={"team": "b"},
        label_fingerprint=google.disks.get(**here, disk=disks[4]).label_fingerprint,
    )
    google.disks.set_labels(
        **here, resource=disks[4], zone_set_labels_request_resource=wanted
    ).result(LIMIT_S)
    assert google.disks.get(**here, disk=disks[4]).labels == {"team": "b"}


def test_a_disk_grows_and_never_shrinks(
    google: Client, here: dict[str, str], disks: list[str]
) -> None:
    def resize(size_gb: int) -> Any:
        wanted = compute_v1.DisksResizeRequest(size_gb=size_gb)
        return google.disks.resize(**here, disk=disks[2], disks_resize_request_resource=wanted)

    resize(40).result(LIMIT_S)
    assert google.disks.get(**here, disk=disks[2]).size_gb == 40
    with pytest.raises(exceptions.BadRequest, match="larger"):
        resize(20)


def test_a_disk_without_a_name_is_refused(google: Client, here: dict[str, str]) -> None:
    with pytest.raises(exceptions.BadRequest):
        google.disks.insert(**here, disk_resource=compute_v1.Disk(size_gb=10))


def test_a_snapshot_is_made_by_a_zone_operation_of_the_disk(
    google: Client, site: Site, here: dict[str, str], disks: list[str]
) -> None:
    made = google.disks.create_snapshot(
        **here, disk=disks[0], snapshot_resource=compute_v1.Snapshot(name="s-disk")
    )
    made.result(LIMIT_S)
    found = google.snapshots.get(project=site.project, snapshot="s-disk")
    assert (found.status, found.disk_size_gb) == ("READY", 10)


def test_a_snapshot_is_made_by_a_global_operation(
    google: Client, site: Site, here: dict[str, str], disks: list[str]
) -> None:
    wanted = compute_v1.Snapshot(name="s-global", source_disk=f"zones/{ZONE}/disks/{disks[0]}")
    google.snapshots.insert(project=site.project, snapshot_resource=wanted).result(LIMIT_S)
    names = [one.name for one in google.snapshots.list(project=site.project)]
    assert "s-global" in names


def test_a_disk_from_a_snapshot(google: Client, site: Site, here: dict[str, str]) -> None:
    source = compute_v1.Disk(name="origin", size_gb=10)
    google.disks.insert(**here, disk_resource=source).result(LIMIT_S)
    wanted = compute_v1.Snapshot(name="s-origin", source_disk=f"zones/{ZONE}/disks/origin")
    google.snapshots.insert(project=site.project, snapshot_resource=wanted).result(LIMIT_S)
    copy = compute_v1.Disk(name="copy", source_snapshot="global/snapshots/s-origin")
    google.disks.insert(**here, disk_resource=copy).result(LIMIT_S)
    found = google.disks.get(**here, disk="copy")
    assert (found.size_gb, found.source_snapshot.rpartition("/")[2]) == (10, "s-origin")


def test_an_image_of_a_disk(
    google: Client, site: Site, here: dict[str, str], disks: list[str]
) -> None:
    wanted = compute_v1.Image(
        name="i1", family="mine", source_disk=f"zones/{ZONE}/disks/{disks[0]}"
    )
    google.images.insert(project=site.project, image_resource=wanted).result(LIMIT_S)
    found = google.images.get_from_family(project=site.project, family="mine")
    assert (found.name, found.status) == ("i1", "READY")
    copy = compute_v1.Disk(name="of-i1", source_image=found.self_link)
    google.disks.insert(**here, disk_resource=copy).result(LIMIT_S)
    assert google.disks.get(**here, disk="of-i1").source_image_id == str(found.id)
    google.images.delete(project=site.project, image="i1").result(LIMIT_S)
    assert list(google.images.list(project=site.project)) == []


def test_instances_of_a_template_in_bulk(google: Client, site: Site, here: dict[str, str]) -> None:
    one = body("any")
    one.machine_type = "e2-small"
    properties = compute_v1.InstanceProperties(
        machine_type="e2-small", disks=one.disks, network_interfaces=one.network_interfaces
    )
    template = compute_v1.InstanceTemplate(name="t1", properties=properties)
    where = {"project": site.project}
    google.instance_templates.insert(**where, instance_template_resource=template).result(LIMIT_S)
    assert [one.name for one in google.instance_templates.list(**where)] == ["t1"]
    for name in ("bulk-1", "bulk-2"):
        site.boots_never(name)
    google.instances.bulk_insert(
        **here,
        bulk_insert_instance_resource_resource=compute_v1.BulkInsertInstanceResource(
            count=2,
            name_pattern="bulk-#",
            source_instance_template="global/instanceTemplates/t1",
        ),
    )
    for name in ("bulk-1", "bulk-2"):
        site.eventually_is(name, "STAGING")
        google.instances.delete(**here, instance=name).result(LIMIT_S)
    google.instance_templates.delete(**where, instance_template="t1").result(LIMIT_S)


def test_a_snapshot_is_deleted(google: Client, site: Site, disks: list[str]) -> None:
    google.snapshots.delete(project=site.project, snapshot="s-origin").result(LIMIT_S)
    with pytest.raises(exceptions.NotFound, match="s-origin"):
        google.snapshots.get(project=site.project, snapshot="s-origin")


def test_a_disk_is_deleted(google: Client, here: dict[str, str]) -> None:
    google.disks.delete(**here, disk="copy").result(LIMIT_S)
    with pytest.raises(exceptions.NotFound):
        google.disks.get(**here, disk="copy")


# -- addresses and firewall rules --


def test_an_address_is_reserved_listed_and_released(google: Client, site: Site) -> None:
    where = {"project": site.project, "region": REGION}
    wanted = compute_v1.Address(name="a1")
    google.addresses.insert(**where, address_resource=wanted).result(LIMIT_S)
    found = google.addresses.get(**where, address="a1")
    assert (found.status, found.address_type) == ("RESERVED", "EXTERNAL")
    scopes = google.addresses.aggregated_list(project=site.project)
    assert [a.name for _, scope in scopes for a in scope.addresses] == ["a1"]
    google.addresses.delete(**where, address="a1").result(LIMIT_S)
    with pytest.raises(exceptions.NotFound):
        google.addresses.get(**where, address="a1")


def rule(name: str, port: str = "8000-9000", **more: Any) -> compute_v1.Firewall:
    allowed = [compute_v1.Allowed(I_p_protocol="tcp", ports=[port])]
    return compute_v1.Firewall(name=name, allowed=allowed, **more)


def test_a_firewall_rule_is_made_patched_and_listed(google: Client, site: Site) -> None:
    calls, project = google.firewalls, site.project
    calls.insert(project=project, firewall_resource=rule("web")).result(LIMIT_S)
    calls.patch(
        project=project,
        firewall="web",
        firewall_resource=compute_v1.Firewall(priority=900, source_ranges=["10.0.0.0/8"]),
    ).result(LIMIT_S)
    found = calls.get(project=project, firewall="web")
    assert (found.priority, list(found.source_ranges)) == (900, ["10.0.0.0/8"])
    assert list(found.allowed[0].ports) == ["8000-9000"]
    request = compute_v1.ListFirewallsRequest(project=project, filter="name=default-allow-ssh")
    assert [one.name for one in calls.list(request)] == ["default-allow-ssh"]
    calls.delete(project=project, firewall="web").result(LIMIT_S)


@pytest.mark.parametrize(
    "wrong",
    [
        rule("p", port="ssh"),
        rule("p", port="70000"),
        rule("p", source_ranges=["banana"]),
        rule("p", source_ranges=["10.0.0.0/33"]),
        rule("p", priority=99999),
        compute_v1.Firewall(name="p", allowed=[compute_v1.Allowed(ports=["22"])]),
    ],
    ids=["port-name", "port-70000", "no-range", "range-33", "priority", "no-protocol"],
)
def test_a_wrong_firewall_rule_is_refused_and_not_kept(
    google: Client, site: Site, wrong: compute_v1.Firewall
) -> None:
    with pytest.raises(exceptions.BadRequest):
        google.firewalls.insert(project=site.project, firewall_resource=wrong)
    with pytest.raises(exceptions.NotFound):
        google.firewalls.get(project=site.project, firewall="p")


# -- operations, refusals --


def test_operations_are_of_their_scope(
    google: Client, site: Site, here: dict[str, str], disks: list[str]
) -> None:
    made = google.disks.insert(**here, disk_resource=compute_v1.Disk(name="op", size_gb=10))
    ended = google.zone_operations.wait(**here, operation=made.name)
    assert (ended.status, ended.operation_type) == (compute_v1.Operation.Status.DONE, "insert")
    assert ended.target_link.endswith("/disks/op")
    with pytest.raises(exceptions.NotFound):
        google.global_operations.get(project=site.project, operation=made.name)


def test_an_operation_is_found_by_its_number(
    google: Client, here: dict[str, str], disks: list[str]
) -> None:
    known = next(iter(google.zone_operations.list(**here)))
    assert google.zone_operations.get(**here, operation=str(known.id)).name == known.name


def test_operations_of_all_scopes(google: Client, site: Site, disks: list[str]) -> None:
    scopes = google.global_operations.aggregated_list(project=site.project)
    assert f"zones/{ZONE}" in {scope for scope, found in scopes if found.operations}


NOTHING: dict[str, Callable[[Client, Site], Any]] = {
    "instance": lambda g, s: g.instances.get(project=s.project, zone=ZONE, instance="none"),
    "disk": lambda g, s: g.disks.get(project=s.project, zone=ZONE, disk="none"),
    "snapshot": lambda g, s: g.snapshots.get(project=s.project, snapshot="none"),
    "zone": lambda g, s: g.zones.get(project=s.project, zone="mars-a"),
    "region": lambda g, s: g.regions.get(project=s.project, region="mars"),
    "image": lambda g, s: g.images.get(project="debian-cloud", image="none"),
    "network": lambda g, s: g.networks.get(project=s.project, network="none"),
    "machine-type": lambda g, s: g.machine_types.get(
        project=s.project, zone=ZONE, machine_type="none"
    ),
    "project-number": lambda g, s: g.projects.get(project="1"),
}


@pytest.mark.parametrize("what", NOTHING)
def test_what_is_not_there_is_not_found(google: Client, site: Site, what: str) -> None:
    with pytest.raises(exceptions.NotFound):
        NOTHING[what](google, site)


def test_a_filter_that_cannot_be_read_is_refused(google: Client, here: dict[str, str]) -> None:
    with pytest.raises(exceptions.BadRequest, match=r"[Ii]nvalid"):
        list(google.instances.list(compute_v1.ListInstancesRequest(**here, filter="((")))


def test_a_method_that_is_not_there_is_refused_by_name_and_at_once(
    google: Client, site: Site
) -> None:
    with pytest.raises(exceptions.BadRequest, match=r"compute\.routers\.list"):
        list(google.routers.list(project=site.project, region=REGION))


def test_common_metadata_of_the_project(google: Client, site: Site) -> None:
    metadata = google.projects.get(project=site.project).common_instance_metadata
    metadata.items.append(compute_v1.Items(key="shared", value="yes"))
    google.projects.set_common_instance_metadata(
        project=site.project, metadata_resource=metadata
    ).result(LIMIT_S)
    found = google.projects.get(project=site.project).common_instance_metadata
    assert "shared" in {item.key for item in found.items}


def test_a_wrong_secret_is_refused(site: Site, google: Client) -> None:
    client = compute_v1.ZonesClient(
        credentials=Credentials("wrong"), client_options={"api_endpoint": site.url}
    )
    with pytest.raises(RefreshError):  # the client takes the 401 for a token that is too old
        client.get(project=site.project, zone=ZONE)
    client.transport.close()


def test_an_instance_is_deleted_with_its_disk(
    google: Client, here: dict[str, str], machine: str
) -> None:
    google.instances.delete(**here, instance=machine).result(LIMIT_S)
    with pytest.raises(exceptions.NotFound, match=machine):
        google.instances.get(**here, instance=machine)
    with pytest.raises(exceptions.NotFound):
        google.disks.get(**here, disk=machine)
