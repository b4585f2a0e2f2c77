"""Lists, filters, pages, partial replies, and what zones, regions and projects say."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.emulator import Emulator

from .conftest import ZONE, Cloud


def pages(calls: Any, **where: Any) -> list[dict[str, Any]]:
    """Follow a list to its end with the client's own `list_next`."""
    found, request = [], calls.list(**where)
    while request is not None:
        answer = request.execute()
        found.append(answer)
        request = calls.list_next(request, answer)
    return found


def test_the_mission_region_offers_what_google_offers_there(cloud: Cloud) -> None:
    calls = cloud.api.acceleratorTypes().aggregatedList(project=cloud.project)
    items = calls.execute()["items"]
    here = {
        zone: {a["name"] for a in items[f"zones/europe-west1-{zone}"]["acceleratorTypes"]}
        for zone in "bcd"
    }
    assert "nvidia-tesla-t4" in here["b"] & here["c"] & here["d"]
    assert "nvidia-l4" in here["b"]
    assert "nvidia-l4" not in here["d"]
    assert "zones/europe-west1-a" not in items


@pytest.fixture(scope="module")
def two(emulator: Emulator) -> Iterator[Cloud]:
    """A project with one machine that runs, mine, and one that is off, yours."""
    made = Cloud(emulator, f"p-{uuid.uuid4().hex[:10]}")
    made.create(made.body("vm1", labels={"owner": "me"}))
    made.create(made.body("vm2", labels={"owner": "you"}))
    made.do("stop", "vm2")
    yield made
    made.clear()


def test_an_aggregated_list_names_empty_scopes(two: Cloud) -> None:
    calls = two.api.instances()
    answer = calls.aggregatedList(project=two.project, filter="labels.owner=me").execute()
    assert [i["name"] for i in answer["items"][f"zones/{ZONE}"]["instances"]] == ["vm1"]
    empty = answer["items"]["zones/us-central1-a"]
    assert empty == {
        "warning": {
            "code": "NO_RESULTS_ON_PAGE",
            "message": "There are no results for scope 'zones/us-central1-a' on this page.",
            "data": [{"key": "scope", "value": "zones/us-central1-a"}],
        }
    }


def test_filters_choose_instances_by_label_name_and_status(two: Cloud) -> None:
    def names(text: str) -> list[str]:
        calls = two.api.instances()
        answer = calls.list(project=two.project, zone=ZONE, filter=text).execute()
        return [i["name"] for i in answer.get("items", ())]

    assert names("labels.owner=me") == ["vm1"]
    assert names("status eq RUNNING") == ["vm1"]
    assert names("status=TERMINATED AND labels.owner=you") == ["vm2"]
    assert names("labels.owner:*") == ["vm1", "vm2"]
    assert names("name=nobody") == []


def test_long_lists_come_in_pages(cloud: Cloud) -> None:
    found = pages(cloud.api.machineTypes(), project=cloud.project, zone=ZONE, maxResults=20)
    names = [machine["name"] for page in found for machine in page["items"]]
    assert len(found) > 2
    assert all(len(page["items"]) <= 20 for page in found)
    assert len(names) == len(set(names))
    assert {"n1-standard-8", "e2-small", "g2-standard-4", "a3-highgpu-8g"} <= set(names)


def test_every_zone_of_an_aggregated_list_is_complete_over_its_pages(cloud: Cloud) -> None:
    calls = cloud.api.machineTypes()
    request = calls.aggregatedList(project=cloud.project, filter="name=n1-standard-4")
    seen: list[str] = []
    while request is not None:
        answer = request.execute()
        for scope in answer["items"].values():
            seen += [m["zone"] for m in scope.get("machineTypes", ())]
        request = calls.aggregatedList_next(request, answer)
    zones = cloud.api.zones().list(project=cloud.project).execute()["items"]
    assert sorted(seen) == sorted(z["name"] for z in zones)


def test_a_reply_can_be_cut_to_some_fields(two: Cloud) -> None:
    answer = (
        two.api.instances()
        .list(
            project=two.project,
            zone=ZONE,
            filter="name=vm1",
            fields="items(name,networkInterfaces/accessConfigs(natIP)),nextPageToken",
        )
        .execute()
    )
    (instance,) = answer["items"]
    assert set(answer) == {"items"}
    assert set(instance) == {"name", "networkInterfaces"}
    assert set(instance["networkInterfaces"][0]["accessConfigs"][0]) == {"natIP"}


def test_quota_usage_follows_the_machines(cloud: Cloud) -> None:
    def usage(metric: str) -> float:
        region = cloud.api.regions().get(project=cloud.project, region="europe-west1").execute()
        project = cloud.api.projects().get(project=cloud.project).execute()
        quotas = {q["metric"]: q for q in project["quotas"] + region["quotas"]}
        assert quotas[metric]["limit"] >= quotas[metric]["usage"]
        return float(quotas[metric]["usage"])

    assert (usage("NVIDIA_T4_GPUS"), usage("GPUS_ALL_REGIONS"), usage("CPUS")) == (0, 0, 0)
    cloud.create(cloud.gpu_body(count=2))
    assert (usage("NVIDIA_T4_GPUS"), usage("GPUS_ALL_REGIONS"), usage("CPUS")) == (2, 2, 4)
    cloud.do("stop")
    assert (usage("NVIDIA_T4_GPUS"), usage("GPUS_ALL_REGIONS"), usage("CPUS")) == (0, 0, 0)


