"""In which zones to try for a machine, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vmctl.domain.errors import InvalidInput
from vmctl.domain.names import nearest


@dataclass(frozen=True, slots=True)
class Attempt:
    """A zone that was tried and what Google said there."""

    zone: str
    said: str


def region_of(zone: str) -> str:
    """The region that a zone belongs to: its name without the last letter."""
    return zone.rpartition("-")[0]


def candidate_zones(
    offering: Iterable[str],
    *,
    region: str,
    zone: str | None,
    what: str,
    known_zones: Iterable[str] = (),
) -> tuple[str, ...]:
    """The zones to try, in order, of those that offer `what`; a chosen zone is the only one.

    `offering` are the zones that have it, `known_zones` all that exist. Raises InvalidInput
    that names the valid ones.
    """
    having = sorted(set(offering))
    everywhere = sorted(set(known_zones) | set(having))
    if zone is not None:
        if zone in having:
            return (zone,)
        raise _wrong_zone(zone, having, everywhere, what)
    inside = tuple(place for place in having if region_of(place) == region)
    if inside:
        return inside
    raise _wrong_region(region, having, everywhere, what)


def next_zone(order: Sequence[str], tried: Iterable[str], named: Sequence[str] = ()) -> str | None:
    """The zone to try next: one that Google named, else the next in the order; None when none."""
    left = [zone for zone in order if zone not in set(tried)]
    for zone in named:
        if zone in left:
            return zone
    return left[0] if left else None


def _wrong_zone(
    zone: str, having: Sequence[str], everywhere: Sequence[str], what: str
) -> InvalidInput:
    if zone in everywhere:
        return InvalidInput(
            f"The zone {zone} has no {what}.",
            hint=_zones_hint(having, region_of(zone), what),
        )
    siblings = [place for place in everywhere if region_of(place) == region_of(zone)]
    if siblings:
        hint = f"Zones of {region_of(zone)}: {', '.join(siblings)}."
    else:
        close = nearest(zone, everywhere)
        meant = f"Did you mean {close}? " if close else ""
        hint = meant + _zones_hint(having, region_of(zone), what)
    return InvalidInput(f"There is no zone {zone}.", hint=hint)


def _wrong_region(
    region: str, having: Sequence[str], everywhere: Sequence[str], what: str
) -> InvalidInput:
    regions = sorted({region_of(zone) for zone in everywhere})
    if region in regions:
        return InvalidInput(
            f"The region {region} has no {what}.", hint=_zones_hint(having, region, what)
        )
    close = nearest(region, regions)
    meant = f"Did you mean {close}? " if close else ""
    return InvalidInput(
        f"There is no region {region}.", hint=f"{meant}Regions: {', '.join(regions)}."
    )


def _zones_hint(having: Sequence[str], region: str, what: str) -> str:
    near = [zone for zone in having if region_of(zone) == region]
    if near:
        return f"In {region} these have it: {', '.join(near)}."
    regions = sorted({region_of(zone) for zone in having})
    if not regions:
        return f"No zone that vmctl knows has {what}."
    return f"Regions that have it: {', '.join(regions)}."
