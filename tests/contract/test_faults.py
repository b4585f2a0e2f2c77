"""Stockouts, quotas, refused and broken calls, preemption, crashes, run limits."""

from __future__ import annotations

import http.client
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httplib2
import pytest
from googleapiclient.errors import HttpError

from tests.harness.emulator import Emulator
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder

from .conftest import ZONE, Cloud, nat_ip


def test_a_stockout_fails_the_operation_and_names_other_zones(cloud: Cloud) -> None:
    with cloud.emulator.fault(kind="stockout", zone=ZONE, gpu="nvidia-tesla-t4"):
        ended = cloud.wait(cloud.insert(cloud.gpu_body()))
    assert (ended["httpErrorStatusCode"], ended["httpErrorMessage"]) == (503, "SERVICE UNAVAILABLE")
    (error,) = ended["error"]["errors"]
    assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
    assert error["message"] == (
        f"The zone 'projects/{cloud.project}/zones/{ZONE}' does not have enough resources "
        "available to fulfill the request.  'NULL:0/NULL:0/NULL:0 (state:STOCKOUT, "
        "sub-state:STOCKOUT, resource type:compute)'."
    )
    _, localized, info = error["errorDetails"]
    assert info["errorInfo"] == {
        "reason": "resource_availability",
        "domain": "compute.googleapis.com",
        "metadatas": {
            "attachment": "nvidia-tesla-t4:1",
            "vmType": "n1-standard-4",
            "zone": ZONE,
            "zonesAvailable": "europe-west1-c,europe-west1-d",
        },
    }
    assert "europe-west1-c, europe-west1-d zone(s)" in localized["localizedMessage"]["message"]
    with pytest.raises(HttpError, match="was not found"):
        cloud.get()
    assert "items" not in cloud.api.disks().list(project=cloud.project, zone=ZONE).execute()


def test_a_stockout_of_one_gpu_leaves_others_and_other_zones_alone(cloud: Cloud) -> None:
    with cloud.emulator.fault(kind="stockout", zone="europe-west1-b", gpu="nvidia-tesla-t4"):
        cloud.granted(cloud.gpu_body("p100", gpu="nvidia-tesla-p100"))
        cloud.granted(cloud.gpu_body("t4", zone="europe-west1-d"), "europe-west1-d")


def test_a_zone_has_so_many_of_a_gpu_and_the_hint_names_zones_with_room(cloud: Cloud) -> None:
    one = {"kind": "capacity", "gpu": "nvidia-tesla-t4", "count": 1}
    with cloud.emulator.fault(**one):
        cloud.create(cloud.gpu_body())
        cloud.granted(cloud.gpu_body("other", zone="europe-west1-d"), "europe-west1-d")
        (error,) = cloud.wait(cloud.insert(cloud.gpu_body("third")))["error"]["errors"]
        assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
        info = error["errorDetails"][2]["errorInfo"]["metadatas"]
        assert info["zonesAvailable"] == "europe-west1-c"
        cloud.do("stop")  # what is stopped holds nothing, and may find its place taken
        cloud.granted(cloud.gpu_body("third"))
        (error,) = cloud.do("start")["error"]["errors"]
        assert "STOCKOUT" in error["message"]

    # nor may it when its zone has run dry
    with cloud.emulator.fault(kind="stockout", zone=ZONE, plain=True):
        (error,) = cloud.do("start")["error"]["errors"]
    assert error["code"] == "ZONE_RESOURCE_POOL_EXHAUSTED"
    assert error["message"].endswith("Try a different zone, or try again later.")
    assert cloud.status() == "TERMINATED"
    assert "error" not in cloud.do("start")


@pytest.mark.parametrize(
    ("fault", "message", "info"),
    [
        (
            {"metric": "NVIDIA_T4_GPUS", "region": "europe-west1", "limit": 1},
            "Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 1.0 in region europe-west1.",
            {
                "metricName": "compute.googleapis.com/nvidia_t4_gpus",
                "limitName": "NVIDIA-T4-GPUS-per-project-region",
                "limit": 1.0,
                "dimensions": {"region": "europe-west1"},
            },
        ),
        (
            {"metric": "GPUS_ALL_REGIONS", "limit": 0},
            "Quota 'GPUS_ALL_REGIONS' exceeded.  Limit: 0.0 globally.",
            {
                "metricName": "compute.googleapis.com/gpus_all_regions",
                "limitName": "GPUS-ALL-REGIONS-per-project",
                "limit": 0.0,
                "dimensions": {"global": "global"},
            },
        ),
    ],
)
def test_a_quota_fails_the_operation(
    cloud: Cloud, fault: dict[str, Any], message: str, info: dict[str, Any]
) -> None:
    with cloud.emulator.fault(kind="quota", **fault):
        ended = cloud.wait(cloud.insert(cloud.gpu_body(count=2)))
    assert ended["httpErrorStatusCode"] == 403
    assert ended["error"]["errors"] == [
        {"code": "QUOTA_EXCEEDED", "message": message, "errorDetails": [{"quotaInfo": info}]}
    ]


