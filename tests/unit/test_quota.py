"""What a machine needs of each quota, what is short, and what is said about it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmctl.cloud import price_table
from vmctl.domain.google.quota import (
    Meter,
    Shortage,
    gpu_metric,
    how_to_ask,
    needs,
    regions_with_room,
    shortages,
)
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import MachineType, choose_machine

REGION = "europe-west1"


def meters(**limits: tuple[float, float]) -> dict[str, Meter]:
    return {metric: Meter(metric, *both) for metric, both in limits.items()}


def asked(gpu: str, *, spot: bool = False, disk_gb: int = 100) -> dict[str, float]:
    wanted = Gpu.parse(gpu)
    machine = choose_machine(wanted, None)
    return {n.metric: n.amount for n in needs(wanted, machine, spot=spot, new_disk_gb=disk_gb)}


@pytest.mark.parametrize(
    ("gpu", "spot", "expected"),
    [
        ("t4:2", False, {"GPUS_ALL_REGIONS": 2, "NVIDIA_T4_GPUS": 2, "CPUS": 8}),
        ("t4", True, {"PREEMPTIBLE_NVIDIA_T4_GPUS": 1, "PREEMPTIBLE_CPUS": 4}),
        ("h100:8", False, {"GPUS_ALL_REGIONS": 8}),
        ("h100:8", True, {"PREEMPTIBLE_NVIDIA_H100_GPUS": 8}),
        ("b200:8", False, {"HDB_TOTAL_GB": 100}),
        ("none", False, {"IN_USE_ADDRESSES": 1, "SSD_TOTAL_GB": 100, "INSTANCES": 1}),
    ],
)
def test_a_machine_counts_against_these(gpu: str, spot: bool, expected: dict[str, float]) -> None:
    assert expected.items() <= asked(gpu, spot=spot).items()


@pytest.mark.parametrize(
    ("name", "metric", "vcpus"),
    [
        ("n2-standard-16", "N2_CPUS", 16),
        ("c3-highmem-8", "C3_CPUS", 8),
        ("n1-custom-6-20480", "CPUS", 6),
        ("m9-odd", None, None),
    ],
)
def test_processors_count_against_their_series(
    name: str, metric: str | None, vcpus: int | None
) -> None:
    found = {n.metric: n.amount for n in needs(None, MachineType.parse(name), spot=False)}
    assert found.get(metric or "CPUS") == vcpus
    assert found.get("CPUS_ALL_REGIONS") == vcpus


def test_no_metric_is_made_up() -> None:
    """Names are those of Google's own interface, as far as it lists them."""
    import googleapiclient.discovery_cache as cache

    document = Path(next(iter(cache.__path__))) / "documents" / "compute.v1.json"
    known = json.loads(document.read_text(encoding="utf-8"))["schemas"]["Quota"]
    metrics = set(known["properties"]["metric"]["enum"])
    for offer in price_table.offers():
        gpu = Gpu(offer.accelerator, offer.gpu_count)
        machine = choose_machine(gpu, offer.machine)
        for spot in (False, True):
            for need in needs(gpu, machine, spot=spot, new_disk_gb=100):
                assert need.metric in metrics
                assert not need.instead or need.instead in metrics
    for family in ("n2", "n2d", "c2", "c2d", "c3", "t2d", "t2a"):
        machine = MachineType.parse(f"{family}-standard-8")
        assert {need.metric for need in needs(None, machine, spot=False)} <= metrics


@pytest.mark.parametrize(
    ("told", "short"),
    [
        ({"E2_CPUS": (2, 0), "CPUS": (3, 0)}, "E2_CPUS"),
        ({"E2_CPUS": (2, 0), "CPUS": (24, 0)}, None),  # the other one may be what counts
        ({"E2_CPUS": (24, 0), "CPUS": (2, 0)}, None),
        ({"CPUS": (2, 0)}, "CPUS"),
        ({"CPUS": (4, 0)}, None),
        ({}, None),
    ],
)
def test_an_e2_machine_is_short_when_either_metric_would_be(
    told: dict[str, tuple[float, float]], short: str | None
) -> None:
    wanted = needs(None, MachineType.parse("e2-standard-4"), spot=False)
    found = shortages(wanted, REGION, meters(**told), {})
    assert [one.metric for one in found] == ([short] if short else [])


def test_a_started_machine_needs_no_new_disk() -> None:
    assert "SSD_TOTAL_GB" not in asked("t4", disk_gb=0)


