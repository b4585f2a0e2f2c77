"""Which zones are tried, in which order, what follows a refusal, and what a wrong one hears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.cloud import price_table
from vmctl.domain.duration import duration_text, parse_duration
from vmctl.domain.errors import InvalidInput
from vmctl.domain.google.api_errors import ApiError, Kind, Quota
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.zone_order import (
    Attempt,
    GiveUp,
    NextZone,
    candidate_zones,
    decide,
    round_gap_s,
    with_other_regions,
)

T4 = price_table.zones_with(Gpu("nvidia-tesla-t4"), "n1-standard-4")
P100 = price_table.zones_with(Gpu("nvidia-tesla-p100"), "n1-standard-4")
V100 = price_table.zones_with(Gpu("nvidia-tesla-v100"), "n1-standard-4")
ALL = price_table.zones()


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


def stockout(*named: str) -> ApiError:
    return ApiError(Kind.STOCKOUT, "ZONE_RESOURCE_POOL_EXHAUSTED", "none", zones_available=named)


def quota(region: str | None) -> ApiError:
    return ApiError(Kind.QUOTA, "QUOTA_EXCEEDED", "", quota=Quota("NVIDIA_T4_GPUS", 0, region))


PERMANENT = ApiError(Kind.PERMANENT, "forbidden", "no")
TRANSIENT = ApiError(Kind.TRANSIENT, "rateLimitExceeded", "slowly")
ABSENT = ApiError(
    Kind.NOT_OFFERED, "invalid", "Accelerator type with name 'X' does not exist in zone"
)
UNKNOWN = ApiError(Kind.UNKNOWN, "NEVER_SEEN", "?")
A, B, C = "west1-a", "west1-b", "west1-c"
HOME = (A, B, C)
WIDE = (*HOME, "east1-a", "east1-b", "north1-a")


@pytest.mark.parametrize(
    ("order", "history", "expected"),
    [
        (HOME, [], NextZone(A)),
        (HOME, [(A, stockout())], NextZone(B)),
        (HOME, [(A, stockout(C))], NextZone(C, named=True)),
        (HOME, [(A, stockout("east1-a"))], NextZone(B)),  # not allowed: the normal order
        (HOME, [(A, stockout(A, C))], NextZone(C, named=True)),
        (HOME, [(A, stockout(C, B)), (C, stockout())], NextZone(B, named=True)),  # an older hint
        (HOME, [(A, stockout()), (B, stockout()), (C, stockout(A))], GiveUp(may_pass=True)),
        ((A,), [(A, stockout(B))], GiveUp(may_pass=True)),
        (WIDE, [(A, stockout("north1-a"))], NextZone("north1-a", named=True)),
        (HOME, [(A, quota(None))], GiveUp(may_pass=True)),  # --wait: it may be raised
        (WIDE, [(A, quota(None))], GiveUp(may_pass=True)),
        (HOME, [(A, quota("west1"))], GiveUp(may_pass=True)),
        (HOME, [(A, UNKNOWN), (B, quota("west1"))], GiveUp(may_pass=False)),
        (WIDE, [(A, UNKNOWN), (B, quota(None))], GiveUp(may_pass=False)),
        (WIDE, [(A, quota("west1"))], NextZone("east1-a")),
        (WIDE, [(A, stockout(B)), (B, quota("west1"))], NextZone("east1-a")),
        (WIDE, [(A, quota("west1")), ("east1-a", quota("east1"))], NextZone("north1-a")),
        (HOME, [(A, stockout()), (B, quota("west1"))], GiveUp(may_pass=True)),
        (WIDE, [(A, PERMANENT)], GiveUp(may_pass=False)),
        (WIDE, [(A, stockout()), (B, PERMANENT)], GiveUp(may_pass=False)),
        (HOME, [(A, ABSENT)], NextZone(B)),
        (HOME, [(A, stockout()), (B, ABSENT)], NextZone(C)),
        (HOME, [(A, stockout()), (B, ABSENT), (C, ABSENT)], GiveUp(may_pass=True)),
        (HOME, [(A, ABSENT), (B, ABSENT), (C, ABSENT)], GiveUp(may_pass=False)),
        ((A,), [(A, ABSENT)], GiveUp(may_pass=False)),
        (HOME, [(A, TRANSIENT)], NextZone(A, after_s=1)),
        (HOME, [(A, TRANSIENT)] * 3, NextZone(A, after_s=4)),
        (HOME, [(A, TRANSIENT)] * 6, GiveUp(may_pass=True)),
        (HOME, [(A, stockout()), (B, TRANSIENT)], NextZone(B, after_s=1)),
        (HOME, [(A, TRANSIENT), (A, stockout())], NextZone(B)),
        (HOME, [(A, UNKNOWN)], NextZone(B)),
        (HOME, [(A, UNKNOWN), (B, UNKNOWN)], GiveUp(may_pass=False)),
        (HOME, [(A, UNKNOWN), (B, stockout()), (C, UNKNOWN)], GiveUp(may_pass=False)),
        ((A,), [(A, UNKNOWN)], GiveUp(may_pass=False)),
    ],
)
def test_one_place_decides_what_comes_next(
    order: tuple[str, ...], history: list[tuple[str, ApiError]], expected: NextZone | GiveUp
) -> None:
    assert decide(order, [Attempt(*one) for one in history]) == expected


FAILURES = st.one_of(
    st.builds(stockout, st.sampled_from(WIDE), st.sampled_from(WIDE)),
    st.sampled_from([stockout(), quota("west1"), TRANSIENT, ABSENT, UNKNOWN, PERMANENT]),
)


@given(order=st.permutations(WIDE), answers=st.lists(FAILURES, min_size=60, max_size=60))
def test_a_search_ends_and_never_repeats_a_zone_in_vain(
    order: list[str], answers: list[ApiError]
) -> None:
    attempts: list[Attempt] = []
    for answer in answers:
        step = decide(order, attempts)
        if isinstance(step, GiveUp):
            break
        before = [attempt.failure.kind for attempt in attempts if attempt.zone == step.zone]
        assert step.zone in order
        assert set(before) <= {Kind.TRANSIENT}
        attempts.append(Attempt(step.zone, answer))
    else:
        pytest.fail("it goes on for ever")
    kinds = [attempt.failure.kind for attempt in attempts]
    assert Kind.PERMANENT not in kinds[:-1]
    assert kinds.count(Kind.UNKNOWN) <= 2


def test_other_regions_come_by_price_and_the_unknown_last() -> None:
    prices = {"east1-a": 3.0, "north1-a": 1.0, "south1-a": None, A: 9.0, B: 9.0}
    assert with_other_regions((B,), prices, prices) == (B, A, "north1-a", "east1-a", "south1-a")
    assert with_other_regions((), prices, prices)[0] == "north1-a"


def test_rounds_come_at_growing_gaps() -> None:
    gaps = [round_gap_s(n) for n in range(1, 12)]
    assert gaps[:4] == [5, 10, 20, 40]
    assert gaps == sorted(gaps)
    assert gaps[-1] == 300


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30m", 1800), ("2h", 7200), ("90s", 90), ("1h30m", 5400), ("1.5H", 5400), ("2 h", 7200)],
)
def test_a_length_of_time_is_a_number_with_its_unit(text: str, seconds: float) -> None:
    assert parse_duration(text, of="--wait") == seconds


@pytest.mark.parametrize("text", ["", "30", "h", "-5m", "2 weeks", "0s", "9999d", "1.2.3h"])
def test_what_is_no_length_of_time_shows_one(text: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_duration(text, of="--wait")
    assert "--wait" in refusal.value.message
    assert "--wait" in refusal.value.hint


@pytest.mark.parametrize(
    ("seconds", "text"), [(5, "5 s"), (300, "5 min"), (7800, "2 h 10 min"), (7200, "2 h")]
)
def test_a_length_of_time_is_said_shortly(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text
