"""An emulator for a file of tests, and what an `up` that failed has to say."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from typing import Any

from tests.e2e.conftest import public_folder
from tests.e2e.test_bad_days import Cloud

B, C, D = (f"europe-west1-{letter}" for letter in "bcd")


@contextlib.contextmanager
def own_cloud(name: str) -> Iterator[Cloud]:
    """An emulator of its own, stopped and gone afterwards."""
    base = public_folder(name)
    made = Cloud(base)
    try:
        yield made
    finally:
        made.laptop("emulator", "stop", cwd=base, code=None)
        shutil.rmtree(base, ignore_errors=True)


@contextlib.contextmanager
def cleared(sky: Cloud) -> Iterator[None]:
    """No faults and no machines are left to the next test."""
    yield
    sky.ask("DELETE", "/emulator/v1/faults")
    for name in {vm["name"].removeprefix("tester-") for vm in sky.machines()}:
        sky("--name", name, "down", "--delete", "--yes")
    assert sky.machines() == []


def failed(sky: Cloud, *words: str, code: int) -> dict[str, Any]:
    """The JSON document of an `up` that failed."""
    told = sky("up", *words, "--json", code=code).stderr
    document: dict[str, Any] = json.loads(told.splitlines()[-1])
    return document


def tried(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["zone"], row["kind"]) for row in document["attempts"]]


def place(sky: Cloud) -> list[str]:
    return [vm["zone"] for vm in sky.machines()]
