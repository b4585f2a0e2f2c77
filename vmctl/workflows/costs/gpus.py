"""`vmctl gpus`: which GPU is to be had where, at what price, and how much of it one may take.

Prices come from the table that is shipped. With credentials Google is asked what its zones
really offer to this project, and what the project's quotas allow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.cloud import price_table
from vmctl.cloud.compute import quotas
from vmctl.cloud.compute.compute import Compute
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, InvalidInput, Unreachable
from vmctl.domain.events import Story
from vmctl.domain.google.quota import ALL_GPUS, Meter, gpu_metric
from vmctl.domain.machine.gpu import MODELS, Gpu
from vmctl.domain.machine.machine_type import choose_machine
from vmctl.domain.machine.zone_order import candidate_zones, region_of
from vmctl.workflows.base.site import open_site
from vmctl.workflows.base.tasks import Task


@dataclass(frozen=True, slots=True)
class GpuOffer:
    """One GPU in one zone on the smallest sensible host; prices are list prices in USD."""

    gpu: str  # as one types it: t4, or l4:2
    accelerator: str
    count: int
    zone: str
    machine_type: str
    usd_per_hour: float | None
    spot_usd_per_hour: float | None
    price_dated: str | None
    offered: bool | None  # what Google says now; None: it was not asked
    quota_metric: str | None  # the regional limit that counts it; None: Compute Engine has none
    quota_limit: float | None
    quota_usage: float | None


@dataclass(frozen=True, slots=True)
class GpusResult:
    """The offers; `asked_google` False means that all of it is from the table."""

    offers: tuple[GpuOffer, ...]
    spot: bool
    asked_google: bool
    why_not_asked: str | None
    all_regions_limit: float | None  # GPUS_ALL_REGIONS
    all_regions_usage: float | None


@dataclass(frozen=True, slots=True)
class _Live:
    """What Google answered."""

    zones: Mapping[str, Sequence[str]]
    by_region: Mapping[str, quotas.Meters]
    of_project: quotas.Meters


def gpus(
    project: Project,
    *,
    gpu: str | None = None,
    region: str | None = None,
    spot: bool = False,
    clock: Clock | None = None,
) -> Story[GpusResult]:
    """GPUs x zones x prices, cheapest first within a GPU.

    Without credentials the table alone answers. Raises InvalidInput for a GPU or region that
    does not exist, naming those that do.
    """
    wanted = Gpu.parse(gpu) if gpu else None
    live, why = None, None
    try:
        site = yield from open_site(project, clock)
        live = _ask(site.compute)
    except (AccessDenied, InvalidInput, Unreachable) as error:
        if project.local:  # there is nothing to lack there
            raise
        why = error.message
    kinds = [wanted] if wanted else [Gpu(m.accelerator, m.counts[0]) for m in MODELS.values()]
    places = {kind: _zones(kind, live) for kind in kinds}
    if region:
        having = {zone for zones in places.values() for zone in zones}
        known = {*price_table.zones(), *(_all_zones(live) if live else ())}
        what = wanted.title if wanted else "GPU"
        inside = candidate_zones(having, region=region, zone=None, what=what, known_zones=known)
        places = {kind: [z for z in zones if z in inside] for kind, zones in places.items()}
    everywhere = live.of_project.get(ALL_GPUS) if live else None
    return GpusResult(
        offers=tuple(
            offer
            for kind, zones in places.items()
            for offer in sorted(_offers(kind, zones, spot, live), key=lambda o: _rank(o, spot))
        ),
        spot=spot,
        asked_google=live is not None,
        why_not_asked=why,
        all_regions_limit=everywhere.limit if everywhere else None,
        all_regions_usage=everywhere.usage if everywhere else None,
    )


def _ask(compute: Compute) -> _Live:
    """Three questions at once, each over a connection of its own."""
    first, second = compute.clone(), compute.clone()
    by_region = Task(lambda: quotas.quotas_by_region(first))
    of_project = Task(lambda: quotas.quotas_of_project(second))
    zones = quotas.gpu_zones(compute)
    return _Live(zones, by_region.result(), of_project.result())


def _zones(gpu: Gpu, live: _Live | None) -> list[str]:
    """The zones of the table and those that Google names."""
    named = live.zones.get(gpu.accelerator, ()) if live else ()
    return sorted({*price_table.zones_with(gpu, choose_machine(gpu, None).name), *named})


def _all_zones(live: _Live) -> Iterator[str]:
    for zones in live.zones.values():
        yield from zones


def _offers(gpu: Gpu, zones: Sequence[str], spot: bool, live: _Live | None) -> Iterator[GpuOffer]:
    machine = choose_machine(gpu, None).name
    metric = gpu_metric(gpu.accelerator, spot=spot)
    for zone in zones:
        on_demand, cheaper = (
            price_table.price(zone, machine, gpu, spot=as_spot) for as_spot in (False, True)
        )
        meter = _meter(live, metric, zone)
        yield GpuOffer(
            gpu=str(gpu),
            accelerator=gpu.accelerator,
            count=gpu.count,
            zone=zone,
            machine_type=machine,
            usd_per_hour=on_demand.usd_per_hour,
            spot_usd_per_hour=cheaper.usd_per_hour,
            price_dated=on_demand.dated or cheaper.dated or None,
            offered=zone in live.zones.get(gpu.accelerator, ()) if live else None,
            quota_metric=metric,
            quota_limit=meter.limit if meter else None,
            quota_usage=meter.usage if meter else None,
        )


def _meter(live: _Live | None, metric: str | None, zone: str) -> Meter | None:
    if live is None or metric is None:
        return None
    return live.by_region.get(region_of(zone), {}).get(metric)


def _rank(offer: GpuOffer, spot: bool) -> tuple[bool, float, str]:
    """The cheapest first, what has no known price last."""
    usd = offer.spot_usd_per_hour if spot else offer.usd_per_hour
    return usd is None, usd or 0.0, offer.zone