def test_spot_uses_the_preemptible_quota(cloud: Cloud) -> None:
    body = cloud.gpu_body(count=2, scheduling={"provisioningModel": "SPOT"})
    where = {"region": "europe-west1"}
    with cloud.emulator.fault(kind="quota", metric="PREEMPTIBLE_NVIDIA_T4_GPUS", limit=1, **where):
        (error,) = cloud.wait(cloud.insert(body))["error"]["errors"]
    assert "PREEMPTIBLE_NVIDIA_T4_GPUS" in error["message"]
    with cloud.emulator.fault(kind="quota", metric="NVIDIA_T4_GPUS", limit=0, **where):
        cloud.granted(body)


def test_spot_quota_that_was_never_asked_for_is_the_standard_one(cloud: Cloud) -> None:
    body = cloud.gpu_body(count=2, scheduling={"provisioningModel": "SPOT"})
    never = {"kind": "quota", "metric": "PREEMPTIBLE_NVIDIA_T4_GPUS", "limit": 0}
    few = {"kind": "quota", "metric": "NVIDIA_T4_GPUS", "limit": 1}
    with (
        cloud.emulator.fault(region="europe-west1", **never),
        cloud.emulator.fault(region="europe-west1", **few),
    ):
        (error,) = cloud.wait(cloud.insert(body))["error"]["errors"]
        assert "'NVIDIA_T4_GPUS' exceeded" in error["message"]
        cloud.granted(body | {"guestAccelerators": cloud.gpu_body()["guestAccelerators"]})


def test_an_operation_fails_with_the_error_that_is_asked_for(cloud: Cloud) -> None:
    with cloud.emulator.fault(
        kind="operation", code="UNSUPPORTED_OPERATION", message="Odd.", zone=ZONE, httpStatus=400
    ):
        ended = cloud.wait(cloud.insert(cloud.body()))
    assert ended["error"]["errors"] == [{"code": "UNSUPPORTED_OPERATION", "message": "Odd."}]
    assert ended["httpErrorStatusCode"] == 400
    cloud.granted()


@pytest.mark.parametrize("status", [429, 503])
def test_the_next_calls_of_a_method_are_refused(cloud: Cloud, status: int) -> None:
    method = "compute.zones.list"
    cloud.emulator.admin(
        "POST", "faults", {"kind": "http", "method": method, "status": status, "calls": 2}
    )
    request = cloud.api.zones().list(project=cloud.project)
    for _ in range(2):
        with pytest.raises(HttpError) as refused:
            request.execute()
        assert refused.value.status_code == status
    assert request.execute()["items"]
    assert cloud.emulator.admin("GET", "faults") == {"faults": []}


def test_a_call_can_be_slow(cloud: Cloud) -> None:
    with cloud.emulator.fault(kind="latency", method="compute.regions.*", seconds=0.4):
        begun = time.monotonic()
        cloud.api.regions().list(project=cloud.project).execute()
        assert time.monotonic() - begun >= 0.4


def test_a_dropped_connection_leaves_the_work_done(cloud: Cloud) -> None:
    request_id = "6f1c1b8e-9f3f-4a55-8f3c-0d6f3f6f0001"
    with (
        cloud.emulator.fault(kind="drop", method="compute.instances.insert", calls=1),
        pytest.raises((http.client.HTTPException, httplib2.HttpLib2Error, OSError)),
    ):
        cloud.insert(cloud.body(), requestId=request_id)
    again = cloud.insert(cloud.body(), requestId=request_id)
    assert "error" not in cloud.wait(again)
    assert cloud.status() == "RUNNING"


def test_preemption_is_a_system_operation_and_stops_the_machine(cloud: Cloud) -> None:
    cloud.create(cloud.body(scheduling={"provisioningModel": "SPOT"}))
    where = {"project": cloud.project, "zone": ZONE, "instance": "vm1"}
    ended = cloud.wait(cloud.emulator.admin("POST", "preempt", where))
    assert (ended["operationType"], ended["user"], ended["statusMessage"]) == (
        "compute.instances.preempted",
        "system",
        "Instance was preempted.",
    )
    assert cloud.status() == "TERMINATED"


