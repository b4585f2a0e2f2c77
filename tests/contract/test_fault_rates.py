"""Storms of 429 and 503, faults that pass by themselves, disks above a quota, others' projects."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.folders import public_folder

from .conftest import ZONE, Cloud

ZONES = "/compute/v1/projects/p-storm/zones"


@pytest.mark.parametrize("status", [429, 503])
def test_a_fault_rate_refuses_every_second_call(emulator: Emulator, status: int) -> None:
    storm = {"kind": "http", "status": status, "method": "compute.zones.*", "share": 0.5}
    with emulator.fault(**storm):
        answers = [emulator.send("GET", ZONES)[0] for _ in range(6)]
    assert answers == [200, status] * 3


@pytest.fixture(scope="module")
def stepped() -> Iterator[Emulator]:
    """Its time passes when a test says so."""
    emulator = Emulator(public_folder("contract"), "stepped").start()
    yield emulator
    emulator.remove()


def test_a_fault_passes_by_itself(stepped: Emulator) -> None:
    emulator = stepped
    emulator.admin("POST", "faults", {"kind": "http", "status": 503, "lasts_s": 60})
    assert emulator.send("GET", ZONES)[0] == 503
    emulator.admin("POST", "clock", {"advance_s": 59})
    assert emulator.send("GET", ZONES)[0] == 503
    emulator.admin("POST", "clock", {"advance_s": 1})
    assert emulator.send("GET", ZONES)[0] == 200
    assert emulator.admin("GET", "faults")["faults"] == []


def test_a_quota_that_was_lowered_for_a_time_comes_back(stepped: Emulator) -> None:
    emulator = stepped
    path = "/compute/v1/projects/p-storm/regions/europe-west1"

    def limit() -> float:
        quotas = emulator.send("GET", path)[1]["quotas"]
        return next(q["limit"] for q in quotas if q["metric"] == "NVIDIA_T4_GPUS")

    before = limit()
    lowered = {"kind": "quota", "metric": "NVIDIA_T4_GPUS", "region": "europe-west1", "limit": 0}
    emulator.admin("POST", "faults", {**lowered, "lasts_s": 3600})
    assert limit() == 0
    emulator.admin("POST", "clock", {"advance_s": 3600})
    assert limit() == before


def test_a_disk_above_the_quota_is_refused_and_none_is_made(cloud: Cloud) -> None:
    body = {"name": "large", "sizeGb": "101", "type": f"zones/{ZONE}/diskTypes/pd-ssd"}
    where = {"project": cloud.project, "zone": ZONE}
    lowered = {"metric": "SSD_TOTAL_GB", "region": "europe-west1", "limit": 100}
    with cloud.emulator.fault(kind="quota", **lowered):
        ended = cloud.wait(cloud.api.disks().insert(**where, body=body).execute())
        assert ended["httpErrorStatusCode"] == 403
        (error,) = ended["error"]["errors"]
        assert error["message"] == (
            "Quota 'SSD_TOTAL_GB' exceeded.  Limit: 100.0 in region europe-west1."
        )
        assert "items" not in cloud.api.disks().list(**where).execute()
        fits = cloud.wait(
            cloud.api.disks().insert(**where, body=body | {"sizeGb": "100"}).execute()
        )
    assert "error" not in fits
    cloud.wait(cloud.api.disks().delete(**where, disk="large").execute())


def test_the_newest_gpus_are_limited_by_family(cloud: Cloud) -> None:
    body = cloud.body(
        machineType=f"zones/{ZONE}/machineTypes/a3-highgpu-8g",
        scheduling={"onHostMaintenance": "TERMINATE", "automaticRestart": False},
    )
    lowered = {"metric": "GPUS_PER_GPU_FAMILY", "region": "europe-west1", "limit": 4}
    with cloud.emulator.fault(kind="quota", family="NVIDIA_H200", **lowered):
        cloud.granted(body)
        cloud.do("delete")
    with cloud.emulator.fault(kind="quota", family="NVIDIA_H100", **lowered):
        (error,) = cloud.wait(cloud.insert(body))["error"]["errors"]
        assert error["errorDetails"][0]["quotaInfo"] == {
            "metricName": "compute.googleapis.com/gpus_per_gpu_family",
            "limitName": "GPUS-PER-GPU-FAMILY-per-project-region",
            "limit": 4.0,
            "dimensions": {"region": "europe-west1", "gpu_family": "NVIDIA_H100"},
        }
        # Spot counts against a metric of its own
        spot = {"provisioningModel": "SPOT", "onHostMaintenance": "TERMINATE"}
        cloud.granted(body | {"scheduling": spot})


@pytest.mark.parametrize(
    ("collection", "verb", "more", "says"),
    [
        ("instances", "list", {"zone": ZONE}, "'compute.instances.list'"),
        ("instances", "aggregatedList", {}, "'compute.instances.list'"),
        (
            "instances",
            "insert",
            {"zone": ZONE, "body": {"name": "a"}},
            "'compute.instances.create'",
        ),
        ("projects", "get", {}, "'compute.projects.get'"),
    ],
)
def test_googles_own_projects_are_not_the_callers(
    cloud: Cloud, collection: str, verb: str, more: dict[str, Any], says: str
) -> None:
    call = getattr(getattr(cloud.api, collection)(), verb)
    with pytest.raises(HttpError, match=says) as refused:
        call(project="debian-cloud", **more).execute()
    assert refused.value.status_code == 403


def test_everybody_may_read_googles_images(cloud: Cloud) -> None:
    images = cloud.api.images()
    assert images.list(project="debian-cloud").execute()["items"]
    found = images.getFromFamily(project="debian-cloud", family="debian-12").execute()
    assert found["status"] == "READY"
