"""Faults that strike some calls, or for some time: the same ones in every rehearsal."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from vmctl.emulator.faults.schedule import check, is_over, strikes, with_end

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("share", "struck"),
    [(1, "XXXXXX"), (0.5, ".X.X.X"), (0.25, "...X...X"), (0.75, ".XXX.XXX"), (0.1, "." * 9 + "X")],
)
def test_a_share_strikes_evenly(share: float, struck: str) -> None:
    fault = {"kind": "http", "status": 429, "share": share}
    assert "".join("X" if strikes(fault) else "." for _ in struck) == struck


def test_without_a_share_every_call_is_struck_and_none_is_counted() -> None:
    fault = {"kind": "http", "status": 503}
    assert strikes(fault)
    assert fault == {"kind": "http", "status": 503}


def test_a_fault_is_over_when_its_time_has_passed() -> None:
    fault = with_end({"kind": "stockout", "lasts_s": 600}, NOON)
    assert not is_over(fault, NOON + timedelta(seconds=599))
    assert is_over(fault, NOON + timedelta(seconds=600))


def test_a_fault_without_a_time_stays() -> None:
    fault = with_end({"kind": "stockout"}, NOON)
    assert not is_over(fault, NOON + timedelta(days=365))


@pytest.mark.parametrize("fault", [{"lasts_s": 0}, {"lasts_s": -1}, {"share": 0}, {"share": 1.5}])
def test_what_means_nothing_is_refused(fault: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(fault))):
        check(fault)