@pytest.mark.parametrize(
    "family",
    ["pytorch-2-9-cu129-ubuntu-2404-nvidia-580", "pytorch-2-9-cu129-ubuntu-2204-nvidia-580"],
)
def test_an_image_family_resolves_to_a_dated_image(cloud: Cloud, family: str) -> None:
    images = cloud.api.images()
    project = "deeplearning-platform-release"
    image = images.getFromFamily(project=project, family=family).execute()
    assert image["name"].startswith(f"{family}-v2026")
    assert image["family"] == family
    assert images.get(project=project, image=image["name"]).execute() == image
    listed = images.list(project=project, filter=f"family={family}").execute()["items"]
    assert listed == [image]


def test_gpu_series_name_their_gpus(cloud: Cloud) -> None:
    machine = (
        cloud.api.machineTypes()
        .get(project=cloud.project, zone=ZONE, machineType="g2-standard-24")
        .execute()
    )
    assert machine["accelerators"] == [
        {"guestAcceleratorType": "nvidia-l4", "guestAcceleratorCount": 2}
    ]
    assert (machine["guestCpus"], machine["memoryMb"]) == (24, 98304)


def test_a_gpu_series_brings_its_gpus_without_being_asked(cloud: Cloud) -> None:
    body = cloud.body(
        machineType=f"zones/{ZONE}/machineTypes/g2-standard-4",
        scheduling={"onHostMaintenance": "TERMINATE"},
    )
    (accelerator,) = cloud.granted(body)["guestAccelerators"]
    assert accelerator["acceleratorType"].endswith("/nvidia-l4")
    assert accelerator["acceleratorCount"] == 1


def test_disks_can_be_made_labelled_and_deleted_on_their_own(cloud: Cloud) -> None:
    calls, where = cloud.api.disks(), {"project": cloud.project, "zone": ZONE}
    kind = cloud.api.diskTypes().get(**where, diskType="pd-balanced").execute()
    body = {"name": "data", "sizeGb": "20", "type": kind["selfLink"], "labels": {"a": "b"}}
    cloud.wait(calls.insert(**where, body=body).execute())
    disk = calls.get(**where, disk="data").execute()
    assert (disk["sizeGb"], disk["status"], disk["labels"]) == ("20", "READY", {"a": "b"})
    everywhere = calls.aggregatedList(project=cloud.project).execute()["items"]
    assert [d["name"] for d in everywhere[f"zones/{ZONE}"]["disks"]] == ["data"]
    cloud.wait(calls.delete(**where, disk="data").execute())
    assert "items" not in calls.list(**where).execute()


def test_firewall_rules_are_kept_and_changed(cloud: Cloud) -> None:
    calls, where = cloud.api.firewalls(), {"project": cloud.project}
    defaults = {rule["name"]: rule for rule in calls.list(**where).execute()["items"]}
    assert defaults["default-allow-ssh"]["sourceRanges"] == ["0.0.0.0/0"]
    rule = {
        "name": "mine",
        "network": "global/networks/default",
        "allowed": [{"IPProtocol": "tcp", "ports": ["22"]}],
        "sourceRanges": ["35.235.240.0/20"],
        "targetTags": ["vmctl"],
    }
    cloud.wait(calls.insert(**where, body=rule).execute())
    cloud.wait(calls.patch(**where, firewall="mine", body={"priority": 500}).execute())
    saved = calls.get(**where, firewall="mine").execute()
    assert (saved["priority"], saved["direction"]) == (500, "INGRESS")
    assert saved["sourceRanges"] == ["35.235.240.0/20"]
    cloud.wait(calls.delete(**where, firewall="mine").execute())
    assert set(defaults) == {r["name"] for r in calls.list(**where).execute()["items"]}


def test_project_metadata_is_shared_and_guarded(cloud: Cloud) -> None:
    project = cloud.api.projects().get(project=cloud.project).execute()
    body = {
        "fingerprint": project["commonInstanceMetadata"]["fingerprint"],
        "items": [{"key": "enable-guest-attributes", "value": "TRUE"}],
    }
    where = {"project": cloud.project}
    operation = cloud.api.projects().setCommonInstanceMetadata(**where, body=body).execute()
    assert "error" not in cloud.wait(operation)
    instance = cloud.create()
    answer = (
        cloud.api.instances()
        .getGuestAttributes(**where, zone=ZONE, instance=instance["name"], queryPath="hostkeys/")
        .execute()
    )
    assert answer["queryValue"]["items"]


def test_operations_are_listed_by_zone_and_everywhere(two: Cloud) -> None:
    where = {"project": two.project}
    mine = two.api.zoneOperations().list(**where, zone=ZONE).execute()["items"]
    assert sorted(o["operationType"] for o in mine) == ["insert", "insert", "stop"]
    unfinished = two.api.globalOperations().aggregatedList(
        **where, filter="operationType=insert AND status!=DONE"
    )
    assert all("operations" not in scope for scope in unfinished.execute()["items"].values())
