"""A GPU that Google offers in a zone no more, whatever the shipped table says."""

from __future__ import annotations

from tests.harness.attempts import B, C, D, failed, place, told_of, tried
from tests.harness.cloud import LocalCloud

BASE = '[vm]\nimage = "debian-cloud/debian-12"\n'


def withdrawn(sky: LocalCloud, zone: str) -> None:
    """Google's answer to the next creation, which is in that zone."""
    sky.fault(
        kind="http",
        method="compute.instances.insert",
        status=400,
        reason="invalid",
        message=f"Invalid value for field 'resource.guestAccelerators[0].acceleratorType': "
        f"'zones/{zone}/acceleratorTypes/nvidia-tesla-t4'. Accelerator type with name "
        f"'nvidia-tesla-t4' does not exist in zone '{zone}'.",
        calls=1,
    )


def test_the_search_goes_on_to_the_next_zone_and_says_why(sky: LocalCloud) -> None:
    withdrawn(sky, B)
    told = told_of(sky, last=C)
    assert f"does not exist in zone '{B}'" in told
    assert f"{C}: As far as here." in told


def test_where_no_zone_offers_it_that_is_said_at_once(sky: LocalCloud) -> None:
    for zone in (B, C, D):
        withdrawn(sky, zone)
    document = failed(sky, "--wait", "1h", code=2)
    assert document["message"].startswith(f"Google does not offer n1-standard-4 + T4 in {B}, {C}")
    assert "vmctl gpus" in document["hint"]
    assert tried(document) == [(zone, "absent") for zone in (B, C, D)]
    assert sky.machines() == []


def test_a_dry_zone_beside_it_is_waited_for(sky: LocalCloud) -> None:
    sky.fault(kind="stockout", zone=C, plain=True, calls=1)
    sky.fault(kind="stockout", zone=D, plain=True, calls=1)
    withdrawn(sky, B)
    told = sky("up", "--wait", "10m").stderr
    assert "No capacity for n1-standard-4 + T4 now. Trying again at" in told
    assert "(in 5 s)" in told
    assert told.count(f"in {B}") == told.count(f"in zone '{B}'") + 1, "it is asked there once"
    assert place(sky) == [C]
