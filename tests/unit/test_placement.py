"""Which zones are tried, in which order, and what is said about a wrong one."""

from __future__ import annotations

import pytest

from vmctl.domain.errors import InvalidInput
from vmctl.domain.gpu import Gpu
from vmctl.domain.placement import candidate_zones, next_zone
from vmctl.gce import catalogue

T4 = catalogue.zones_with(Gpu("nvidia-tesla-t4"), "n1-standard-4")
P100 = catalogue.zones_with(Gpu("nvidia-tesla-p100"), "n1-standard-4")
V100 = catalogue.zones_with(Gpu("nvidia-tesla-v100"), "n1-standard-4")
ALL = catalogue.zones()


def zones(offering: tuple[str, ...], region: str, zone: str | None = None) -> tuple[str, ...]:
    return candidate_zones(offering, region=region, zone=zone, what="GPU", known_zones=ALL)


def test_the_zones_of_the_region_that_have_it() -> None:
    assert zones(T4, "europe-west1") == ("europe-west1-b", "europe-west1-c", "europe-west1-d")
    assert zones(P100, "europe-west1") == ("europe-west1-b", "europe-west1-d")


def test_a_chosen_zone_is_the_only_one() -> None:
    assert zones(T4, "europe-west1", "europe-west4-b") == ("europe-west4-b",)


@pytest.mark.parametrize(
    ("offering", "region", "zone", "says", "hint"),
    [
        (T4, "europe-west1", "europe-west1-a", "no zone europe-west1-a", "europe-west1-b, eur"),
        (T4, "europe-west1", "europe-wset1-b", "no zone europe-wset1-b", "Did you mean europe-we"),
        (P100, "europe-west1", "europe-west1-c", "has no GPU", "europe-west1-b, europe-west1-d"),
        (T4, "europe-west11", None, "no region europe-west11", "Did you mean europe-west1?"),
        (T4, "mars", None, "no region mars", "europe-west1"),
        (V100, "europe-west1", None, "region europe-west1 has no GPU", "europe-west4"),
    ],
)
def test_a_wrong_place_is_named_with_the_right_ones(
    offering: tuple[str, ...], region: str, zone: str | None, says: str, hint: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        zones(offering, region, zone)
    assert says in refusal.value.message
    assert hint in refusal.value.hint


@pytest.mark.parametrize(
    ("tried", "named", "expected"),
    [
        (["a"], [], "b"),
        (["a"], ["c"], "c"),
        (["a"], ["elsewhere"], "b"),
        (["a"], ["a", "c"], "c"),
        (["a", "b", "c"], ["a"], None),
    ],
)
def test_stockout_moves_to_the_zone_that_google_names_else_the_next(
    tried: list[str], named: list[str], expected: str | None
) -> None:
    assert next_zone(["a", "b", "c"], tried, named) == expected
