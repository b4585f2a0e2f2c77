"""From what is remembered to a bill: every VM, disk, snapshot and address between two moments.

List prices in USD, before any discount: an estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime

from vmctl.domain.duration import duration_text
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.leftovers import ResourceKind
from vmctl.domain.money.ledger import Ledger, PaidResource, PaidVm, Span, owner_of
from vmctl.domain.money.prices import (
    HOURS_PER_MONTH,
    SHORTEST_BILLED_S,
    USED_ADDRESS_USD_H,
    HourlyCost,
    disk_usd_per_month,
    snapshot_usd_per_month,
    unused_address_usd_per_month,
)

LARGEST_SKEW_S = 60.0  # between two clocks that are said to be right


@dataclass(frozen=True, slots=True)
class VmCost:
    """One VM's part; sums in USD, None where the price is not known."""

    id: str
    name: str
    project: str
    zone: str
    machine_type: str
    gpu: str | None
    spot: bool
    exists: bool
    on_hours: float
    machine_usd: float | None
    address_usd: float
    disk_usd: float | None
    price_dated: str

    @property
    def usd(self) -> float:
        """What is known of it."""
        return (self.machine_usd or 0.0) + self.address_usd + (self.disk_usd or 0.0)


@dataclass(frozen=True, slots=True)
class ResourceCost:
    """A disk, snapshot or address of its own."""

    kind: str
    name: str
    project: str
    place: str
    exists: bool
    hours: float
    usd: float | None


@dataclass(frozen=True, slots=True)
class Bill:
    """All of it between two moments."""

    vms: tuple[VmCost, ...]
    things: tuple[ResourceCost, ...]

    @property
    def usd(self) -> float:
        """The sum of what is known."""
        return sum(vm.usd for vm in self.vms) + sum(one.usd or 0.0 for one in self.things)

    @property
    def prices_missing(self) -> int:
        """How many prices are not known, and therefore not in the sum."""
        unknown = [vm.machine_usd for vm in self.vms if vm.on_hours]
        unknown += [vm.disk_usd for vm in self.vms] + [one.usd for one in self.things]
        return sum(usd is None for usd in unknown)


def bill(
    ledger: Ledger,
    rates: Mapping[str, HourlyCost],
    since: datetime,
    until: datetime,
    project: str | None = None,
) -> Bill:
    """What was used from `since` to `until`; `rates` are those of the VMs, by id.

    With `project` only what that vmctl project used.
    """
    vms = [vm for vm in ledger.vms.values() if project in (None, vm.project)]
    things = [one for one in ledger.things.values() if project in (None, one.project)]
    # what is known of a VM's own disk beats what its machine type makes likely
    disks = {
        owner.id: _usd_per_month(thing)
        for thing in ledger.things.values()
        if (owner := owner_of(thing, ledger.vms.values())) is not None
    }
    own = {
        vm.id: replace(rates[vm.id], disk_usd_month=disks.get(vm.id, rates[vm.id].disk_usd_month))
        for vm in vms
    }
    parts = [_vm_cost(vm, own[vm.id], since, until) for vm in vms]
    rest = [_thing_cost(one, ledger, since, until) for one in things]
    return Bill(
        tuple(part for part in parts if part is not None),
        tuple(part for part in rest if part is not None),
    )


def on_seconds(vm: PaidVm, since: datetime, until: datetime) -> float:
    """How long a VM was on and paid for: by the second, a minute at least for each start."""
    total = 0.0
    for span in vm.on:
        lasted = _overlap_s(span.begin, span.end, since, until)
        if lasted or since <= span.begin < until:
            total += max(lasted, SHORTEST_BILLED_S if span.begin >= since else 0.0)
    return total


def start_usd(rate: HourlyCost, on: Span, now: datetime) -> float | None:
    """What a VM has cost since one of its starts, its disk left out; None: no price is known."""
    hours = _overlap_s(on.begin, on.end, on.begin, max(now, on.begin)) / 3600
    return None if rate.on_usd_h is None else rate.on_usd_h * hours


def skew_text(vms: Iterable[PaidVm], now: datetime) -> str:
    """A sentence where a VM's last start lies in the future; "" where none does."""
    starts = [vm.on[-1].begin for vm in vms if vm.on]
    ahead_s = max(((begin - now).total_seconds() for begin in starts), default=0.0)
    if ahead_s < LARGEST_SKEW_S:
        return ""
    return (
        f"Two clocks differ by {duration_text(ahead_s)} or more (a start lies in the future), "
        "so costs are too low"
    )


def _vm_cost(vm: PaidVm, rate: HourlyCost, since: datetime, until: datetime) -> VmCost | None:
    there_h = _overlap_s(vm.created_at, vm.gone_at, since, until) / 3600
    on_h = on_seconds(vm, since, until) / 3600
    if not there_h and not on_h:
        return None
    return VmCost(
        id=vm.id,
        name=vm.name,
        project=vm.project,
        zone=vm.zone,
        machine_type=vm.machine_type,
        gpu=Gpu(vm.accelerator, vm.gpu_count).title if vm.accelerator else None,
        spot=vm.spot,
        exists=vm.gone_at is None,
        on_hours=round(on_h, 4),
        machine_usd=None if rate.machine_usd_h is None else rate.machine_usd_h * on_h,
        address_usd=USED_ADDRESS_USD_H * on_h if vm.has_address else 0.0,
        disk_usd=(
            None if rate.disk_usd_month is None else rate.disk_usd_month / HOURS_PER_MONTH * there_h
        ),
        price_dated=rate.dated,
    )


def _thing_cost(
    thing: PaidResource, ledger: Ledger, since: datetime, until: datetime
) -> ResourceCost | None:
    begin = thing.created_at
    owner = owner_of(thing, ledger.vms.values())
    if owner is not None:
        if owner.gone_at is None:
            return None
        begin = owner.gone_at
    hours = _overlap_s(begin, thing.gone_at, since, until) / 3600
    monthly = _usd_per_month(thing)
    if not hours:
        return None
    return ResourceCost(
        kind=str(thing.kind),
        name=thing.name,
        project=thing.project,
        place=thing.place,
        exists=thing.gone_at is None,
        hours=round(hours, 4),
        usd=None if monthly is None else monthly / HOURS_PER_MONTH * hours,
    )


def _usd_per_month(thing: PaidResource) -> float | None:
    match thing.kind:
        case ResourceKind.DISK:
            return disk_usd_per_month(thing.region, thing.disk_type, thing.size_gb)
        case ResourceKind.SNAPSHOT:
            return snapshot_usd_per_month(thing.region, thing.stored_bytes)
        case ResourceKind.ADDRESS:  # one that a VM uses is in that VM's part
            return 0.0 if thing.in_use else unused_address_usd_per_month()
    return 0.0


def _overlap_s(begin: datetime, end: datetime | None, since: datetime, until: datetime) -> float:
    first, last = max(begin, since), min(end or until, until)
    return max((last - first).total_seconds(), 0.0)