def test_a_shortage_says_limit_usage_and_by_how_much() -> None:
    gpu = Gpu.parse("t4:2")
    wanted = needs(gpu, choose_machine(gpu, None), spot=False)
    (short,) = shortages(
        wanted,
        REGION,
        meters(NVIDIA_T4_GPUS=(2, 1), CPUS=(24, 8)),
        meters(GPUS_ALL_REGIONS=(4, 1)),
    )
    assert str(short) == ("NVIDIA_T4_GPUS in europe-west1: limit 2, 1 in use, 2 needed: short by 1")
    told = how_to_ask(short, "p1", "n1-standard-8 + 2 x T4")
    assert "https://console.cloud.google.com/iam-admin/quotas?project=p1" in told
    assert "NVIDIA_T4_GPUS, europe-west1; new value: 3" in told
    assert "free trial" in told


def test_the_limit_over_all_regions_has_no_region() -> None:
    gpu = Gpu.parse("t4")
    wanted = needs(gpu, choose_machine(gpu, None), spot=True)
    (short,) = shortages(wanted, REGION, {}, meters(GPUS_ALL_REGIONS=(0, 0)))
    assert (short.region, short.where, short.certain) == (None, "over all regions", True)


@pytest.mark.parametrize(
    ("preemptible", "standard", "certain"),
    [((0, 0), (1, 1), False), ((0, 0), (1, 0), None), ((1, 1), (9, 0), True)],
)
def test_spot_quota_that_was_never_asked_for_counts_as_on_demand(
    preemptible: tuple[float, float], standard: tuple[float, float], certain: bool | None
) -> None:
    gpu = Gpu.parse("t4")
    wanted = needs(gpu, choose_machine(gpu, None), spot=True)
    found = shortages(
        wanted,
        REGION,
        meters(PREEMPTIBLE_NVIDIA_T4_GPUS=preemptible, NVIDIA_T4_GPUS=standard),
        {},
    )
    assert [short.certain for short in found] == ([] if certain is None else [certain])


def test_usage_above_a_lowered_limit_is_not_less_than_nothing() -> None:
    assert Meter("CPUS", 4, 8).left == 0
    assert Shortage("CPUS", REGION, 4, 8, 2).short_by == 2


def test_a_metric_that_google_does_not_tell_is_no_shortage() -> None:
    gpu = Gpu.parse("h200:8")
    wanted = needs(gpu, choose_machine(gpu, None), spot=False, new_disk_gb=100)
    assert shortages(wanted, REGION, {}, {}) == ()


def test_regions_with_room_keep_their_order() -> None:
    gpu = Gpu.parse("t4")
    wanted = needs(gpu, choose_machine(gpu, None), spot=False)
    by_region = {
        "a": meters(NVIDIA_T4_GPUS=(1, 1)),
        "b": meters(NVIDIA_T4_GPUS=(1, 0)),
        "c": meters(NVIDIA_T4_GPUS=(4, 0)),
    }
    assert regions_with_room(wanted, by_region, ["c", "a", "b", "unknown"]) == ("c", "b")


def test_every_gpu_with_a_metric_has_a_spot_metric() -> None:
    for accelerator in {offer.accelerator for offer in price_table.offers()}:
        metric = gpu_metric(accelerator, spot=False)
        if metric:
            assert gpu_metric(accelerator, spot=True) == f"PREEMPTIBLE_{metric}"


@pytest.mark.parametrize(
    ("zone", "machine", "spot", "usd"),
    [  # the hosts of the field's tables
        ("europe-west1-b", "n1-standard-4", False, 0.2090),
        ("europe-west1-b", "n1-standard-4", True, 0.0872),
        ("europe-west4-a", "n1-standard-4", False, 0.2092),
        ("us-central1-a", "n1-standard-4", True, 0.0670),
        ("europe-west1-b", "n1-highmem-8", False, 0.5206),
        ("europe-west1-b", "e2-standard-4", False, None),
        ("asia-east1-a", "n1-standard-4", False, None),
    ],
)
def test_a_host_alone_has_the_price_that_is_in_the_table(
    zone: str, machine: str, spot: bool, usd: float | None
) -> None:
    price = price_table.price(zone, machine, None, spot=spot)
    assert price.usd_per_hour == (pytest.approx(usd, abs=2e-4) if usd else None)
