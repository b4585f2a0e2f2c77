"""What a self-test made goes: after it, after Ctrl-C, and before the next one."""

from __future__ import annotations

from vmctl.cloud.compute.responses import aggregated, last_part
from vmctl.cloud.compute.selftest import SelftestCompute
from vmctl.config import Project
from vmctl.domain.errors import TimedOut
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.machine.instance import SELFTEST_LABEL, Instance, labels_for
from vmctl.ssh.identity import known_hosts
from vmctl.workflows.base.operations import gap_s, wait_deleted, wait_operation, wait_until
from vmctl.workflows.base.site import Site

LIMIT_S = 600.0
SECOND_LOOK_S = 1.0


def selftest_labels(project: Project) -> dict[str, str]:
    """On everything that a self-test makes.

    The last one supplements the name: a project of the user's may be called the same, and its VM
    is not ours to delete.
    """
    return {**labels_for(project.owner, project.name), SELFTEST_LABEL: "1"}


def delete_leftovers(site: Site, *, interrupted: bool = False) -> Story[int]:
    """Delete every VM and disk of self-tests of this owner; return how many there were.

    A creation under way is waited for. After an interruption a request may just have been sent:
    then it looks twice.
    """
    began, count = site.clock.monotonic(), 0
    looks = 2 if interrupted else 1
    while looks:
        operation = site.pending_creation()
        if operation is not None:
            yield Started("clear", f"Waiting for the creation in {operation.zone}")
            yield from wait_operation(site, operation, "clear")
        every = SelftestCompute.of(site.compute).called(site.project.instance_name)
        found = [vm for vm in every if SELFTEST_LABEL in vm.labels]
        for vm in found:
            yield from _delete(site, vm)
        disks = _disks(site)
        for zone, name in disks:
            yield Started("clear", f"Deleting the disk {name} in {zone}")
            asked = site.compute.change("disks", "delete", name, zone=zone, disk=name)
            yield from wait_deleted(site, asked, "clear", f"the disk {name}")
        count += len(found) + len(disks)
        if site.clock.monotonic() - began > LIMIT_S:
            raise TimedOut(
                "Resources of the self-test still exist.",
                hint="Check: vmctl ls --all; then: vmctl gc",
            )
        looks = looks - 1 if not found and not disks else 1
        if looks:
            site.clock.sleep(SECOND_LOOK_S if not found and not disks else gap_s(0))
    if count:
        seconds = site.clock.monotonic() - began
        yield Finished("clear", "Deleted what the self-test made", seconds)
    return count


def _delete(site: Site, vm: Instance) -> Story[None]:
    yield Started("clear", f"Deleting {vm.name} and its disk in {vm.zone}")
    rest: Instance | None = vm
    if vm.status.is_going:  # Google refuses while it stops
        rest = yield from wait_until(site, vm, lambda now: not now.status.is_going, "clear")
    if rest is not None:
        yield from wait_deleted(site, site.compute.delete(rest), "clear", vm.name)
    known_hosts.unpin(vm.id)


def _disks(site: Site) -> list[tuple[str, str]]:
    """Zone and name of the disks that no VM uses."""
    labels = selftest_labels(site.project)
    wanted = " AND ".join(f"(labels.{key} = {value})" for key, value in labels.items())
    return [
        (last_part(item["zone"]), item["name"])
        for page in site.compute.pages("disks", "aggregatedList", filter=wanted)
        for item in aggregated(page, "disks")
        if all(item.get("labels", {}).get(key) == value for key, value in labels.items())
        and not item.get("users")
    ]
