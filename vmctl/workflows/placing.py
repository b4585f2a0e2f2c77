"""From a choice to a zone that has it: the plan that is shown, and the attempts in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.cost import Price, disk_usd_per_month
from vmctl.domain.errors import InvalidInput, NoCapacity, VmctlError
from vmctl.domain.events import Finished, Started, Story, Warned
from vmctl.domain.failure import Failure, Kind, as_error
from vmctl.domain.gpu import Gpu
from vmctl.domain.image import Image
from vmctl.domain.machine import MachineType
from vmctl.domain.operation import Operation
from vmctl.domain.placement import Attempt, candidate_zones, next_zone, region_of
from vmctl.domain.plan import MachinePlan
from vmctl.gce import catalogue
from vmctl.gce.compute import Compute, already_there
from vmctl.workflows.waiting import follow

TRANSIENT_GAPS_S = (1.0, 2.0, 4.0, 8.0, 16.0)


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
    def text(self) -> str:
        """The choice in two lines for people."""
        what = f"{self.machine_type} + {self.gpu}" if self.gpu else self.machine_type
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
) -> Plan:
    """The creation to propose; raises InvalidInput naming the valid zones or regions."""
    zones = _zones(project, gpu, machine, compute)
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
    compute: Compute, plan: MachinePlan, zones: Sequence[str], clock: Clock
) -> Story[str | None]:
    """Try the zones in order until one gives the VM: that zone, or None when it exists already.

    Raises NoCapacity with what Google said about each zone, or at once what no zone can mend.
    """
    tried: list[Attempt] = []
    last: Failure | None = None
    unknown = 0
    zone: str | None = zones[0]
    while zone is not None:
        done = yield from _attempt(compute, plan.in_zone(zone), clock)
        failure = done.failure
        if failure is None:
            return zone
        if already_there(done):
            return None
        unknown += failure.kind is Kind.UNKNOWN
        if failure.kind not in (Kind.STOCKOUT, Kind.UNKNOWN) or unknown > 1:
            raise as_error(failure, project=compute.project, doing=f"Creating {plan.name}")
        tried.append(Attempt(zone, failure.message))
        last = failure
        yield Warned(f"{zone}: {failure.message}")
        zone = next_zone(zones, [attempt.zone for attempt in tried], failure.zones_available)
    raise _nowhere(plan, tried, last)


def _attempt(compute: Compute, plan: MachinePlan, clock: Clock) -> Story[Operation]:
    """One zone: the insert operation once it is done; passing trouble is sat out here."""
    gpu = f" + {plan.gpu.title}" if plan.gpu else ""
    for gap in (*TRANSIENT_GAPS_S, None):
        began = clock.monotonic()
        yield Started("create", f"Creating {plan.name} ({plan.machine.name}{gpu}) in {plan.zone}")
        done = yield from follow(compute, compute.insert(plan), clock, "create")
        if done.failure is None:
            seconds = clock.monotonic() - began
            yield Finished("create", f"{plan.name} created in {plan.zone}", seconds)
            return done
        if done.failure.kind is not Kind.TRANSIENT or gap is None:
            return done
        yield Warned(f"{done.failure.message} Trying again in {gap:g} s.")
        clock.sleep(gap)
    raise AssertionError("the last gap is None")


def _zones(
    project: Project, gpu: Gpu | None, machine: MachineType, compute: Compute
) -> tuple[str, ...]:
    """Zones by the shipped table; where it knows none, Google is asked."""
    what = gpu.title if gpu else machine.name
    region, zone = project.vm.region, project.vm.zone
    having = catalogue.zones_with(gpu, machine.name) if gpu else catalogue.zones()
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


def _nowhere(plan: MachinePlan, tried: Sequence[Attempt], last: Failure | None) -> NoCapacity:
    gpu = f" + {plan.gpu.title}" if plan.gpu else ""
    said = "; ".join(f"{attempt.zone}: {_first_sentence(attempt.said)}" for attempt in tried)
    elsewhere = last.zones_available if last else ()
    if elsewhere:
        hint = f"Google names {', '.join(elsewhere)}: vmctl up --zone {elsewhere[0]}"
    elif len(tried) == 1:
        hint = f"Let vmctl try the whole region: vmctl up --region {region_of(tried[0].zone)}"
    else:
        other = "europe-west4" if plan.region != "europe-west4" else "us-central1"
        hint = f"Try again later, or another region: vmctl up --region {other}"
    return NoCapacity(
        f"No zone that was tried has {plan.machine.name}{gpu} just now. {said}.", hint=hint
    )


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].rstrip(".")
