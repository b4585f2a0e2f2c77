"""Money on real machines: what run, down and cost say, against the cloud's own books."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.harness.stepped_clock import SteppedCloud

TOML = '[jobs.short]\ncommand = "echo trained"\n'
ON_H = 0.55901 + 0.005  # a T4 with its host in europe-west1 and an address, USD


@pytest.fixture(scope="module")
def stepped() -> Iterator[SteppedCloud]:
    with SteppedCloud.opened("cost", toml=TOML) as made:
        yield made


def cost(cloud: SteppedCloud, *words: str) -> Any:
    return json.loads(cloud("--json", "cost", *words).stdout)


def test_down_and_cost_say_what_it_came_to_wherever_it_was_stopped(stepped: SteppedCloud) -> None:
    stepped.whole_second()
    nothing = cost(stepped)
    assert nothing["usd"] == 0
    assert nothing["machines"] == []
    stepped("up")
    stepped.jump(2 * 3600)
    told = stepped("down").stdout
    assert f"This start: about ${2 * ON_H:.2f}." in told
    assert "an estimate by list prices (host of 2026-07-30" in told

    stepped.on("tester-month", "start")  # from the console, for an hour; nobody looks before
    stepped.jump(3600)
    stepped.on("tester-month", "stop")
    stepped.jump(21 * 3600)
    found = cost(stepped, "--all", "--since", "2020-01-01")
    (vm,) = found["machines"]
    assert vm["on_hours"] == pytest.approx(3, abs=0.001)
    assert vm["machine_usd"] + vm["address_usd"] == pytest.approx(3 * ON_H, abs=0.001)
    assert vm["disk_usd"] == pytest.approx(24 / 730 * 10, abs=0.001)
    books = stepped.ask("POST", "/emulator/v1/books", {"until": found["until"]})
    assert found["usd"] == round(books["usd"], 2)

    stepped("down", "--delete", "--yes")
    stepped.jump(5 * 86400)
    gone = cost(stepped, "--all", "--since", "2020-01-01")
    assert gone["usd"] == found["usd"]
    assert not gone["machines"][0]["exists"]
    shown = stepped("cost", "--since", "2020-01-01").stdout
    assert "deleted" in shown
    assert f"About ${gone['usd']:.2f} since 01 Jan 2020" in shown


def test_a_run_says_what_it_came_to_and_without_its_memory_cost_knows_what_google_tells(
    stepped: SteppedCloud,
) -> None:
    since = stepped.now().date().isoformat()  # before midnight may come
    stepped("up")
    stepped("push")
    told = stepped("run", "short").stderr
    assert "about $0.00 (an estimate by list prices, host of 2026-07-30" in told
    stepped.jump(3600)
    stepped("down")
    found = cost(stepped)
    assert [one["job"] for one in found["runs"]] == ["short"]
    assert found["runs"][0]["usd"] is not None

    before = cost(stepped, "--since", since)
    for file in (stepped.laptop.home / "data" / "ledger").iterdir():
        file.unlink()
    after = cost(stepped, "--since", since)
    existing = [vm for vm in before["machines"] if vm["exists"]]
    assert after["machines"] == existing
    assert existing[0]["on_hours"] == pytest.approx(1, abs=0.001)

    assert "there is nothing to keep" in stepped("keep", "1h", code=4).stderr
    stepped("down", "--delete", "--yes")
    assert "vmctl up" in stepped("keep", "1h", code=3).stderr


def test_a_wrong_date_is_named(stepped: SteppedCloud) -> None:
    told = stepped("cost", "--since", "yesterday", code=2).stderr
    assert "'yesterday' is not a date" in told
    assert "vmctl cost --since" in told


def test_a_time_to_keep_it_is_written_like_this(stepped: SteppedCloud) -> None:
    assert "30m" in stepped("keep", "long", code=2).stderr
