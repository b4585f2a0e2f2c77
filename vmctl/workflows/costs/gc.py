"""`vmctl ls --orphans` and `vmctl gc`: what vmctl made, nothing uses, and still may cost money."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import not_found
from vmctl.cloud.compute.owned import delete_owned, list_owned, vms_under_way
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.events import Finished, Started, Story, Warned
from vmctl.domain.machine.leftovers import OwnedResource, left_by_selftests, orphans
from vmctl.domain.text import to_iso
from vmctl.workflows.base.operations import wait_operation
from vmctl.workflows.base.site import Site, open_site


@dataclass(frozen=True, slots=True)
class Orphan:
    """One thing that nothing uses; the price is the list's, None where it is not known."""

    kind: str
    name: str
    place: str
    project: str
    size_gb: int
    created_at: str | None
    usd_per_month: float | None


@dataclass(frozen=True, slots=True)
class OrphansResult:
    """All of them, of this owner; `usd_per_month` leaves out those whose price is not known."""

    orphans: tuple[Orphan, ...]
    usd_per_month: float
    prices_missing: int

    @property
    def total(self) -> str:
        """The sum in a few words."""
        more = f", and {self.prices_missing} of unknown price" if self.prices_missing else ""
        return f"${self.usd_per_month:.2f} a month at list prices{more}"


@dataclass(frozen=True, slots=True)
class GcResult:
    """What was deleted, and what was kept because something uses it after all."""

    deleted: tuple[Orphan, ...]
    kept: tuple[Orphan, ...]
    usd_per_month: float  # not paid any more

    @property
    def text(self) -> str:
        """For people, one line."""
        if not self.deleted and not self.kept:
            return "Nothing to remove: everything that vmctl made for you is in use."
        count = len(self.deleted)
        return (
            f"Removed {count} {'thing' if count == 1 else 'things'}: "
            f"${self.usd_per_month:.2f} a month less."
        )


def find_orphans(project: Project, *, clock: Clock | None = None) -> Story[OrphansResult]:
    """The owner's disks, snapshots, addresses and firewall rules that nothing uses.

    And what a killed self-test left.
    """
    site = yield from open_site(project, clock)
    return _result(_look(site))


def gc(
    project: Project, *, confirm: Callable[[OrphansResult], bool], clock: Clock | None = None
) -> Story[GcResult]:
    """Delete what nothing uses, after `confirm` was shown it; only this owner's things.

    Raises InvalidInput when it is declined, Conflict when something could not be deleted.
    """
    site = yield from open_site(project, clock)
    first = _look(site)
    if not first:
        return GcResult((), (), 0.0)
    if not confirm(_result(first)):
        raise InvalidInput(
            "Nothing was removed.", hint="To remove it without being asked: vmctl gc --yes"
        )
    shown = {one.id for one in first}
    # while the question stood, a VM may have taken one of them, and others may have come
    agreed = [one for one in _look(site) if one.id in shown]
    deleted, failed = [], []
    for one in agreed:
        began = site.clock.monotonic()
        yield Started("gc", f"Deleting the {one.kind} {one.name} ({one.place})")
        done = yield from wait_operation(site, delete_owned(site.compute, one), "gc")
        if done.failure is None or not_found(done):
            deleted.append(one)
            seconds = site.clock.monotonic() - began
            yield Finished("gc", f"Deleted the {one.kind} {one.name}", seconds)
        else:
            failed.append(one)
            yield Warned(f"The {one.kind} {one.name} was not deleted: {done.failure.message}")
    if failed:
        names = ", ".join(f"{one.kind} {one.name}" for one in failed)
        raise Conflict(
            f"{len(deleted)} of {len(agreed)} were removed; these remain: {names}.",
            hint="See what remains: vmctl ls --orphans",
        )
    removed = {one.id for one in deleted}
    kept = tuple(_view(one) for one in first if one.id not in removed)
    result = _result(tuple(deleted))
    return GcResult(result.orphans, kept, result.usd_per_month)


def _look(site: Site) -> tuple[OwnedResource, ...]:
    # first the operations, then the things: a VM whose creation ends in between is listed
    under_way = vms_under_way(site.compute)
    found = list_owned(site.compute, site.project.owner)
    instances = site.list_vms()
    found += left_by_selftests(instances, site.now())
    return orphans(found, instances, under_way)


def _result(found: tuple[OwnedResource, ...]) -> OrphansResult:
    prices = [one.usd_per_month for one in found]
    return OrphansResult(
        tuple(map(_view, found)),
        round(sum(price for price in prices if price is not None), 2),
        sum(price is None for price in prices),
    )


def _view(one: OwnedResource) -> Orphan:
    return Orphan(
        kind=str(one.kind),
        name=one.name,
        place=one.place,
        project=one.project_name,
        size_gb=one.size_gb,
        created_at=to_iso(one.created_at),
        usd_per_month=one.usd_per_month,
    )
