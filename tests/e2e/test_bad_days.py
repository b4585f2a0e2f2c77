"""`up` and `down` on the days that users really have: faults of the embedded Compute Engine."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.harness.cloud import LocalCloud
from tests.harness.eventually import eventually


@pytest.fixture(scope="module")
def one_cloud() -> Iterator[LocalCloud]:
    with LocalCloud.opened("bad-days") as made:
        yield made


@pytest.fixture
def cloud(one_cloud: LocalCloud) -> Iterator[LocalCloud]:
    """The same emulator, with no faults and no machines, before and after each test."""
    yield one_cloud
    one_cloud.ask("DELETE", "/emulator/v1/faults")
    one_cloud("down", "--delete", "--yes")
    assert one_cloud.machines() == []


def test_a_stockout_moves_to_the_zone_that_google_names(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone="europe-west1-b", zonesAvailable=["europe-west1-d"])
    told = cloud("up").stderr
    assert "currently unavailable in the europe-west1-b zone" in told
    assert [vm["zone"] for vm in cloud.machines()] == ["europe-west1-d"]


def test_a_stockout_everywhere_says_what_each_zone_said(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", gpu="nvidia-tesla-t4")
    told = cloud("up", code=6).stderr
    last = told[told.index("error:") :]
    for zone in ("europe-west1-b", "europe-west1-c", "europe-west1-d"):
        assert zone in last
    assert "--any-region" in last
    assert cloud.machines() == []


def test_a_chosen_zone_without_capacity_is_the_end(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone="europe-west1-c", plain=True)
    told = cloud("up", "--zone", "europe-west1-c", code=6).stderr
    assert "vmctl up --region europe-west1" in told
    assert cloud.machines() == []


def test_a_quota_names_metric_limit_region_and_page(cloud: LocalCloud) -> None:
    cloud.fault(kind="quota", metric="NVIDIA_T4_GPUS", region="europe-west1", limit=0)
    told = cloud("up", code=6).stderr
    assert "NVIDIA_T4_GPUS" in told
    assert "in europe-west1: limit 0, 0 in use, 1 needed: short by 1" in told
    assert "https://console.cloud.google.com/iam-admin/quotas?project=vmctl-local" in told
    assert cloud.machines() == []


def test_the_api_switched_off_names_the_page(cloud: LocalCloud) -> None:
    page = (
        "https://console.developers.google.com/apis/api/compute.googleapis.com/overview?project=7"
    )
    cloud.fault(
        kind="http",
        status=403,
        reason="accessNotConfigured",
        message=f"Compute Engine API has not been used in project 7 before or it is disabled. "
        f"Enable it by visiting {page} then retry.",
    )
    assert page in cloud("up", code=5).stderr
    cloud.ask("DELETE", "/emulator/v1/faults")


def test_trouble_that_passes_is_sat_out_and_makes_one_machine(cloud: LocalCloud) -> None:
    cloud.fault(kind="http", method="compute.instances.insert", status=503, calls=1)
    cloud.fault(kind="http", method="compute.instances.get", status=429, calls=1)
    cloud("up")
    assert len(cloud.machines()) == 1


def test_a_lost_answer_to_the_creation_makes_one_machine(cloud: LocalCloud) -> None:
    cloud.fault(kind="drop", method="compute.instances.insert", when="after", calls=1)
    cloud("up")
    assert [vm["status"] for vm in cloud.machines()] == ["RUNNING"]


def test_a_killed_up_is_taken_over_by_the_next(cloud: LocalCloud) -> None:
    cloud.fault(kind="slow-boot", seconds=3)
    # the second zone: an `up` that forgot the first would try europe-west1-b
    cloud.fault(kind="stockout", zone="europe-west1-b", plain=True, calls=1)
    first = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(
        lambda: [vm for vm in cloud.machines() if vm["zone"] == "europe-west1-c"],
        what="the creation has begun in the second zone",
    )
    first.send_signal(signal.SIGKILL)
    first.communicate()
    (begun,) = cloud.machines()
    assert begun["status"] != "RUNNING"
    result = cloud.laptop.json("up", cwd=cloud.folder)
    assert result["instance_id"] == begun["id"]
    assert [vm["id"] for vm in cloud.machines()] == [begun["id"]]


def test_ctrl_c_says_how_to_go_on_and_how_to_undo(cloud: LocalCloud) -> None:
    cloud.fault(kind="slow-boot", seconds=2)
    first = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(cloud.machines, what="the creation has begun")
    first.send_signal(signal.SIGINT)
    told = first.communicate()[1].decode()
    assert first.returncode == 130
    assert "vmctl up" in told
    assert "vmctl down --delete" in told
    cloud("up")
    assert len(cloud.machines()) == 1


@pytest.mark.parametrize("after_s", [0.3, 0.5, 0.7, 0.9, 1.1, 1.3])
def test_killed_at_any_moment_the_same_command_succeeds(cloud: LocalCloud, after_s: float) -> None:
    first = cloud.laptop.start("up", cwd=cloud.folder)
    with contextlib.suppress(subprocess.TimeoutExpired):
        first.wait(after_s)
    first.kill()
    first.communicate()
    cloud("up")
    assert [vm["status"] for vm in cloud.machines()] == ["RUNNING"]
    cloud("exec", "true")


def test_down_removes_a_machine_that_is_being_created(cloud: LocalCloud) -> None:
    cloud.fault(kind="slow-boot", seconds=2)
    first = cloud.laptop.start("up", cwd=cloud.folder)
    eventually(cloud.machines, what="the creation has begun")
    first.send_signal(signal.SIGKILL)
    first.communicate()
    cloud("down", "--delete", "--yes")
    assert cloud.machines() == []


def test_two_at_once_make_one_machine(cloud: LocalCloud) -> None:
    both = [cloud.laptop.start("up", cwd=cloud.folder) for _ in range(2)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len(cloud.machines()) == 1


def test_a_machine_that_cannot_start_again_says_what_to_do(cloud: LocalCloud) -> None:
    cloud("up")
    cloud("down")
    cloud.fault(kind="stockout")
    told = cloud("up", code=6).stderr
    assert "no capacity to start" in told
    assert "vmctl down --delete" in told
    cloud.ask("DELETE", "/emulator/v1/faults")
    cloud("up", "--max-hours", "3")
    assert cloud.laptop.json("status", cwd=cloud.folder)["machine"]["max_hours"] == 3


def test_a_strangers_machine_of_the_same_name_is_left_alone(cloud: LocalCloud) -> None:
    path = "/compute/v1/projects/vmctl-local/zones/europe-west1-b/instances"
    disk = {"sourceImage": "projects/debian-cloud/global/images/family/debian-12"}
    cloud.ask(
        "POST",
        path,
        {
            "name": "tester-vm",
            "machineType": "zones/europe-west1-b/machineTypes/n1-standard-1",
            "disks": [{"boot": True, "autoDelete": True, "initializeParams": disk}],
            "networkInterfaces": [{"network": "global/networks/default"}],
        },
    )
    told = cloud("up", code=4).stderr
    assert "vmctl did not make" in told
    assert "--name" in told
    cloud.ask("DELETE", f"{path}/tester-vm")
    eventually(lambda: cloud.machines() == [], what="the stranger's machine is gone")


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["--gpu", "t5"], "no GPU 't5'", "t4"),
        (["--gpu", "t4:3"], "3 x T4", "1, 2 or 4"),
        (["--machine", "n1-standard-64"], "at most 48", "--gpu t4:2"),
        (["--zone", "europe-west1-a"], "no zone europe-west1-a", "europe-west1-b"),
        (["--region", "mars"], "no region mars", "europe-west1"),
        (["--gpu", "v100"], "has no V100", "europe-west4"),
        (["--image", "pytroch"], "no image", "'pytorch'"),
    ],
)
def test_a_wrong_wish_creates_nothing(
    one_cloud: LocalCloud, words: list[str], says: str, hint: str
) -> None:
    told = one_cloud("up", *words, code=2).stderr
    assert says in told
    assert hint in told
    assert one_cloud.machines() == []
