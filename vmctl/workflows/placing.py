"""From a choice to a zone that has it: the plan that is shown, and the attempts in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.cost import Price, disk_usd_per_month
from vmctl.domain.errors import InvalidInput, VmctlError
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.gpu import Gpu
from vmctl.domain.image import Image
from vmctl.domain.machine import MachineType
from vmctl.domain.operation import Operation
from vmctl.domain.placement import (
    Patience,
    Try,
    candidate_zones,
    region_of,
    with_other_regions,
)
from vmctl.domain.plan import MachinePlan
from vmctl.gce import catalogue
from vmctl.gce.compute import Compute
from vmctl.workflows.searching import default_explain, search
from vmctl.workflows.waiting import follow


@dataclass(frozen=True, slots=True)
class Plan:
    """What `up` is about to do and what it costs; shown before it is done."""

    action: str  # create, or start
    name: str
    zones: tuple[str, ...]  # in the order in which they are tried
    machine_type: str
    gpu: str | None
    image: str | None
    disk_gb: int
    spot: bool
    max_hours: float
    usd_per_hour: float | None
    price_dated: str | None
    disk_usd_per_month: float | None

    @property
    def machine(self) -> str:
        """ "n1-standard-4 + T4"."""
        return f"{self.machine_type} + {self.gpu}" if self.gpu else self.machine_type

    @property
    def text(self) -> str:
        """The choice in two lines for people."""
        what = self.machine
        spot = ", spot" if self.spot else ""
        first, *others = self.zones
        more = f" (then {', '.join(others)})" if others else ""
        price = Price(self.usd_per_hour, self.price_dated or "", self.spot)
        disk = (
            "" if self.disk_usd_per_month is None else f" at ${self.disk_usd_per_month:.2f}/month"
        )
        return (
            f"{self.action.capitalize()} {self.name}: {what}{spot} in {first}{more}\n"
            f"{price}; {self.disk_gb} GB disk{disk}; Google stops it after {self.max_hours:g} h"
        )


def plan_for(
    project: Project,
    gpu: Gpu | None,
    machine: MachineType,
    image: Image,
    max_run_s: int,
    compute: Compute,
    patience: Patience,
) -> Plan:
    """The creation to propose; raises InvalidInput naming the valid zones or regions."""
    zones = _zones(project, gpu, machine, compute, patience)
    price = catalogue.price(zones[0], machine.name, gpu, spot=project.vm.spot)
    region = region_of(zones[0])
    return Plan(
        action="create",
        name=project.instance_name,
        zones=zones,
        machine_type=machine.name,
        gpu=gpu.title if gpu else None,
        image=f"{image.project}/{image.family}",
        disk_gb=project.vm.disk_gb,
        spot=project.vm.spot,
        max_hours=max_run_s / 3600,
        usd_per_hour=price.usd_per_hour,
        price_dated=price.dated or None,
        disk_usd_per_month=disk_usd_per_month(region, "pd-balanced", project.vm.disk_gb),
    )


def create(
    compute: Compute, plan: MachinePlan, zones: Sequence[str], clock: Clock, patience: Patience
) -> Story[str | None]:
    """Try the zones until one gives the VM: that zone, or None when it exists already.

    Raises NoCapacity with what Google said about each zone, or at once what no zone can mend.
    """
    count = 0

    def ask(step: Try) -> Story[Operation]:
        nonlocal count
        count += 1
        began = clock.monotonic()
        there = plan.in_zone(step.zone)
        named = ", which Google names" if step.named else ""
        nth = f" (attempt {count})" if count > 1 else ""
        yield Started("create", f"Creating {plan.name} ({_what(plan)}) in {step.zone}{named}{nth}")
        done = yield from follow(compute, compute.insert(there), clock, "create")
        if done.failure is None:
            seconds = clock.monotonic() - began
            yield Finished("create", f"{plan.name} created in {step.zone}", seconds)
        return done

    done = yield from search(
        zones,
        ask,
        clock,
        patience,
        what=_what(plan),
        explain=default_explain(compute.project, f"Creating {plan.name}"),
        project=compute.project,
    )
    return None if done.failure is not None else done.zone


def _what(plan: MachinePlan) -> str:
    return f"{plan.machine.name} + {plan.gpu.title}" if plan.gpu else plan.machine.name


def _zones(
    project: Project, gpu: Gpu | None, machine: MachineType, compute: Compute, patience: Patience
) -> tuple[str, ...]:
    """The zones to try, in order; with other regions behind them where those are allowed."""
    having = catalogue.zones_with(gpu, machine.name) if gpu else catalogue.zones()
    region, at_home = project.vm.region, {region_of(zone) for zone in having}
    elsewhere = region in catalogue.regions() and region not in at_home
    if patience.any_region and elsewhere and project.vm.zone is None:
        first: tuple[str, ...] = ()
    else:
        first = _home_zones(project, gpu, machine, having, compute)
    if not patience.any_region:
        return first
    spot = project.vm.spot
    prices = {
        zone: catalogue.price(zone, machine.name, gpu, spot=spot).usd_per_hour for zone in having
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
            having, region=region, zone=zone, what=what, known_zones=catalogue.zones()
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
