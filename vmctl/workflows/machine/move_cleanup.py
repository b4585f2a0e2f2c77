"""How a move ends: the old VM, its disk and the snapshot go, or the new one was never made.

See move.py for the labels that tell how far it has come.
"""

from __future__ import annotations

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.owned import delete_owned, move_snapshots
from vmctl.config import Project
from vmctl.domain.errors import Conflict, TimedOut
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.machine.instance import MOVED_FROM_LABEL, MOVING_LABEL, Instance
from vmctl.ssh.identity import known_hosts
from vmctl.workflows.base.operations import (
    gap_s,
    wait_deleted,
    wait_done,
    wait_operation,
    wait_until,
)

COPY_LIMIT_S = 3600.0  # a first snapshot of a full disk takes its time, without any news


def finish_move(
    project: Project, compute: Compute, instance: Instance, clock: Clock
) -> Story[Instance]:
    """After a machine has answered: what it was moved from goes, with disk and snapshot.

    Nothing happens for a machine that was not moved. Raises Conflict when the old VM was started
    since: then both hold something, and a person has to choose.
    """
    if not instance.moved_from:
        return instance
    began = clock.monotonic()
    yield Started("settle", f"{instance.name} answers in {instance.zone}: deleting the old one")
    for origin in reversed(_origins(project, compute, instance)):
        old = yield from _at_rest(compute, origin, clock, "settle")
        if old is None:
            continue
        since = old.started_at and instance.created_at and old.started_at > instance.created_at
        if since or not old.status.is_stopped:
            raise _two(old, instance)
        asked = compute.delete(old)
        yield from wait_deleted(compute, asked, clock, "settle", f"{old.name} in {old.zone}")
        known_hosts.unpin(old.id)
    yield from _delete_snapshots(compute, project, clock, "settle")
    asked = compute.set_labels(instance, {MOVED_FROM_LABEL: None})
    yield from wait_done(compute, asked, clock, "settle", f"Labelling {instance.name}")
    yield Finished("settle", "Deleted the old VM, its disk and the snapshot",
                   clock.monotonic() - began)  # fmt: skip
    return compute.get_instance(instance.zone, instance.name) or instance


def abort_move(project: Project, compute: Compute, instance: Instance, clock: Clock) -> Story[None]:
    """A move that came to nothing: the snapshot goes, and the VM may be started here again.

    Raises Conflict when the new VM exists: then there are two, and a person has to choose.
    """
    new = yield from find_new_vm(project, compute, instance, clock)
    if new is not None:
        raise _two(instance, new)
    yield from _delete_snapshots(compute, project, clock, "move")
    fresh = compute.get_instance(instance.zone, instance.name)
    if fresh is not None and fresh.is_moving:
        asked = compute.set_labels(fresh, {MOVING_LABEL: None})
        yield from wait_done(compute, asked, clock, "move", f"Labelling {instance.name}")


def clean_up_move(
    project: Project, compute: Compute, instance: Instance, clock: Clock
) -> Story[None]:
    """Before a VM in the middle of a move is deleted: the other VM of the move and the snapshot go.

    The VM itself is left to the caller, so that a repetition finds it as long as anything is left.
    """
    if not instance.is_moving and not instance.moved_from:
        return
    yield from _delete_snapshots(compute, project, clock, "delete")
    for origin in reversed(_origins(project, compute, instance)):
        old = yield from _at_rest(compute, origin, clock, "delete")
        if old is None:
            continue
        yield Started("delete", f"Also deleting {old.name} and its disk in {old.zone}")
        asked = compute.delete(old)
        yield from wait_deleted(compute, asked, clock, "delete", f"{old.name} in {old.zone}")
        known_hosts.unpin(old.id)


def find_new_vm(
    project: Project, compute: Compute, instance: Instance, clock: Clock
) -> Story[Instance | None]:
    """The new VM that an earlier attempt has made, or is making."""
    operation = compute.pending_insert(instance.name)
    if operation is not None:
        yield Started("move", f"Resuming the creation in {operation.zone}")
        yield from wait_operation(compute, operation, clock, "move", limit_s=COPY_LIMIT_S)
    return made_from(project, compute, instance)


def made_from(project: Project, compute: Compute, instance: Instance) -> Instance | None:
    """The VM whose disk was copied from this one's, by its label."""
    every = compute.list_instances(project.owner)
    return next((vm for vm in every if vm.moved_from == instance.id), None)


def _two(old: Instance, new: Instance) -> Conflict:
    return Conflict(
        f"{new.name} in {new.zone} was made from {old.name} in {old.zone}, which was "
        "started since: both may contain data you need.",
        hint=f"Delete the one you do not need: gcloud compute instances delete {old.name} --zone "
        f"{old.zone}",
    )


def _origins(project: Project, compute: Compute, instance: Instance) -> list[Instance]:
    """The VM that this one was moved from, the one that that one was moved from, and so on."""
    every = {vm.id: vm for vm in compute.list_instances(project.owner)}
    chain: list[Instance] = []
    while instance.moved_from in every and every[instance.moved_from] not in chain:
        instance = every[instance.moved_from]
        chain.append(instance)
    return chain


def _at_rest(
    compute: Compute, instance: Instance, clock: Clock, step: str
) -> Story[Instance | None]:
    """A VM once it is not on its way down any more; None when it went for good."""
    if not instance.status.is_going:
        return instance
    return (
        yield from wait_until(compute, instance, lambda vm: not vm.status.is_going, clock, step)
    )


def _delete_snapshots(compute: Compute, project: Project, clock: Clock, step: str) -> Story[None]:
    """All by which VMs of this project were moved; one that is still being made is waited for."""
    began = clock.monotonic()
    while found := move_snapshots(compute, project.owner, project.name):
        for one in found:
            if one.is_busy:
                continue
            asked = delete_owned(compute, one)
            yield from wait_deleted(compute, asked, clock, step, f"the snapshot {one.name}")
        if clock.monotonic() - began > COPY_LIMIT_S:
            raise TimedOut(
                f"The snapshot {found[0].name} has been {found[0].status} for too long.",
                hint=f"Check: gcloud compute snapshots describe {found[0].name}",
            )
        clock.sleep(gap_s(clock.monotonic() - began))