def test_a_crashed_host_restarts_what_wants_it_and_only_spot_is_preempted(
    cloud: Cloud,
) -> None:
    cloud.create(cloud.body("back", scheduling={"automaticRestart": True}))
    cloud.create(cloud.body("down", scheduling={"automaticRestart": False}))
    where = {"project": cloud.project, "zone": ZONE, "instance": "back"}
    status, answer = cloud.emulator.send("POST", "/emulator/v1/preempt", where)
    assert (status, answer["error"]["message"][-23:]) == (400, "is not a Spot instance.")
    for name in ("back", "down"):
        where = {"project": cloud.project, "zone": ZONE, "instance": name}
        cloud.emulator.admin("POST", "crash", where)
    assert cloud.status("down") == "TERMINATED"
    assert nat_ip(cloud.get("back"))
    kinds = [
        o["operationType"]
        for o in cloud.api.zoneOperations()
        .list(project=cloud.project, zone=ZONE, filter="user=system")
        .execute()["items"]
    ]
    assert kinds.count("compute.instances.hostError") == 2
    assert kinds.count("compute.instances.automaticRestart") == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "flood"},
        {"kind": "stockout", "zones": ["a"]},
        {"kind": "slow-boot"},
        {"kind": "http", "status": "503"},
        {"kind": "quota", "metric": "CPUS", "limit": True},
    ],
)
def test_a_malformed_fault_is_refused(emulator: Emulator, fault: dict[str, Any]) -> None:
    status, answer = emulator.send("POST", "/emulator/v1/faults", fault)
    assert status == 400, answer
    assert emulator.admin("GET", "faults") == {"faults": []}


@pytest.fixture(scope="module")
def one_stepped() -> Iterator[Emulator]:
    emulator = Emulator(public_folder("contract"), "stepped").start()
    yield emulator
    emulator.remove()


@pytest.fixture
def stepped(one_stepped: Emulator) -> Iterator[Cloud]:
    """A project where time passes when the test says so; no faults are left to the next."""
    made = Cloud(one_stepped, f"p-{uuid.uuid4().hex[:10]}")
    yield made
    one_stepped.admin("DELETE", "faults")
    made.clear()


def test_a_run_limit_strikes_at_its_time_and_not_before(stepped: Cloud) -> None:
    limit = {"maxRunDuration": {"seconds": "3600"}, "instanceTerminationAction": "STOP"}
    instance = stepped.create(stepped.body(scheduling=limit))
    strikes = instance["resourceStatus"]["scheduling"]["terminationTimestamp"]
    stepped.emulator.admin("POST", "clock", {"advance_s": 3599})
    assert stepped.status() == "RUNNING"
    stepped.emulator.admin("POST", "clock", {"advance_s": 7200})
    stopped = stepped.get()
    assert stopped["status"] == "TERMINATED"
    assert stopped["lastStopTimestamp"] == strikes
    assert "terminationTimestamp" not in stopped["resourceStatus"]["scheduling"]
    stepped.do("start")
    again = stepped.get()
    assert again["resourceStatus"]["scheduling"]["terminationTimestamp"] > strikes


def test_a_run_limit_can_delete(stepped: Cloud) -> None:
    limit = {"maxRunDuration": {"seconds": "60"}, "instanceTerminationAction": "DELETE"}
    stepped.create(stepped.body(scheduling=limit))
    stepped.emulator.admin("POST", "clock", {"advance_s": 61})
    with pytest.raises(HttpError, match="was not found"):
        stepped.get()


def test_a_slow_boot_takes_emulated_time(stepped: Cloud) -> None:
    stepped.emulator.admin("POST", "faults", {"kind": "slow-boot", "seconds": 180})
    operation = stepped.insert(stepped.body())
    eventually(lambda: stepped.status() == "STAGING")
    stepped.emulator.admin("POST", "clock", {"advance_s": 179})
    assert stepped.status() == "STAGING"
    stepped.emulator.admin("POST", "clock", {"advance_s": 1})
    assert "error" not in stepped.wait(operation)
    assert stepped.status() == "RUNNING"


def test_deleting_a_machine_that_boots_slowly_does_not_wait_for_it(stepped: Cloud) -> None:
    stepped.emulator.admin("POST", "faults", {"kind": "slow-boot", "seconds": 180})
    operation = stepped.insert(stepped.body())
    eventually(lambda: stepped.status() == "STAGING")
    assert "error" not in stepped.do("delete")
    assert stepped.wait(operation)["error"]["errors"][0]["code"] == "OPERATION_CANCELED_BY_USER"
    assert "items" not in stepped.api.disks().list(project=stepped.project, zone=ZONE).execute()


def test_a_real_clock_cannot_be_advanced(emulator: Emulator) -> None:
    status, answer = emulator.send("POST", "/emulator/v1/clock", {"advance_s": 1})
    assert status == 400
    assert "only a stepped clock" in answer["error"]["message"]
