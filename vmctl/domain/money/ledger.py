"""What is remembered of VMs and other paid things, so that a bill can be made of it later.

Google tells a VM's last start and stop, and its operations of the last two weeks or so; what
each look shows is merged into what was known. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.leftovers import OwnedResource, ResourceKind

LIMIT_SLACK = timedelta(minutes=2)  # between Google's run limit and its stop
ASK_AGAIN_AFTER = timedelta(days=3)
SAME_CREATION = timedelta(minutes=5)  # between a VM's creation and that of its own boot disk


class PowerChange(StrEnum):
    """What an operation did to a thing."""

    ON = "on"
    OFF = "off"
    GONE = "gone"


# Google's operation types; all others leave a VM as it is
POWER_CHANGES = {
    "insert": PowerChange.ON,
    "start": PowerChange.ON,
    "resume": PowerChange.ON,
    "compute.instances.automaticRestart": PowerChange.ON,
    "stop": PowerChange.OFF,
    "suspend": PowerChange.OFF,
    "compute.instances.preempted": PowerChange.OFF,
    "compute.instances.hostError": PowerChange.OFF,
    "compute.instances.guestTerminate": PowerChange.OFF,
    "compute.instances.terminateOnHostMaintenance": PowerChange.OFF,
    "compute.instances.deferredStop": PowerChange.OFF,
    "delete": PowerChange.GONE,
}


@dataclass(frozen=True, slots=True)
class OperationEvent:
    """One operation that ended well, at its end."""

    target_id: str
    change: PowerChange
    at: datetime


@dataclass(frozen=True, slots=True)
class Span:
    """A time in which a VM was on; `end` is None while it goes on."""

    begin: datetime
    end: datetime | None = None


@dataclass(frozen=True, slots=True)
class PaidVm:
    """A VM and all the times in which it was on, as far as they are known."""

    id: str
    name: str
    project: str  # vmctl's, by its label
    zone: str
    machine_type: str
    accelerator: str  # "" without a GPU
    gpu_count: int
    spot: bool
    disk_gb: int
    boot_disk: str
    has_address: bool
    max_run_s: int | None
    created_at: datetime
    on: tuple[Span, ...] = ()
    gone_at: datetime | None = None
    end_guessed: bool = False  # it was on when it was listed last, and then not listed any more


@dataclass(frozen=True, slots=True)
class PaidResource:
    """A disk, snapshot or address of its own."""

    id: str
    kind: ResourceKind
    name: str
    project: str
    place: str
    region: str
    size_gb: int
    stored_bytes: int
    disk_type: str
    in_use: bool
    created_at: datetime
    seen_at: datetime
    gone_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PaidRun:
    """A run that has ended, and what its VM cost in that time, the disk left out."""

    id: str
    job: str
    project: str
    began_at: datetime
    ended_at: datetime
    usd: float | None  # None where the price is not known


@dataclass(frozen=True, slots=True)
class Ledger:
    """All that is remembered, each by its id."""

    vms: Mapping[str, PaidVm]
    things: Mapping[str, PaidResource]
    observed_at: datetime | None = None  # when all of it was looked at last

    def is_stale(self, now: datetime) -> bool:
        """Whether it is time to ask again: Google forgets operations after two weeks or so."""
        created = [vm.created_at for vm in self.vms.values()]
        since = self.observed_at or min(created, default=now)
        return now - since > ASK_AGAIN_AFTER


EMPTY = Ledger({}, {})


def with_vm(ledger: Ledger, instance: Instance) -> Ledger:
    """What one look at a VM adds; one that was taken for deleted, but was adopted again, exists."""
    known = _not_gone(ledger.vms.get(instance.id))
    created = instance.created_at or (known.created_at if known else None)
    if created is None or not instance.id:
        return ledger
    vm = PaidVm(
        id=instance.id,
        name=instance.name,
        project=instance.project_name,
        zone=instance.zone,
        machine_type=instance.machine_type,
        accelerator=instance.gpu.accelerator if instance.gpu else "",
        gpu_count=instance.gpu.count if instance.gpu else 0,
        spot=instance.spot,
        disk_gb=instance.disk_gb,
        boot_disk=instance.boot_disk,
        has_address=instance.external,
        max_run_s=instance.max_run_s,
        created_at=created,
        on=known.on if known else (),
    )
    turns = []
    if instance.started_at is not None:
        turns.append((instance.started_at, PowerChange.ON))
    if instance.stopped_at is not None:
        turns.append((instance.stopped_at, PowerChange.OFF))
    vm = _turned(vm, turns)
    return replace(ledger, vms={**ledger.vms, vm.id: vm})


def with_events(ledger: Ledger, happenings: Iterable[OperationEvent]) -> Ledger:
    """What Google's operations add to VMs and things that are known."""
    vms, things = dict(ledger.vms), dict(ledger.things)
    by_id: dict[str, list[OperationEvent]] = {}
    for one in happenings:
        by_id.setdefault(one.target_id, []).append(one)
    for target, found in by_id.items():
        gone = next((one.at for one in found if one.change is PowerChange.GONE), None)
        if target in vms:
            vm = _turned(vms[target], [(one.at, one.change) for one in found])
            vms[target] = replace(vm, gone_at=vm.gone_at or gone)
        elif target in things and gone is not None:
            things[target] = replace(things[target], gone_at=gone)
    return replace(ledger, vms=vms, things=things)


