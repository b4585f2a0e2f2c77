"""Numbers and results as people and as programs read them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from vmctl.cli.render import Screen, error_lines, human_bytes, human_price, human_seconds, plain
from vmctl.domain.instance import Status


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (12.2, "12 s"),
        (59.6, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
    ],
)
def test_seconds(seconds: float, text: str) -> None:
    assert human_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_400, "1.4 kB"), (30_000_000, "30.0 MB"), (5e12, "5.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert human_bytes(count) == text


def test_a_price_that_is_not_known_says_so() -> None:
    assert human_price(None) == "price unknown"
    assert human_price(0.559) == "$0.559/h"


@dataclass(frozen=True)
class Sample:
    path: PurePosixPath
    at: datetime
    status: Status
    files: tuple[str, ...]
    nothing: None = None


def test_a_result_becomes_jsons_types() -> None:
    sample = Sample(PurePosixPath("a/b"), datetime(2026, 1, 2, tzinfo=UTC), Status.RUNNING, ("x",))
    assert plain({"it": sample}) == {
        "it": {
            "path": "a/b",
            "at": "2026-01-02T00:00:00+00:00",
            "status": "RUNNING",
            "files": ["x"],
            "nothing": None,
        }
    }


def test_an_error_is_a_sentence_with_its_hint_below() -> None:
    assert error_lines("It is gone.", "vmctl up\nor not", io.StringIO()) == [
        "error: It is gone.",
        "hint:  vmctl up",
        "       or not",
    ]


def test_a_table_breaks_no_cell_however_narrow_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    name = "a-rather-long-name-of-a-run"
    Screen().table(["RUN", "STATE"], [[name, "running"], ["b", "lost"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"{'RUN':27}  STATE", f"{name}  running", f"{'b':27}  lost"]
