"""In which zones to try for a machine, in which order, and what to do after each refusal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from vmctl.domain.errors import InvalidInput
from vmctl.domain.google.api_errors import ApiError, Kind
from vmctl.domain.names import find_nearest

TRANSIENT_GAPS_S = (1.0, 2.0, 4.0, 8.0, 16.0)
FIRST_ROUND_GAP_S, LONGEST_ROUND_GAP_S = 5.0, 300.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A zone that was tried and what Google said there."""

    zone: str
    failure: ApiError


@dataclass(frozen=True, slots=True)
class NextZone:
    """Ask in this zone, after a pause; `named` when Google itself named the zone."""

    zone: str
    after_s: float = 0.0
    named: bool = False


@dataclass(frozen=True, slots=True)
class GiveUp:
    """No zone is left to ask; `may_pass` when the same round may succeed later."""

    may_pass: bool


@dataclass(frozen=True, slots=True)
class SearchPolicy:
    """How far a search may go: to other regions, for how long it is repeated, and whether a
    stopped VM may be moved out of a dry zone without being asked."""

    any_region: bool = False
    wait_s: float = 0.0
    move: bool = False


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


def with_other_regions(
    first: Sequence[str], offering: Iterable[str], usd_per_hour: Mapping[str, float | None]
) -> tuple[str, ...]:
    """The zones of `first`, then the rest of their region, then other regions by price.

    A region whose price is not known comes last.
    """
    home = region_of(first[0]) if first else ""

    def rank(zone: str) -> tuple[bool, bool, float, str]:
        usd = usd_per_hour.get(zone)
        return region_of(zone) != home, usd is None, usd or 0.0, zone

    return (*first, *sorted(set(offering) - set(first), key=rank))


def decide(order: Sequence[str], attempts: Sequence[Attempt]) -> NextZone | GiveUp:
    """What to do after these attempts of one round: the one place where that is decided.

    `order` holds every zone that the user allows and that has the machine, best first.
    A stockout leads to the zones that Google names, then to the next; so does a zone that does
    not offer it at all, which no patience changes; a quota of a region leads to another region;
    what is the same everywhere ends it, and so does a second riddle.
    """
    if not attempts:
        return NextZone(order[0])
    last = attempts[-1]
    if last.failure.kind is Kind.TRANSIENT:
        return _again(last.zone, attempts)
    riddles = sum(attempt.failure.kind is Kind.UNKNOWN for attempt in attempts)
    if last.failure.kind is Kind.PERMANENT or riddles > 1:
        return GiveUp(may_pass=False)
    if last.failure.is_quota_everywhere:
        return GiveUp(may_pass=not riddles)  # it may be raised, or something may be stopped
    tried = {attempt.zone for attempt in attempts}
    closed = {region_of(a.zone) for a in attempts if a.failure.kind is Kind.QUOTA}
    left = [zone for zone in order if zone not in tried and region_of(zone) not in closed]
    for attempt in reversed(attempts):
        for zone in attempt.failure.zones_available:
            if zone in left:
                return NextZone(zone, named=True)
    if left:
        return NextZone(left[0])
    absent = all(attempt.failure.kind is Kind.NOT_OFFERED for attempt in attempts)
    return GiveUp(may_pass=not riddles and not absent)


def round_gap_s(rounds: int) -> float:
    """How long to wait after so many rounds in vain: longer each time, five minutes at most."""
    return float(min(FIRST_ROUND_GAP_S * 2 ** min(rounds - 1, 16), LONGEST_ROUND_GAP_S))


def _again(zone: str, attempts: Sequence[Attempt]) -> NextZone | GiveUp:
    times = 0
    for attempt in reversed(attempts):
        if attempt.zone != zone or attempt.failure.kind is not Kind.TRANSIENT:
            break
        times += 1
    if times > len(TRANSIENT_GAPS_S):
        return GiveUp(may_pass=True)
    return NextZone(zone, after_s=TRANSIENT_GAPS_S[times - 1])


def _wrong_zone(
    zone: str, having: Sequence[str], everywhere: Sequence[str], what: str
) -> InvalidInput:
    if zone in everywhere:
        return InvalidInput(
            f"The zone {zone} has no {what}.", hint=_zones_hint(having, region_of(zone), what)
        )
    siblings = [place for place in everywhere if region_of(place) == region_of(zone)]
    if siblings:
        hint = f"Zones of {region_of(zone)}: {', '.join(siblings)}."
    else:
        close = find_nearest(zone, everywhere)
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
    close = find_nearest(region, regions)
    meant = f"Did you mean {close}? " if close else ""
    return InvalidInput(
        f"There is no region {region}.", hint=f"{meant}Regions: {', '.join(regions)}."
    )


def _zones_hint(having: Sequence[str], region: str, what: str) -> str:
    near = [zone for zone in having if region_of(zone) == region]
    if near:
        return f"Zones of {region} that have it: {', '.join(near)}."
    regions = sorted({region_of(zone) for zone in having})
    if not regions:
        return f"No zone that vmctl knows has {what}."
    return f"Regions that have it: {', '.join(regions)}."
