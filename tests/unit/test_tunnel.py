"""When a tunnel is taken for dead, how often it tries, and what --port means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmctl.domain.errors import InvalidInput
from vmctl.domain.runs.heartbeat import DOUBT_S, SILENCE_S, Heartbeat, asking_gap_s, backoff_s
from vmctl.domain.runs.tunnel import parse_port

STEP_S = 0.1


def noticed_after(cut_at: float, round_trip_s: float) -> float:
    """Seconds from the cut of a link until the heartbeat is dead, looked at every 0.1 s."""
    heartbeat, now, back_at = Heartbeat(0.0), 0.0, None
    while not heartbeat.is_dead(now):
        if back_at is not None and now >= back_at and back_at <= cut_at:
            heartbeat, back_at = heartbeat.answered(), None
        if heartbeat.is_due(now):
            heartbeat, back_at = heartbeat.sent(now), now + round_trip_s
        assert now < cut_at + 100
        now += STEP_S
    return now - cut_at


@given(st.floats(0, 30), st.floats(0.001, 0.4))
def test_a_dead_link_is_noticed_within_8_s_whenever_it_is_cut(cut: float, trip: float) -> None:
    assert noticed_after(cut, trip) <= 8.0


@given(st.lists(st.floats(0.01, SILENCE_S - 0.2), max_size=30))
def test_an_answer_in_time_is_life(trips: list[float]) -> None:
    heartbeat, now = Heartbeat(0.0), 0.0
    for trip in trips:
        now += heartbeat.wait_s(now)
        assert heartbeat.is_due(now)
        heartbeat = heartbeat.sent(now)
        assert not heartbeat.is_due(now + trip), "one at a time"
        now += trip
        assert not heartbeat.is_dead(now)
        heartbeat = heartbeat.answered()


def test_a_doubt_asks_at_once_and_waits_shortly() -> None:
    heartbeat = Heartbeat(0.0).sent(0.0).answered()
    assert not heartbeat.is_due(0.5)
    heartbeat = heartbeat.doubted(0.5)
    assert heartbeat.is_due(0.5)
    heartbeat = heartbeat.sent(0.5)
    assert not heartbeat.is_dead(0.5 + DOUBT_S - 0.1)
    assert heartbeat.is_dead(0.5 + DOUBT_S)
    assert not heartbeat.answered().sent(5.0).is_dead(5.0 + SILENCE_S - 0.1), "trusted again"


def test_after_a_sleep_the_wait_starts_again() -> None:
    heartbeat = Heartbeat(0.0).sent(0.0)
    woken = 3600.0
    assert heartbeat.is_dead(woken)
    assert not heartbeat.doubted(woken).is_dead(woken + DOUBT_S - 0.1)


def test_an_answer_may_queue_behind_a_download() -> None:
    heartbeat = Heartbeat(0.0).sent(0.0)
    assert not heartbeat.heard(5.9).is_dead(6.1)
    assert heartbeat.heard(5.9).is_dead(5.9 + SILENCE_S)
    assert Heartbeat(0.0).heard(50.0) == Heartbeat(0.0)


def test_a_link_that_returns_is_tried_at_once_the_api_ever_less() -> None:
    assert max(backoff_s(attempt) for attempt in range(100)) <= 0.5
    gaps = [asking_gap_s(times) for times in range(100)]
    assert gaps == sorted(gaps)
    assert gaps[0] <= 1
    assert gaps[-1] == 20


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (None, (None, False)),
        ("8080", (8080, False)),
        ("auto", (None, True)),
        ("AUTO", (None, True)),
    ],
)
def test_word_for_a_port(word: str | None, meant: tuple[int | None, bool]) -> None:
    assert parse_port(word) == meant


@pytest.mark.parametrize("word", ["", "0", "65536", "-1", "http", "80:80", "8080;ls", "٣"])
def test_a_word_that_is_no_port_is_refused(word: str) -> None:
    with pytest.raises(InvalidInput):
        parse_port(word)
