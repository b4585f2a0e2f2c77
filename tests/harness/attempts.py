"""What an `up` that failed has to say."""

from __future__ import annotations

import json
from typing import Any

from tests.harness.cloud import LocalCloud

ZONE_B, ZONE_C, ZONE_D = (f"europe-west1-{letter}" for letter in "bcd")


def run_failing(cloud: LocalCloud, *words: str, code: int) -> dict[str, Any]:
    """The JSON document of an `up` that failed."""
    errors = cloud("up", *words, "--json", code=code).stderr
    document: dict[str, Any] = json.loads(errors.splitlines()[-1])
    return document


def attempts_of(document: dict[str, Any]) -> list[tuple[str, str]]:
    return [(row["zone"], row["kind"]) for row in document["attempts"]]


def attempts_until(cloud: LocalCloud, *words: str, last: str) -> list[tuple[str, str]]:
    """The zones that `up` asks and how each refuses; the zone `last` does it for good.

    To see where a search goes needs no VM that boots.
    """
    cloud.fault(kind="operation", code="PERMISSIONS_ERROR", message="As far as here.", zone=last)
    return attempts_of(run_failing(cloud, *words, code=2))


def output_until(cloud: LocalCloud, *words: str, last: str) -> str:
    """What such an `up` prints for people."""
    cloud.fault(kind="operation", code="PERMISSIONS_ERROR", message="As far as here.", zone=last)
    return cloud("up", *words, code=2).stderr


def zones_of(cloud: LocalCloud) -> list[str]:
    return [vm["zone"] for vm in cloud.machines()]
