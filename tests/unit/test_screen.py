"""Numbers and results as people and as programs read them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import PurePosixPath

import pytest

from vmctl.cli.json_results import to_plain
from vmctl.cli.screen import Screen
from vmctl.cli.text import format_bytes, format_error, format_price, format_seconds
from vmctl.domain.machine.instance import Status


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
    assert format_seconds(seconds) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1_400, "1.4 kB"), (30_000_000, "30.0 MB"), (5e12, "5.0 TB")],
)
def test_bytes(count: float, text: str) -> None:
    assert format_bytes(count) == text


def test_a_price_that_is_not_known_says_so() -> None:
    assert format_price(None) == "price unknown"
    assert format_price(0.559) == "$0.559/h"


@dataclass(frozen=True)
class Sample:
    path: PurePosixPath
    at: datetime
    status: Status
    files: tuple[str, ...]
    nothing: None = None


def test_a_result_becomes_jsons_types() -> None:
    sample = Sample(PurePosixPath("a/b"), datetime(2026, 1, 2, tzinfo=UTC), Status.RUNNING, ("x",))
    assert to_plain({"it": sample}) == {
        "it": {
            "path": "a/b",
            "at": "2026-01-02T00:00:00+00:00",
            "status": "RUNNING",
            "files": ["x"],
            "nothing": None,
        }
    }


def test_an_error_is_a_sentence_with_its_hint_below() -> None:
    lines = format_error("It is gone.", "vmctl up\nor not")
    assert ["".join(map(str, parts)) for parts in lines] == [
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


def test_names_from_elsewhere_are_shown_not_obeyed(capfd: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    screen.say("one\x1b]0;title\x07")
    screen.note("two\x9b31m")
    screen.table(["A"], [["three\n\u202eexe"]])
    screen.next_steps([("four\x1b[8m", "five\udcff")])
    said = capfd.readouterr()
    assert said.out == "one\\x1b]0;title\\x07\nA\nthree\\n\\u202eexe\n"
    assert said.err == "two\\x9b31m\nNext:\n  four\\x1b[8m  five\\xff\n"


def test_json_stays_json_whatever_a_name_holds(capfd: pytest.CaptureFixture[str]) -> None:
    name = "".join(map(chr, [*range(0x20), *range(0x7F, 0xA0), 0x202E, 0xFEFF, 0xE0041, 0xDCFF]))
    Screen(as_json=True).document({"name": f"é{name}🙂"})
    told = capfd.readouterr().out
    assert json.loads(told) == {"name": f"é{name}🙂"}
    assert told.replace("\n", "").isprintable()
