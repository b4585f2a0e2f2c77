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
    sky.clear()


def failed(sky: LocalCloud, *words: str, code: int) -> dict[str, Any]:
    """The JSON document of an `up` that failed."""
    told = sky("up", *words, "--json", code=code).stderr
    document: dict[str, Any] = json.loads(told.splitlines()[-1])
    return document


def tried(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["zone"], row["kind"]) for row in document["attempts"]]


def asked(sky: LocalCloud, *words: str, last: str) -> list[tuple[str, str]]:
    """The zones that `up` asks and how each refuses; the zone `last` does it for good.

    To see where a search goes needs no VM that boots.
    """
    sky.fault(kind="operation", code="PERMISSIONS_ERROR", message="As far as here.", zone=last)
    return tried(failed(sky, *words, code=2))


def told_of(sky: LocalCloud, *words: str, last: str) -> str:
    """What people are told by such an `up`."""
    sky.fault(kind="operation", code="PERMISSIONS_ERROR", message="As far as here.", zone=last)
    return sky("up", *words, code=2).stderr


def place(sky: LocalCloud) -> list[str]:
    return [vm["zone"] for vm in sky.machines()]
