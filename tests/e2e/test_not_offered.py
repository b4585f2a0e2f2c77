"""A GPU that Google offers in a zone no more, whatever the shipped table says."""

from __future__ import annotations

from tests.harness.attempts import (
    ZONE_B,
    ZONE_C,
    ZONE_D,
    attempts_of,
    output_until,
    run_failing,
    zones_of,
)
from tests.harness.cloud import LocalCloud

BASE = '[vm]\nimage = "debian-cloud/debian-12"\n'


def withdrawn(cloud: LocalCloud, zone: str) -> None:
    """Google's answer to the next creation, which is in that zone."""
    cloud.fault(
        kind="http",
        method="compute.instances.insert",
        status=400,
        reason="invalid",
        message=f"Invalid value for field 'resource.guestAccelerators[0].acceleratorType': "
        f"'zones/{zone}/acceleratorTypes/nvidia-tesla-t4'. Accelerator type with name "
        f"'nvidia-tesla-t4' does not exist in zone '{zone}'.",
        calls=1,
    )


def test_the_search_goes_on_to_the_next_zone_and_says_why(cloud: LocalCloud) -> None:
    withdrawn(cloud, ZONE_B)
    told = output_until(cloud, last=ZONE_C)
    assert f"does not exist in zone '{ZONE_B}'" in told
    assert f"{ZONE_C}: As far as here." in told


def test_where_no_zone_offers_it_that_is_said_at_once(cloud: LocalCloud) -> None:
    for zone in (ZONE_B, ZONE_C, ZONE_D):
        withdrawn(cloud, zone)
    document = run_failing(cloud, "--wait", "1h", code=2)
    assert document["message"].startswith(
        f"Google no longer offers n1-standard-4 + T4 in {ZONE_B}, {ZONE_C}"
    )
    assert "vmctl gpus" in document["hint"]
    assert attempts_of(document) == [(zone, "not offered") for zone in (ZONE_B, ZONE_C, ZONE_D)]
    assert cloud.machines() == []


def test_a_dry_zone_beside_it_is_waited_for(cloud: LocalCloud) -> None:
    cloud.fault(kind="stockout", zone=ZONE_C, plain=True, calls=1)
    cloud.fault(kind="stockout", zone=ZONE_D, plain=True, calls=1)
    withdrawn(cloud, ZONE_B)
    told = cloud("up", "--wait", "10m").stderr
    assert "No capacity for n1-standard-4 + T4 now. Trying again at" in told
    assert "(in 5 s)" in told
    assert told.count(f"in {ZONE_B}") == told.count(f"in zone '{ZONE_B}'") + 1, (
        "it is asked there once"
    )
    assert zones_of(cloud) == [ZONE_C]
