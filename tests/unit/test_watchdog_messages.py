"""The watchdog as seen from here: settings, what it told, and status' one line."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.watchdog import WatchReport, WatchSettings, parse_idle, what_stops

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SETTINGS = WatchSettings(idle_s=3600, max_run_s=43200)
LIMIT = NOW + timedelta(hours=6)
IDLE = WatchReport(
    at=NOW.isoformat(),
    idle_since=(NOW - timedelta(minutes=20)).isoformat(),
    stops_at=(NOW + timedelta(minutes=40)).isoformat(),
    stops_why="idle",
)


def line(
    settings: WatchSettings = SETTINGS,
    report: WatchReport | None = IDLE,
    limit: datetime | None = LIMIT,
) -> str:
    return what_stops(settings, report, limit, 12.0, NOW, NOW - timedelta(hours=1))


def clock(moment: datetime) -> str:
    return f"{moment.astimezone():%H:%M}"


def test_an_idle_vm_says_when_it_stops_and_what_keeps_it() -> None:
    said = line()
    assert clock(NOW + timedelta(minutes=40)) in said
    assert clock(LIMIT) in said
    assert "vmctl keep 1h" in said
    assert "\n" not in said


def test_a_vm_in_use_says_by_what() -> None:
    said = line(report=replace(IDLE, busy=("run train-1", "GPU 0 at 90 %", "login of ann")))
    assert "In use (run train-1, GPU 0 at 90 % …)" in said


def test_a_budget_is_shown_with_its_end() -> None:
    ends = NOW + timedelta(hours=2)
    assert clock(ends) in line(replace(SETTINGS, stop_at=ends.timestamp()))


def test_a_vm_that_can_have_no_watchdog_says_so() -> None:
    told = WatchReport.parse(
        json.dumps({"at": NOW.timestamp(), "busy": [], "missing": "its Python 3.8 is older"})
    )
    said = line(report=told)
    assert "has no watchdog (its Python 3.8 is older): it does not stop when idle" in said
    assert clock(LIMIT) in said
    assert "(--idle)" not in said


def test_a_watchdog_that_tells_nothing_any_more_is_not_counted_on() -> None:
    old = (NOW - timedelta(hours=2)).isoformat()
    assert "do not rely on it" in line(report=replace(IDLE, at=old))
    assert "do not rely on it" in line(report=None)
    fresh = what_stops(SETTINGS, None, LIMIT, 12.0, NOW, NOW - timedelta(minutes=1))
    assert "do not rely on it" not in fresh
    assert "idle for 1 h" in fresh


def test_without_any_limit_only_the_user_stops_it() -> None:
    assert line(WatchSettings(), None, None) == "Nothing stops it by itself: vmctl down"


def test_settings_come_back_as_they_were_written() -> None:
    settings = WatchSettings(1800, 43200, 1700000000, 1700003600)
    assert WatchSettings.parse(settings.text()) == settings
    assert WatchSettings.parse(WatchSettings().text()) == WatchSettings()


@pytest.mark.parametrize("text", [None, "", "[]", "nonsense", '{"idle_s": "x"}', "7"])
def test_settings_that_make_no_sense_limit_nothing(text: str | None) -> None:
    assert WatchSettings.parse(text) == WatchSettings()


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"at": "x", "busy": []}', '{"at": 1e99, "busy": []}', '{"at": 1}']
)
def test_a_report_that_makes_no_sense_is_none(text: str) -> None:
    assert WatchReport.parse(text) is None


def test_a_report_cannot_write_on_the_terminal() -> None:
    told = json.dumps({"at": 1700000000, "busy": ["\x1b[31mred\nline" + "x" * 500]})
    report = WatchReport.parse(told)
    assert report is not None
    assert "\x1b" not in report.busy[0]
    assert "\n" not in report.busy[0]
    assert len(report.busy[0]) <= 120


@pytest.mark.parametrize(("text", "seconds"), [("30m", 1800), ("1h30m", 5400), ("off", 0)])
def test_idle_times(text: str, seconds: float) -> None:
    assert parse_idle(text) == seconds


@pytest.mark.parametrize("text", ["30s", "soon", "-5m", ""])
def test_idle_times_that_are_none(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_idle(text, of="--idle")
    assert "--idle" in str(caught.value)
    assert caught.value.hint
