"""Rate and time left, from moments and byte counts alone."""

from __future__ import annotations

import pytest

from vmctl.cli.rate import TransferRate


def test_nothing_is_claimed_before_there_is_something_to_measure() -> None:
    rate = TransferRate()
    rate.record(0, 10.0)
    rate.record(500, 10.2)
    assert rate.bytes_per_s is None
    assert rate.left_s(1000) is None


def test_rate_and_time_left() -> None:
    rate = TransferRate()
    for second in range(4):
        rate.record(second * 10, float(second))
    assert rate.bytes_per_s == pytest.approx(10)
    assert rate.left_s(130) == pytest.approx(10)


def test_bytes_from_an_earlier_try_are_no_speed() -> None:
    rate = TransferRate()
    rate.record(1_000_000, 0.0)
    rate.record(1_000_010, 2.0)
    assert rate.bytes_per_s == pytest.approx(5)


def test_only_the_last_moments_count() -> None:
    rate = TransferRate()
    for second in range(20):
        rate.record(second * 1000, float(second))
    for second in range(20, 40):
        rate.record(19_000 + (second - 19), float(second))
    assert rate.bytes_per_s == pytest.approx(1)


def test_a_link_that_stands_still_has_no_time_left_to_tell() -> None:
    rate = TransferRate()
    rate.record(5, 0.0)
    rate.record(5, 10.0)
    assert rate.left_s(10) is None
