"""`vmctl emulator fault`: bad days on request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.laptop import Laptop


@pytest.fixture
def sunny(laptop: Laptop, folder: Path) -> Iterator[Path]:
    """A folder; and no fault is left to the tests that come after."""
    yield folder
    laptop("emulator", "fault", "--clear", cwd=folder)


def test_a_fault_is_put_in_force_listed_and_ended(laptop: Laptop, sunny: Path) -> None:
    zones = "zonesAvailable=europe-west1-c,europe-west1-d"
    words = ("stockout", "zone=no-such-zone", "plain=true", "calls=3")
    (plain,) = laptop.json("emulator", "fault", *words, cwd=sunny)["faults"]
    assert (plain["plain"], plain["calls"]) == (True, 3)
    laptop("emulator", "fault", "--clear", cwd=sunny)
    laptop("emulator", "fault", "stockout", "zone=no-such-zone", zones, cwd=sunny)
    told = laptop("emulator", "fault", "slow-boot", "seconds=1.5", "zone=z", cwd=sunny).stdout
    assert "stockout zone=no-such-zone zonesAvailable=europe-west1-c,europe-west1-d" in told
    assert "slow-boot seconds=1.5 zone=z (acted 0 times)" in told
    found = laptop.json("emulator", "fault", cwd=sunny)["faults"]
    assert [fault["kind"] for fault in found] == ["stockout", "slow-boot"]
    ended = laptop.json("emulator", "fault", "--clear", cwd=sunny)
    assert (ended["ended"], ended["faults"]) == (2, [])
    assert "No faults are in force" in laptop("emulator", "fault", cwd=sunny).stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["flood"], "unknown kind of fault 'flood': use one of stockout"),
        (["quota", "limit=1"], "needs metric"),
        (["stockout", "zones=b"], "no field 'zones'"),
        (["stockout", "europe-west1-b"], "NAME=VALUE"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_in_words(
    laptop: Laptop, sunny: Path, words: list[str], says: str
) -> None:
    assert says in laptop("emulator", "fault", *words, cwd=sunny, code=2).stderr
