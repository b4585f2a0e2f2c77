"""The zones to try for a machine, with prices and quotas: the plan that is shown and agreed to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from vmctl.cloud import price_table
from vmctl.cloud.compute.resources import zones_with_machine_type
from vmctl.cloud.price_table import ZoneRow
from vmctl.domain.errors import InvalidInput, VmctlError
from vmctl.domain.events import Story
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type, unknown_machine
from vmctl.domain.machine.zone_order import (
    SearchPolicy,
    candidate_zones,
    region_of,
    with_other_regions,
)
from vmctl.domain.money.prices import Price, disk_usd_per_month
from vmctl.workflows.base.site import Site
from vmctl.workflows.base.tasks import Task
from vmctl.workflows.machine.quota_check import (
    QuotaDemand,
    QuotaLimits,
    demand_for,
    filter_zones_by_quota,
)
from vmctl.workflows.machine.request import MachineRequest


@dataclass(frozen=True, slots=True)
class Choice:
    """One region's zones with what the machine costs there; list prices in USD."""

    zones: tuple[str, ...]  # in the order in which they are tried
    usd_per_hour: float | None
    spot_usd_per_hour: float | None
    disk_usd_per_month: float | None


@dataclass(frozen=True, slots=True)
class ZonePlan:
    """What `up` is about to do and what it costs; shown before it is done."""

    action: str  # create, start, resume or move
    name: str
    zones: tuple[str, ...]  # in the order in which they are tried
    demand: QuotaDemand
    machine_type: str
    gpu: str | None
    disk_gb: int
    spot: bool
    max_hours: float
    price: Price  # in the first zone
    disk_usd_per_month: float | None
    vcpus: int | None = None
    mem_gb: float | None = None
    choices: tuple[Choice, ...] = ()  # by region; the first is the chosen one

    @property
    def machine(self) -> str:
        """ "n1-standard-4 + T4"."""
        return self.demand.what

    @property
    def text(self) -> str:
        """The choice for people: a small table where there is something to choose."""
        spot = ", spot" if self.spot else ""
        first, *others = self.zones
        more = "" if self.choices or not others else f" (then {', '.join(others)})"
        disk = (
            "" if self.disk_usd_per_month is None else f" at ${self.disk_usd_per_month:.2f}/month"
        )
        return "\n".join(
            [
                f"{self.action.capitalize()} {self.name}: {self.machine}{spot} in {first}{more}",
                *choice_lines(self),
                f"{self.price}; {self.disk_gb} GB disk{disk}; "
                f"Google stops it after {self.max_hours:g} h (--max-hours)",
            ]
        )


Confirm = Callable[[ZonePlan], bool]  # shown what it will cost; whether to go ahead


def plan_creation(
    site: Site, request: MachineRequest, policy: SearchPolicy, quotas: Task[QuotaLimits]
) -> Story[ZonePlan]:
    """The creation to propose, in zones whose quota allows it.

    Raises InvalidInput naming the valid zones or regions, NoCapacity with what is short.
    """
    gpu, machine, vm = request.gpu, request.machine, request.vm
    rows = price_table.rows(gpu, machine.name)
    is_known = gpu is not None or price_table.knows_machine(machine)
    if not is_known:
        offering = _zones_offering(site, machine)
        rows = {
            zone: rows.get(zone) or price_table.row(zone, gpu, machine.name) for zone in offering
        }
    demand = demand_for(
        gpu, machine, rows, spot=vm.spot, new_disk_gb=vm.disk_gb, address=vm.external_address
    )
    zones = _zones(site, request, rows, policy, is_known=is_known)
    zones = yield from filter_zones_by_quota(quotas, demand, zones, site.compute, policy)
    rows |= {zone: price_table.row(zone, gpu, machine.name) for zone in zones if zone not in rows}
    price = rows[zones[0]].price(spot=vm.spot)
    size = price_table.size_of(machine)
    choices = _choices([rows[zone] for zone in zones], machine, vm.disk_gb)
    return ZonePlan(
        action="create",
        name=site.project.instance_name,
        zones=zones,
        demand=demand,
        machine_type=machine.name,
        gpu=gpu.title if gpu else None,
        disk_gb=vm.disk_gb,
        spot=vm.spot,
        max_hours=request.max_run_s / 3600,
        price=price,
        disk_usd_per_month=choices[0].disk_usd_per_month,
        vcpus=size.vcpus,
        mem_gb=size.mem_gb,
        choices=choices,
    )


def _zones_offering(site: Site, machine: MachineType) -> list[str]:
    """The zones that have a machine type which vmctl does not know; raises InvalidInput for none.

    A mistyped one would otherwise be tried in zone after zone.
    """
    offering = zones_with_machine_type(site.compute, machine.name)
    if not offering:
        raise unknown_machine(machine.name, {offer.machine for offer in price_table.offers()})
    return offering


