"""The table that ends a failed search fits the terminal and breaks no link."""

from __future__ import annotations

import pytest

from vmctl.cli.attempts import format_attempts

PAGE = "https://console.cloud.google.com/iam-admin/quotas?project=a-rather-long-project-name"
ROWS = [
    {
        "zone": "europe-west1-b",
        "kind": "stockout",
        "message": "None left. Try b.",
        "advice": "wait",
    },
    {
        "zone": "europe-west1-c",
        "kind": "unknown",
        "message": "ODD: a. b.",
        "advice": "read",
        "tries": 3,
    },
    {
        "zone": "all regions",
        "kind": "quota",
        "message": "GPUS",
        "advice": f"ask: {PAGE}",
        "tries": 0,
    },
]


def test_each_zone_has_a_row_with_what_was_said_and_what_to_do() -> None:
    lines = list(format_attempts(ROWS))
    assert lines[0].split("  ")[0] == "ZONE"
    assert [line.split()[0] for line in lines[1:3]] == ["europe-west1-b", "europe-west1-c"]
    assert "None left." in lines[1]
    assert "Try b" not in lines[1]  # the advice has a column of its own
    assert "ODD: a. b." in lines[2]
    assert "(3 times)" in lines[2]


@pytest.mark.parametrize("columns", ["30", "80", "200"])
def test_a_link_is_never_broken(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    assert sum(PAGE in line for line in format_attempts(ROWS)) == 1


def test_nothing_tried_is_no_table() -> None:
    assert list(format_attempts([])) == []
