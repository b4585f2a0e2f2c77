"""What vmctl made besides your VMs, and which of it nothing uses any more."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from vmctl.domain.machine.instance import MOVED_FROM_LABEL, SELFTEST_LABEL, Instance
from vmctl.domain.money.prices import (
    disk_usd_per_month,
    snapshot_usd_per_month,
    unused_address_usd_per_month,
)

FIREWALL_PREFIX = "vmctl-"
SELFTEST_REST = timedelta(minutes=10)  # a self-test at work starts its VM again sooner


class ResourceKind(StrEnum):
    """The kinds of things that can be left behind, in people's words."""

    DISK = "disk"
    SNAPSHOT = "snapshot"
    ADDRESS = "address"
    FIREWALL = "firewall rule"
    SELFTEST = "self-test's VM"


@dataclass(frozen=True, slots=True)
class OwnedResource:
    """One thing of an owner's in the Google project, and who says that it uses it."""

    kind: ResourceKind
    name: str
    place: str  # a zone, a region, or "global"
    region: str  # the one whose prices count; "" where nothing is paid
    id: str = ""
    project_name: str = ""  # the vmctl project, by its label
    size_gb: int = 0
    stored_bytes: int = 0  # of a snapshot
    disk_type: str = ""
    status: str = "READY"  # of a snapshot, in Google's words
    in_use: bool = False  # Google says so: a VM has the disk, or the address
    tags: tuple[str, ...] = ()  # of a firewall rule: the VMs that it is about
    moved_from: str = ""  # of a snapshot: the id of the VM that is being moved
    created_at: datetime | None = None

    @property
    def is_ready(self) -> bool:
        """A snapshot that is complete."""
        return self.status == "READY"

    @property
    def is_busy(self) -> bool:
        """A snapshot that is being made or deleted now."""
        return self.status in {"CREATING", "UPLOADING", "DELETING"}

    @property
    def usd_per_month(self) -> float | None:
        """What it costs by the list, None where the price is not known."""
        match self.kind:
            case (
                ResourceKind.DISK | ResourceKind.SELFTEST
            ):  # of a VM that is off only the disk costs
                return disk_usd_per_month(self.region, self.disk_type, self.size_gb)
            case ResourceKind.SNAPSHOT:
                return snapshot_usd_per_month(self.region, self.stored_bytes)
            case ResourceKind.ADDRESS:
                return unused_address_usd_per_month()
            case ResourceKind.FIREWALL:
                return 0.0


def firewall_description(owner: str) -> str:
    """What marks a firewall rule as an owner's: rules carry no labels."""
    return f"made by vmctl for {owner}"


def left_by_selftests(instances: Iterable[Instance], now: datetime) -> tuple[OwnedResource, ...]:
    """The VMs of killed self-tests that are off, each with its disk: no run limit ends them."""
    return tuple(
        OwnedResource(
            ResourceKind.SELFTEST,
            vm.name,
            place=vm.zone,
            region=vm.region,
            id=vm.id,
            project_name=vm.project_name,
            size_gb=vm.disk_gb,
            disk_type=vm.disk_type,
            created_at=vm.created_at,
        )
        for vm in instances
        if SELFTEST_LABEL in vm.labels
        and vm.status.is_stopped
        and vm.stopped_at is not None
        and now - vm.stopped_at > SELFTEST_REST
    )


def orphans(
    owned: Iterable[OwnedResource], instances: Collection[Instance], under_way: Collection[str]
) -> tuple[OwnedResource, ...]:
    """Those that nothing uses: `instances` are all VMs of the owner's.

    `under_way` names VMs that are being created or deleted now: their disks come or go with them.
    """
    return tuple(
        sorted(
            (one for one in owned if not _is_used(one, instances, under_way)),
            key=lambda one: (list(ResourceKind).index(one.kind), one.place, one.name),
        )
    )


def _is_used(
    one: OwnedResource, instances: Collection[Instance], under_way: Collection[str]
) -> bool:
    match one.kind:
        case ResourceKind.DISK:
            return one.in_use or one.name in under_way
        case ResourceKind.SNAPSHOT:
            return bool(one.moved_from) and any(
                one.moved_from in (vm.id if vm.is_moving else "", vm.labels.get(MOVED_FROM_LABEL))
                for vm in instances
            )
        case ResourceKind.ADDRESS:
            return one.in_use
        case ResourceKind.FIREWALL:
            return any(not one.tags or set(one.tags) & set(vm.tags) for vm in instances)
        case ResourceKind.SELFTEST:
            return one.name in under_way