def plan_again(action: str, instance: Instance, zones: Sequence[str], max_run_s: int) -> ZonePlan:
    """The plan for a VM that is there: `start` or `resume` it, or `move` it to the first zone."""
    gpu, machine, spot = instance.gpu, MachineType.parse(instance.machine_type), instance.spot
    rows = price_table.rows(gpu, machine.name)
    first = rows.get(zones[0]) or price_table.row(zones[0], gpu, machine.name)
    demand = demand_for(
        gpu,
        machine,
        rows,
        spot=spot,
        new_disk_gb=instance.disk_gb if action == "move" else 0,
        address=instance.external,
    )
    return ZonePlan(
        action=action,
        name=instance.name,
        zones=tuple(zones),
        demand=demand,
        machine_type=machine.name,
        gpu=gpu.title if gpu else None,
        disk_gb=instance.disk_gb,
        spot=spot,
        max_hours=max_run_s / 3600,
        price=first.price(spot=spot),
        disk_usd_per_month=disk_usd_per_month(
            region_of(zones[0]), instance.disk_type, instance.disk_gb
        ),
    )


def agree(confirm: Confirm | None, plan: ZonePlan) -> None:
    """Raise InvalidInput where a person is asked and says no."""
    if confirm is not None and not confirm(plan):
        raise InvalidInput(
            f"Nothing was {'created' if plan.action == 'create' else 'started'}.",
            hint="To go ahead without being asked: vmctl up --yes",
        )


def _choices(rows: Sequence[ZoneRow], machine: MachineType, disk_gb: int) -> tuple[Choice, ...]:
    """By region, in the order in which its first zone is tried."""
    regions: dict[str, list[ZoneRow]] = {}
    for row in rows:
        regions.setdefault(region_of(row.zone), []).append(row)
    return tuple(
        Choice(
            zones=tuple(row.zone for row in inside),
            usd_per_hour=inside[0].on_demand.usd_per_hour,
            spot_usd_per_hour=inside[0].spot.usd_per_hour,
            disk_usd_per_month=disk_usd_per_month(region, boot_disk_type(machine.name), disk_gb),
        )
        for region, inside in regions.items()
    )


def choice_lines(plan: ZonePlan) -> list[str]:
    """The choices as aligned lines: a mark before the one that is tried first."""
    if not plan.choices:
        return []
    paid = ("ON DEMAND", "SPOT *") if plan.spot else ("ON DEMAND *", "SPOT")
    rows = [("", "GPU", "HOST", "VCPUS", "MEMORY", *paid, "DISK/MONTH", "ZONES IN THIS ORDER")]
    for place, choice in enumerate(plan.choices):
        rows.append(
            (
                "✔" if place == 0 else "",
                plan.gpu or "-",
                plan.machine_type,
                "?" if plan.vcpus is None else str(plan.vcpus),
                "?" if plan.mem_gb is None else f"{plan.mem_gb:g} GB",
                _usd(choice.usd_per_hour, 3),
                _usd(choice.spot_usd_per_hour, 3),
                _usd(choice.disk_usd_per_month, 2),
                ", ".join(choice.zones),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _usd(amount: float | None, digits: int) -> str:
    return "unknown" if amount is None else f"${amount:.{digits}f}"


def _zones(
    site: Site,
    request: MachineRequest,
    rows: Mapping[str, ZoneRow],
    policy: SearchPolicy,
    *,
    is_known: bool,
) -> tuple[str, ...]:
    """The zones to try, in order; with other regions behind them where those are allowed."""
    vm, at_home = request.vm, {region_of(zone) for zone in rows}
    elsewhere = vm.region in price_table.regions() and vm.region not in at_home
    if policy.any_region and elsewhere and vm.zone is None:
        first: tuple[str, ...] = ()
    else:
        first = _home_zones(site, request, rows, is_known=is_known)
    if not policy.any_region:
        return first
    prices = {zone: row.price(spot=vm.spot).usd_per_hour for zone, row in rows.items()}
    return with_other_regions(first, rows, prices)


def _home_zones(
    site: Site, request: MachineRequest, rows: Mapping[str, ZoneRow], *, is_known: bool
) -> tuple[str, ...]:
    """The chosen zone or those of the region by the shipped table; else Google is asked."""
    gpu, vm = request.gpu, request.vm
    what = gpu.title if gpu else request.machine.name
    choose = partial(candidate_zones, region=vm.region, zone=vm.zone, what=what)
    try:
        return choose(rows, known_zones=price_table.zones())
    except InvalidInput as by_table:
        try:
            everywhere = site.compute.zones()
            if gpu is not None:
                offering = site.compute.zones_with(gpu)
            else:
                offering = everywhere if is_known else list(rows)
        except VmctlError:
            raise by_table from None
        return choose(offering, known_zones=everywhere)
