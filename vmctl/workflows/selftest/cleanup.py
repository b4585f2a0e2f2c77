"""What a self-test made goes: after it, after Ctrl-C, and before the next one."""

from __future__ import annotations

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.responses import aggregated, last_part
from vmctl.cloud.compute.selftest import SelftestCompute
from vmctl.config import Project
from vmctl.domain.errors import TimedOut
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.machine.instance import SELFTEST_LABEL, Instance, labels_for
from vmctl.ssh.identity import known_hosts
from vmctl.workflows.base.operations import gap_s, wait_deleted, wait_operation, wait_until

LIMIT_S = 600.0
SECOND_LOOK_S = 1.0


def selftest_labels(project: Project) -> dict[str, str]:
    """On everything that a self-test makes.

    The last one stands beside the name: a project of the user's may be called the same, and its VM
    is not ours to delete.
    """
    return {**labels_for(project.owner, project.name), SELFTEST_LABEL: "1"}


def delete_leftovers(
    project: Project, compute: Compute, clock: Clock, *, interrupted: bool = False
) -> Story[int]:
    """Delete every VM and disk of self-tests of this owner; return how many there were.

    A creation under way is waited for. After an interruption a request may just have been sent:
    then it looks twice.
    """
    began, count = clock.monotonic(), 0
    looks = 2 if interrupted else 1
    while looks:
        operation = compute.pending_insert(project.instance_name)
        if operation is not None:
            yield Started("clear", f"Waiting for the creation in {operation.zone}")
            yield from wait_operation(compute, operation, clock, "clear")
        every = SelftestCompute.of(compute).called(project.instance_name)
        found = [vm for vm in every if SELFTEST_LABEL in vm.labels]
        for vm in found:
            yield from _delete(compute, vm, clock)
        disks = _disks(project, compute)
        for zone, name in disks:
            yield Started("clear", f"Deleting the disk {name} in {zone}")
            asked = compute.change("disks", "delete", name, zone=zone, disk=name)
            yield from wait_deleted(compute, asked, clock, "clear", f"the disk {name}")
        count += len(found) + len(disks)
        if clock.monotonic() - began > LIMIT_S:
            raise TimedOut(
                "Resources of the self-test still exist.",
                hint="Check: vmctl ls --all; then: vmctl gc",
            )
        looks = looks - 1 if not found and not disks else 1
        if looks:
            clock.sleep(SECOND_LOOK_S if not found and not disks else gap_s(0))
    if count:
        seconds = clock.monotonic() - began
        yield Finished("clear", "Deleted what the self-test made", seconds)
    return count


def _delete(compute: Compute, vm: Instance, clock: Clock) -> Story[None]:
    yield Started("clear", f"Deleting {vm.name} and its disk in {vm.zone}")
    rest: Instance | None = vm
    if vm.status.is_going:  # Google refuses while it stops
        rest = yield from wait_until(
            compute, vm, lambda now: not now.status.is_going, clock, "clear"
        )
    if rest is not None:
        yield from wait_deleted(compute, compute.delete(rest), clock, "clear", vm.name)
    known_hosts.unpin(vm.id)


def _disks(project: Project, compute: Compute) -> list[tuple[str, str]]:
    """Zone and name of the disks that no VM uses."""
    labels = selftest_labels(project)
    wanted = " AND ".join(f"(labels.{key} = {value})" for key, value in labels.items())
    return [
        (last_part(item["zone"]), item["name"])
        for page in compute.pages("disks", "aggregatedList", filter=wanted)
        for item in aggregated(page, "disks")
        if all(item.get("labels", {}).get(key) == value for key, value in labels.items())
        and not item.get("users")
    ]
