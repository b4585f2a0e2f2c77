"""What an `up` that failed has to say, and a cloud without its traces."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

from tests.harness.cloud import LocalCloud

B, C, D = (f"europe-west1-{letter}" for letter in "bcd")


@contextlib.contextmanager
def cleared(sky: LocalCloud) -> Iterator[None]:
    """No faults and no machines are left to the next test."""
    yield
    sky.ask("DELETE", "/emulator/v1/faults")
    for name in {vm["name"].removeprefix("tester-") for vm in sky.machines()}:
        sky("--name", name, "down", "--delete", "--yes")
    assert sky.machines() == []


def failed(sky: LocalCloud, *words: str, code: int) -> dict[str, Any]:
    """The JSON document of an `up` that failed."""
    told = sky("up", *words, "--json", code=code).stderr
    document: dict[str, Any] = json.loads(told.splitlines()[-1])
    return document


def tried(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["zone"], row["kind"]) for row in document["attempts"]]


def place(sky: LocalCloud) -> list[str]:
    return [vm["zone"] for vm in sky.machines()]
