"""Quota before money: what the project may take is known before anything is asked for.

It asks while `up` asks other things anyway, so it takes no time of its own. The same diagnosis is
given when Google refuses in the end, from the metric that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vmctl.cloud import price_table
from vmctl.cloud.compute import quotas
from vmctl.cloud.compute.compute import Compute
from vmctl.domain.errors import NoCapacity, VmctlError
from vmctl.domain.events import Info, Story, Warned
from vmctl.domain.google.api_errors import ApiError, Kind, as_error
from vmctl.domain.google.quota import (
    Need,
    Shortage,
    how_to_ask,
    needs,
    regions_with_room,
    shortages,
)
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import MachineType, machine_text
from vmctl.domain.machine.zone_order import SearchPolicy, region_of, with_other_regions
from vmctl.workflows.base.tasks import Task


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """The project's limits, over all regions and in those that were asked about."""

    of_project: quotas.Meters
    by_region: Mapping[str, quotas.Meters]


@dataclass(frozen=True, slots=True)
class QuotaDemand:
    """The machine whose quotas are looked at."""

    what: str  # "n1-standard-4 + T4"
    needs: tuple[Need, ...]
    regions: tuple[str, ...]  # those that have it, in the order in which they would be tried


def demand_for(
    gpu: Gpu | None,
    machine: MachineType,
    rows: Mapping[str, price_table.ZoneRow],
    *,
    spot: bool,
    new_disk_gb: int = 0,
    address: bool = True,
) -> QuotaDemand:
    """A machine's needs; `new_disk_gb` is 0 for one whose disk is there already."""
    prices = {zone: row.price(spot=spot).usd_per_hour for zone, row in rows.items()}
    size = price_table.size_of(machine)
    return QuotaDemand(
        what=machine_text(machine.name, gpu),
        needs=needs(gpu, size, spot=spot, new_disk_gb=new_disk_gb, address=address),
        regions=tuple(dict.fromkeys(map(region_of, with_other_regions((), rows, prices)))),
    )


def prefetch_quotas(compute: Compute, region: str, policy: SearchPolicy) -> Task[QuotaLimits]:
    """Begin to ask for the limits in one region, or in all where all may be tried."""
    other = compute.clone()

    def ask() -> QuotaLimits:
        if policy.any_region:
            return _everything(other)
        meters = quotas.quotas_of_region(other, region)
        return QuotaLimits(quotas.quotas_of_project(other), {region: meters})

    return Task(ask)


def filter_zones_by_quota(
    ahead: Task[QuotaLimits],
    demand: QuotaDemand,
    zones: Sequence[str],
    compute: Compute,
    policy: SearchPolicy,
) -> Story[tuple[str, ...]]:
    """Those of the zones whose region has quota for it; raises NoCapacity when none has.

    With --wait all of them are tried then: a quota may be raised, or become free, meanwhile.
    """
    try:
        limits = ahead.result()
    except VmctlError as error:
        yield Info(f"The quotas could not be read, continuing without: {error.message}")
        return tuple(zones)
    if _short(limits, demand, zones):
        # what was just deleted may still be counted: only a fresh look is believed
        try:
            limits = _everything(compute)
        except VmctlError as error:
            yield Info(f"The quotas could not be read again: {error.message}")
            return tuple(zones)
    short = _short(limits, demand, zones)
    left = tuple(zone for zone in zones if region_of(zone) not in short)
    if not left:
        refusal = shortage_error(
            [s for some in short.values() for s in some], limits, demand, compute
        )
        if not policy.wait_s:
            raise refusal
        yield Warned(f"{refusal.message} Trying anyway because of --wait.\n{refusal.hint}")
        return tuple(zones)
    for shortage in (s for some in short.values() for s in some):
        yield Info(f"Skipped: {shortage}.")
    for shortage in shortages(
        demand.needs,
        region_of(left[0]),
        limits.by_region.get(region_of(left[0]), {}),
        limits.of_project,
    ):
        yield Warned(f"There is no Spot quota, and Google may count Spot as on demand: {shortage}.")
    return left


def shortage_error(
    short: Sequence[Shortage], limits: QuotaLimits, demand: QuotaDemand, compute: Compute
) -> NoCapacity:
    """What is short, by how much, where there is room, and how to ask for more."""
    found = tuple(dict.fromkeys(short))
    first = found[0]
    hint = how_to_ask(first, compute.project, demand.what)
    room = regions_with_room(demand.needs, limits.by_region, demand.regions)
    if first.region and room:
        hint = (
            f"There is quota in {', '.join(room)}: vmctl up --region {room[0]} (or --any-region)\n"
        ) + hint
    error = NoCapacity(
        f"The project {compute.project} has too little quota for {demand.what}: "
        f"{'; '.join(map(str, found))}.",
        hint=hint,
    )
    error.attempts = [
        {
            "zone": shortage.region or "all regions",
            "kind": str(Kind.QUOTA),
            "code": shortage.metric,
            "message": str(shortage),
            "advice": f"request {shortage.wanted_limit:g}"
            + (", or go elsewhere (--any-region)" if shortage.region and room else ""),
            "tries": 0,
        }
        for shortage in found
    ]
    return error


def to_error(failure: ApiError, demand: QuotaDemand, compute: Compute, doing: str) -> VmctlError:
    """Google's refusal as an error; a quota's with the same diagnosis as before the attempt."""
    plain = as_error(failure, project=compute.project, doing=doing)
    if failure.kind is not Kind.QUOTA or failure.quota is None:
        return plain
    try:
        limits = _everything(compute)
    except VmctlError:
        return plain
    quota = failure.quota
    meters = limits.by_region.get(quota.region, {}) if quota.region else limits.of_project
    meter = meters.get(quota.metric)
    needed = [n.amount for n in demand.needs if quota.metric in (n.metric, n.instead)]
    if meter is None or not needed:
        return plain
    limit = meter.limit if quota.limit is None else quota.limit
    short = Shortage(quota.metric, quota.region, limit, meter.usage, needed[0])
    if short.short_by <= 0:  # the meter has moved since
        return plain
    return shortage_error([short], limits, demand, compute)


def _short(
    limits: QuotaLimits, demand: QuotaDemand, zones: Sequence[str]
) -> dict[str, list[Shortage]]:
    """By region of these zones: the limits that are certainly too small."""
    found: dict[str, list[Shortage]] = {}
    for region in dict.fromkeys(map(region_of, zones)):
        meters = limits.by_region.get(region)
        if meters is None:
            continue
        certain = [
            shortage
            for shortage in shortages(demand.needs, region, meters, limits.of_project)
            if shortage.certain
        ]
        if certain:
            found[region] = certain
    return found


def _everything(compute: Compute) -> QuotaLimits:
    return QuotaLimits(quotas.quotas_of_project(compute), quotas.quotas_by_region(compute))
