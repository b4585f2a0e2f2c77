"""Quota before money: what is too small is told before anything is asked for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.harness.attempts import ZONE_B, ZONE_C, output_until, run_failing, zones_of
from tests.harness.cloud import LocalCloud

IMAGE = "projects/debian-cloud/global/images/family/debian-12"


def inserts(cloud: LocalCloud) -> int:
    """How often anybody has asked this emulator for a machine."""
    found = cloud.ask("GET", "/compute/v1/projects/vmctl-local/aggregated/operations")
    items = [op for scope in found["items"].values() for op in scope.get("operations", [])]
    return sum(
        op["operationType"] == "insert" and "/instances/" in op["targetLink"] for op in items
    )


@pytest.mark.parametrize(
    ("words", "limit", "says"),
    [
        ([], {"metric": "NVIDIA_T4_GPUS"}, "in europe-west1: limit 0, 0 in use, 1 needed"),
        (["--spot"], {"metric": "GPUS_ALL_REGIONS"}, "over all regions: limit 0"),
        (["--gpu", "t4:2"], {"metric": "CPUS", "limit": 6}, "limit 6, 0 in use, 8 needed"),
        ([], {"metric": "SSD_TOTAL_GB", "limit": 50}, "limit 50, 0 in use, 100 needed"),
        ([], {"metric": "IN_USE_ADDRESSES"}, "limit 0, 0 in use, 1 needed: short by 1"),
        (["--spot"], {"metric": "PREEMPTIBLE_NVIDIA_T4_GPUS", "limit": 1}, "short by 1"),
    ],
    ids=lambda value: value.get("metric") if isinstance(value, dict) else None,
)
def test_a_quota_that_is_too_small_is_known_before_anything_is_asked_for(
    cloud: LocalCloud, words: list[str], limit: dict[str, Any], says: str
) -> None:
    where = {} if limit["metric"].endswith("ALL_REGIONS") else {"region": "europe-west1"}
    cloud.fault(**{"kind": "quota", "limit": 0, **where, **limit})
    if limit["metric"].startswith("PREEMPTIBLE"):
        words = [*words, "--gpu", "t4:2"]
    before = inserts(cloud)
    document = run_failing(cloud, *words, code=6)
    assert inserts(cloud) == before
    assert f"{limit['metric']} " in document["message"]
    assert says in document["message"]
    assert f"choose: {limit['metric']}" in document["hint"]
    assert "iam-admin/quotas?project=vmctl-local" in document["hint"]
    assert "free trial" in document["hint"]
    assert document["attempts"][0]["kind"] == "quota"


def test_a_quota_that_is_in_use_says_so_and_names_regions_with_room(cloud: LocalCloud) -> None:
    cloud.fault(kind="slow-boot", seconds=3600)
    body = {
        "name": "there",
        "machineType": f"zones/{ZONE_C}/machineTypes/n1-standard-4",
        "guestAccelerators": [
            {
                "acceleratorType": f"zones/{ZONE_C}/acceleratorTypes/nvidia-tesla-t4",
                "acceleratorCount": 1,
            }
        ],
        "scheduling": {"onHostMaintenance": "TERMINATE"},
        "disks": [{"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}],
        "networkInterfaces": [{"network": "global/networks/default"}],
    }
    cloud.api("POST", f"zones/{ZONE_C}/instances", body)
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=1)
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="us-central1", limit=0)
    words = ("--name", "other", "up", "--json")
    document = json.loads(cloud(*words, code=6).stderr.splitlines()[-1])
    assert "limit 1, 1 in use, 1 needed: short by 1" in document["message"]
    assert "There is quota in europe-west4," in document["hint"]
    assert "us-central1" not in document["hint"]
    assert "new value: 2" in document["hint"]


def test_a_region_without_quota_is_left_out_of_the_search(cloud: LocalCloud) -> None:
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=0)
    told = output_until(cloud, "--any-region", last="us-central1-a")
    assert "Skipped: NVIDIA_T4_GPUS in europe-west1" in told
    assert "(attempt 2)" not in told
    assert "us-central1-a: As far as here." in told


def test_spot_without_a_quota_of_its_own_only_warns(cloud: LocalCloud) -> None:
    none = {"kind": "quota", "region": "europe-west1", "limit": 0}
    cloud.fault(metric="PREEMPTIBLE_NVIDIA_T4_GPUS", **none)
    told = output_until(cloud, "--spot", last=ZONE_B)
    assert "no Spot quota" not in told
    assert f"{ZONE_B}: As far as here." in told
    cloud.no_faults()
    for metric in ("PREEMPTIBLE_NVIDIA_T4_GPUS", "NVIDIA_T4_GPUS"):
        cloud.fault(metric=metric, **none)
    before = inserts(cloud)
    told = cloud("up", "--spot", code=6).stderr
    assert "no Spot quota" in told
    assert inserts(cloud) == before + 1
    # Google refuses, names the standard metric, and the diagnosis is the same
    assert "NVIDIA_T4_GPUS in europe-west1: limit 0, 0 in use, 1 needed: short by 1" in told
    assert "choose: NVIDIA_T4_GPUS, europe-west1; new value: 1" in told


def test_quotas_that_cannot_be_read_stop_nobody(cloud: LocalCloud) -> None:
    cloud.fault(kind="http", method="compute.regions.get", status=403, reason="forbidden")
    told = output_until(cloud, last=ZONE_B)
    assert "quotas could not be read, continuing without" in told
    assert f"{ZONE_B}: As far as here." in told


def test_a_family_of_gpus_is_named_when_google_refuses_it(cloud: LocalCloud) -> None:
    """No metric tells it ahead: it is known from the refusal."""
    lowered = {"metric": "GPUS_PER_GPU_FAMILY", "region": "europe-west1", "limit": 0}
    cloud.fault(kind="quota", family="NVIDIA_H100", **lowered)
    document = run_failing(cloud, "--gpu", "h100:8", code=6)
    assert "limit 0 in europe-west1 for NVIDIA_H100" in document["message"]
    assert "console.cloud.google.com/iam-admin/quotas" in document["hint"]


def test_with_wait_a_quota_is_waited_for(cloud: LocalCloud) -> None:
    """Those of all regions and of one are raised one after the other."""
    limits = [
        {"metric": "GPUS_ALL_REGIONS"},
        {"metric": "NVIDIA_T4_GPUS", "region": "europe-west1"},
    ]
    faults = "/emulator/v1/faults"
    added = [cloud.ask("POST", faults, {"kind": "quota", "limit": 0, **limit}) for limit in limits]
    waiting = cloud.laptop.start("up", "--wait", "5m", cwd=cloud.folder)
    assert waiting.stderr is not None
    told = ""
    for short, limit in zip(added, limits, strict=True):
        asked = ""
        while not (limit["metric"] in asked and "Too little quota" in asked):
            line = waiting.stderr.readline().decode()
            assert line, told + asked
            asked += line
        told += asked
        cloud.ask("DELETE", f"{faults}/{short['id']}")  # the raise that was asked for is granted
    told += waiting.communicate(timeout=60)[1].decode()
    assert waiting.returncode == 0, told
    assert "because of --wait" in told
    assert "Request more at https://console.cloud.google.com" in told
    assert len(zones_of(cloud)) == 1