def with_resources(ledger: Ledger, found: Iterable[OwnedResource], now: datetime) -> Ledger:
    """What a whole list of an owner's disks, snapshots and addresses adds.

    One that is no longer listed ended at its deletion where that is known, else when it
    was seen last.
    """
    things = dict(ledger.things)
    listed = set()
    for one in found:
        if one.created_at is None or one.kind is ResourceKind.FIREWALL or not one.id:
            continue
        listed.add(one.id)
        things[one.id] = PaidResource(
            id=one.id,
            kind=one.kind,
            name=one.name,
            project=one.project_name,
            place=one.place,
            region=one.region,
            size_gb=one.size_gb,
            stored_bytes=one.stored_bytes,
            disk_type=one.disk_type,
            in_use=one.in_use,
            created_at=one.created_at,
            seen_at=now,
        )
    for id_, thing in things.items():
        if id_ not in listed and thing.gone_at is None:
            owner = owner_of(thing, ledger.vms.values())
            gone = owner.gone_at if owner and owner.gone_at else thing.seen_at
            things[id_] = replace(thing, gone_at=gone)
    return replace(ledger, things=things)


def without_vms_missing(ledger: Ledger, instances: Iterable[Instance], now: datetime) -> Ledger:
    """VMs that are no longer listed count as deleted, also without an operation that says so."""
    listed = {vm.id for vm in instances}
    vms = {}
    for id_, vm in ledger.vms.items():
        if id_ not in listed and vm.gone_at is None:
            last = vm.on[-1] if vm.on else None
            limit = last.begin + timedelta(seconds=vm.max_run_s or 0) if last else vm.created_at
            at = min(now, limit) if last is None or last.end is None else last.end
            guessed = last is not None and last.end is None
            vm = replace(_turned(vm, [(at, PowerChange.GONE)]), gone_at=at, end_guessed=guessed)
        vms[id_] = vm
    return replace(ledger, vms=vms)


def owner_of(thing: PaidResource, vms: Iterable[PaidVm]) -> PaidVm | None:
    """The VM whose boot disk it is: its cost is the VM's while that exists."""
    if thing.kind is not ResourceKind.DISK:
        return None
    same = [
        vm
        for vm in vms
        if (vm.boot_disk, vm.zone) == (thing.name, thing.place)
        # an adopted VM may have been made of a disk that was there
        and thing.created_at <= vm.created_at + SAME_CREATION
        and (thing.gone_at is None or vm.created_at < thing.gone_at)
    ]
    return min(same, key=lambda vm: abs(thing.created_at - vm.created_at), default=None)


def _not_gone(vm: PaidVm | None) -> PaidVm | None:
    """What is known of a VM that is there, without what was guessed when it was not listed."""
    if vm is None or not vm.end_guessed:
        return vm
    return replace(vm, on=(*vm.on[:-1], replace(vm.on[-1], end=None)))


def _turned(vm: PaidVm, turns: Iterable[tuple[datetime, PowerChange]]) -> PaidVm:
    """The VM's times, merged from those known and these changes; repetitions do not count twice."""
    known = [(span.begin, PowerChange.ON) for span in vm.on]
    known += [(span.end, PowerChange.OFF) for span in vm.on if span.end is not None]
    by_moment: dict[datetime, set[PowerChange]] = {}
    for at, turn in (*known, *turns):
        by_moment.setdefault(at, set()).add(
            PowerChange.ON if turn is PowerChange.ON else PowerChange.OFF
        )
    spans: list[Span] = []
    for at in sorted(by_moment):
        both, last = by_moment[at], spans[-1] if spans else None
        if last is not None and last.end is None:
            latest = last.begin + timedelta(seconds=vm.max_run_s) if vm.max_run_s else at
            if PowerChange.OFF in both:
                spans[-1] = replace(last, end=at)
            elif at > latest + LIMIT_SLACK:  # its stop was not seen, but Google's limit is known
                spans[-1] = replace(last, end=latest)
            else:
                continue
            if PowerChange.ON in both:
                spans.append(Span(at))
        elif PowerChange.ON in both:
            spans.append(Span(at, at if PowerChange.OFF in both else None))
    return replace(vm, on=tuple(spans))
