"""How a move ends: the old VM, its disk and the snapshot go, or the new one was never made.

See move.py for the labels that tell how far it has come.
"""

from __future__ import annotations

from vmctl.cloud.compute.owned import delete_owned, move_snapshots
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
from vmctl.workflows.base.site import Site

COPY_LIMIT_S = 3600.0  # a first snapshot of a full disk takes its time, without any news


def finish_move(site: Site, instance: Instance) -> Story[Instance]:
    """After a machine has answered: what it was moved from goes, with disk and snapshot.

    Nothing happens for a machine that was not moved. Raises Conflict when the old VM was started
    since: then both hold something, and a person has to choose.
    """
    if not instance.moved_from:
        return instance
    began = site.clock.monotonic()
    yield Started("settle", f"{instance.name} answers in {instance.zone}: deleting the old one")
    for origin in reversed(_origins(site, instance)):
        old = yield from _at_rest(site, origin, "settle")
        if old is None:
            continue
        since = old.started_at and instance.created_at and old.started_at > instance.created_at
        if since or not old.status.is_stopped:
            raise _two(old, instance)
        asked = site.compute.delete(old)
        yield from wait_deleted(site, asked, "settle", f"{old.name} in {old.zone}")
        known_hosts.unpin(old.id)
    yield from _delete_snapshots(site, "settle")
    asked = site.compute.set_labels(instance, {MOVED_FROM_LABEL: None})
    yield from wait_done(site, asked, "settle", f"Labelling {instance.name}")
    yield Finished("settle", "Deleted the old VM, its disk and the snapshot",
                   site.clock.monotonic() - began)  # fmt: skip
    return site.reload(instance)


def abort_move(site: Site, instance: Instance) -> Story[None]:
    """A move that came to nothing: the snapshot goes, and the VM may be started here again.

    Raises Conflict when the new VM exists: then there are two, and a person has to choose.
    """
    new = yield from find_new_vm(site, instance)
    if new is not None:
        raise _two(instance, new)
    yield from _delete_snapshots(site, "move")
    fresh = site.compute.get_instance(instance.zone, instance.name)
    if fresh is not None and fresh.is_moving:
        asked = site.compute.set_labels(fresh, {MOVING_LABEL: None})
        yield from wait_done(site, asked, "move", f"Labelling {instance.name}")


def clean_up_move(site: Site, instance: Instance) -> Story[None]:
    """Before a VM in the middle of a move is deleted: the other VM of the move and the snapshot go.

    The VM itself is left to the caller, so that a repetition finds it as long as anything is left.
    """
    if not instance.is_moving and not instance.moved_from:
        return
    yield from _delete_snapshots(site, "delete")
    for origin in reversed(_origins(site, instance)):
        old = yield from _at_rest(site, origin, "delete")
        if old is None:
            continue
        yield Started("delete", f"Also deleting {old.name} and its disk in {old.zone}")
        asked = site.compute.delete(old)
        yield from wait_deleted(site, asked, "delete", f"{old.name} in {old.zone}")
        known_hosts.unpin(old.id)


def find_new_vm(site: Site, instance: Instance) -> Story[Instance | None]:
    """The new VM that an earlier attempt has made, or is making."""
    operation = site.compute.pending_insert(instance.name)
    if operation is not None:
        yield Started("move", f"Resuming the creation in {operation.zone}")
        yield from wait_operation(site, operation, "move", limit_s=COPY_LIMIT_S)
    return made_from(site, instance)


def made_from(site: Site, instance: Instance) -> Instance | None:
    """The VM whose disk was copied from this one's, by its label."""
    every = site.list_vms()
    return next((vm for vm in every if vm.moved_from == instance.id), None)


def _two(old: Instance, new: Instance) -> Conflict:
    return Conflict(
        f"{new.name} in {new.zone} was made from {old.name} in {old.zone}, which was "
        "started since: both may contain data you need.",
        hint=f"Delete the one you do not need: gcloud compute instances delete {old.name} --zone "
        f"{old.zone}",
    )


def _origins(site: Site, instance: Instance) -> list[Instance]:
    """The VM that this one was moved from, the one that that one was moved from, and so on."""
    every = {vm.id: vm for vm in site.list_vms()}
    chain: list[Instance] = []
    while instance.moved_from in every and every[instance.moved_from] not in chain:
        instance = every[instance.moved_from]
        chain.append(instance)
    return chain


def _at_rest(site: Site, instance: Instance, step: str) -> Story[Instance | None]:
    """A VM once it no longer stops or is being deleted; None when it is deleted."""
    if not instance.status.is_going:
        return instance
    return (yield from wait_until(site, instance, lambda vm: not vm.status.is_going, step))


def _delete_snapshots(site: Site, step: str) -> Story[None]:
    """All by which VMs of this project were moved; one that is still being made is waited for."""
    began = site.clock.monotonic()
    while found := move_snapshots(site.compute, site.project.owner, site.project.name):
        for one in found:
            if one.is_busy:
                continue
            asked = delete_owned(site.compute, one)
            yield from wait_deleted(site, asked, step, f"the snapshot {one.name}")
        if site.clock.monotonic() - began > COPY_LIMIT_S:
            raise TimedOut(
                f"The snapshot {found[0].name} has been {found[0].status} for too long.",
                hint=f"Check: gcloud compute snapshots describe {found[0].name}",
            )
        site.clock.sleep(gap_s(site.clock.monotonic() - began))
