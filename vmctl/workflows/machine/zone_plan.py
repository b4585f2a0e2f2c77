"""From a choice to a zone that has it: the plan that is shown, and the attempts in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.cloud import price_table
from vmctl.cloud.compute.compute import Compute
from vmctl.config import Project
from vmctl.domain.errors import InvalidInput, VmctlError
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type
from vmctl.domain.machine.placement import (
    NextZone,
    SearchPolicy,
    candidate_zones,
    region_of,
    with_other_regions,
)
from vmctl.domain.money.prices import Price, disk_usd_per_month
from vmctl.workflows.base.operations import wait_operation
from vmctl.workflows.base.tasks import Task
from vmctl.workflows.machine.quota_check import (
    Allowance,
    demand_for,
    filter_zones_by_quota,
    to_error,
)
from vmctl.workflows.machine.watchdog_setup import limit_in_zone
from vmctl.workflows.machine.zone_search import search


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

    action: str  # create, start, or move
    name: str
    zones: tuple[str, ...]  # in the order in which they are tried
    machine_type: str
    gpu: str | None
    image: str | None
    disk_gb: int
    spot: bool
    max_hours: float
    usd_per_hour: float | None  # in the first zone
    price_dated: str | None
    disk_usd_per_month: float | None
    vcpus: int | None = None
    mem_gb: float | None = None
    choices: tuple[Choice, ...] = ()  # by region; the first is the chosen one

    @property
    def machine(self) -> str:
        """ "n1-standard-4 + T4"."""
        return f"{self.machine_type} + {self.gpu}" if self.gpu else self.machine_type

    @property
    def text(self) -> str:
        """The choice for people: a small table where there is something to choose."""
        spot = ", spot" if self.spot else ""
        first, *others = self.zones
        more = "" if self.choices or not others else f" (then {', '.join(others)})"
        price = Price(self.usd_per_hour, self.price_dated or "", self.spot)
        disk = (
            "" if self.disk_usd_per_month is None else f" at ${self.disk_usd_per_month:.2f}/month"
        )
        return "\n".join(
            [
                f"{self.action.capitalize()} {self.name}: {self.machine}{spot} in {first}{more}",
                *choice_lines(self),
                f"{price}; {self.disk_gb} GB disk{disk}; "
                f"Google stops it after {self.max_hours:g} h (--max-hours)",
            ]
        )


def plan_creation(
    project: Project,
    gpu: Gpu | None,
    machine: MachineType,
    image: Image,
    max_run_s: int,
    compute: Compute,
    patience: SearchPolicy,
    ahead: Task[Allowance],
) -> Story[ZonePlan]:
    """The creation to propose, in zones whose quota allows it.

    Raises InvalidInput naming the valid zones or regions, NoCapacity with what is short.
    """
    spot, disk_gb = project.vm.spot, project.vm.disk_gb
    zones = _zones(project, gpu, machine, compute, patience)
    address = project.vm.external_address
    wanted = demand_for(gpu, machine, spot=spot, new_disk_gb=disk_gb, address=address)
    zones = yield from filter_zones_by_quota(ahead, wanted, zones, compute, patience)
    price = price_table.price(zones[0], machine.name, gpu, spot=spot)
    size = price_table.size_of(machine)
    choices = _choices(zones, gpu, machine, disk_gb)
    return ZonePlan(
        action="create",
        name=project.instance_name,
        zones=zones,
        machine_type=machine.name,
        gpu=gpu.title if gpu else None,
        image=f"{image.project}/{image.family}",
        disk_gb=disk_gb,
        spot=spot,
        max_hours=max_run_s / 3600,
        usd_per_hour=price.usd_per_hour,
        price_dated=price.dated or None,
        disk_usd_per_month=choices[0].disk_usd_per_month,
        vcpus=size.vcpus,
        mem_gb=size.mem_gb,
        choices=choices,
    )


def plan_again(action: str, instance: Instance, zones: Sequence[str], max_run_s: int) -> ZonePlan:
    """The plan for a VM that is there: `start` where it is, or `move` to the first of the zones."""
    machine, spot = instance.machine_type, instance.spot
    price = price_table.price(zones[0], machine, instance.gpu, spot=spot)
    return ZonePlan(
        action=action,
        name=instance.name,
        zones=tuple(zones),
        machine_type=machine,
        gpu=instance.gpu.title if instance.gpu else None,
        image=None,
        disk_gb=instance.disk_gb,
        spot=spot,
        max_hours=max_run_s / 3600,
        usd_per_hour=price.usd_per_hour,
        price_dated=price.dated or None,
        disk_usd_per_month=disk_usd_per_month(
            region_of(zones[0]), instance.disk_type, instance.disk_gb
        ),
    )


def _choices(
    zones: Sequence[str], gpu: Gpu | None, machine: MachineType, disk_gb: int
) -> tuple[Choice, ...]:
    """By region, in the order in which its first zone is tried."""
    regions: dict[str, list[str]] = {}
    for zone in zones:
        regions.setdefault(region_of(zone), []).append(zone)
    return tuple(
        Choice(
            zones=tuple(inside),
            usd_per_hour=price_table.price(inside[0], machine.name, gpu, spot=False).usd_per_hour,
            spot_usd_per_hour=price_table.price(
                inside[0], machine.name, gpu, spot=True
            ).usd_per_hour,
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


def create(
    compute: Compute, plan: InstanceSpec, zones: Sequence[str], clock: Clock, patience: SearchPolicy
) -> Story[str | None]:
    """Try the zones until one gives the VM: that zone, or None when it exists already.

    Raises NoCapacity with what Google said about each zone, or at once what no zone can mend.
    """
    count = 0

    def ask(step: NextZone) -> Story[Operation]:
        nonlocal count
        count += 1
        began = clock.monotonic()
        there = limit_in_zone(plan, step.zone)
        named = ", which Google names" if step.named else ""
        nth = f" (attempt {count})" if count > 1 else ""
        yield Started("create", f"Creating {plan.name} ({_what(plan)}) in {step.zone}{named}{nth}")
        done = yield from wait_operation(compute, compute.insert(there), clock, "create")
        if done.failure is None:
            seconds = clock.monotonic() - began
            yield Finished("create", f"{plan.name} created in {step.zone}", seconds)
        return done

    wanted = demand_for(
        plan.gpu,
        plan.machine,
        spot=plan.spot,
        new_disk_gb=plan.disk_gb,
        address=plan.external_address,
    )
    done = yield from search(
        zones,
        ask,
        clock,
        patience,
        what=_what(plan),
        explain=lambda failure: to_error(failure, wanted, compute, f"Creating {plan.name}"),
        project=compute.project,
        left="and the snapshot of the move is kept: `vmctl up` continues with it"
        if plan.snapshot
        else "nothing is left over",
    )
    return None if done.failure is not None else done.zone


def _what(plan: InstanceSpec) -> str:
    return f"{plan.machine.name} + {plan.gpu.title}" if plan.gpu else plan.machine.name


def _zones(
    project: Project,
    gpu: Gpu | None,
    machine: MachineType,
    compute: Compute,
    patience: SearchPolicy,
) -> tuple[str, ...]:
    """The zones to try, in order; with other regions behind them where those are allowed."""
    having = price_table.zones_with(gpu, machine.name) if gpu else price_table.zones()
    region, at_home = project.vm.region, {region_of(zone) for zone in having}
    elsewhere = region in price_table.regions() and region not in at_home
    if patience.any_region and elsewhere and project.vm.zone is None:
        first: tuple[str, ...] = ()
    else:
        first = _home_zones(project, gpu, machine, having, compute)
    if not patience.any_region:
        return first
    spot = project.vm.spot
    prices = {
        zone: price_table.price(zone, machine.name, gpu, spot=spot).usd_per_hour for zone in having
    }
    return with_other_regions(first, having, prices)


def _home_zones(
    project: Project,
    gpu: Gpu | None,
    machine: MachineType,
    having: Sequence[str],
    compute: Compute,
) -> tuple[str, ...]:
    """The chosen zone or those of the region by the shipped table; else Google is asked."""
    what = gpu.title if gpu else machine.name
    region, zone = project.vm.region, project.vm.zone
    try:
        return candidate_zones(
            having, region=region, zone=zone, what=what, known_zones=price_table.zones()
        )
    except InvalidInput as by_table:
        try:
            everywhere = compute.zones()
            offering = compute.zones_with(gpu) if gpu else everywhere
        except VmctlError:
            raise by_table from None
        return candidate_zones(
            offering, region=region, zone=zone, what=what, known_zones=everywhere
        )
