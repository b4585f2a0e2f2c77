"""A stopped VM whose zone is dry goes on in another: a snapshot, and a new VM made from it.

The state of a move is in labels on Google's side only, so any command of any computer can go on
with it, whenever it was cut off:

    the old VM        vmctl-moving=1              from the first step until it is gone
    the snapshot      vmctl-moved-from=<old id>   taken since the old VM's last stop, or anew
    the new VM        vmctl-moved-from=<old id>   until it has answered and the rest is gone

The old VM and its disk are deleted only after the new one has answered over SSH.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from vmctl.clock import Clock
from vmctl.cloud import price_table
from vmctl.cloud.compute.compute import Compute, already_there, raise_failure
from vmctl.cloud.compute.owned import delete_owned, move_snapshots, take_snapshot
from vmctl.config import Project
from vmctl.domain.errors import Conflict, NoCapacity, TimedOut, Unreachable, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.login.ssh_keys import key_entry, merged_keys
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import (
    MOVED_FROM_LABEL,
    MOVING_LABEL,
    Instance,
    Status,
    labels_for,
)
from vmctl.domain.machine.instance_spec import InstanceSpec, own_metadata
from vmctl.domain.machine.leftovers import OwnedResource
from vmctl.domain.machine.machine_type import MachineType
from vmctl.domain.machine.placement import SearchPolicy, region_of, with_other_regions
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.operations import (
    gap_s,
    wait_deleted,
    wait_done,
    wait_operation,
    wait_until,
)
from vmctl.workflows.machine.move_cleanup import COPY_LIMIT_S, abort_move, find_new_vm, made_from
from vmctl.workflows.machine.start import start
from vmctl.workflows.machine.watchdog_setup import watchdog_metadata
from vmctl.workflows.machine.zone_plan import ZonePlan, create, plan_again


def start_or_move(
    project: Project,
    compute: Compute,
    instance: Instance,
    max_run_s: int,
    agree: Callable[[ZonePlan], None],
    offer: Callable[[ZonePlan], bool],
    clock: Clock,
    patience: SearchPolicy,
) -> Story[tuple[str, Instance]]:
    """A stopped VM, running again: "started" in its zone, or "moved" to one that has capacity.

    A move that was begun goes on. `offer` is asked before one begins, unless `patience` allows
    it already; then a dry zone is not waited for either.
    """
    others = other_zones(project, instance, patience)
    if instance.is_moving:
        yield Info(f"Resuming the move of {instance.name} out of {instance.zone}.")
        moved = yield from move(project, compute, instance, others, clock, max_run_s, patience)
        return "moved", moved
    here = replace(patience, wait_s=0.0) if patience.move else patience
    try:
        started = yield from start(project, compute, instance, max_run_s, agree, clock, here)
    except NoCapacity as dry:
        if not others or not any(row["kind"] == "stockout" for row in dry.attempts):
            raise
        if instance.data_disks:
            dry.hint = f"{_one_disk_only(instance)}\n{dry.hint}"
            raise
        yield Warned(dry.message)
        plan = plan_again("move", instance, others, max_run_s)
        yield Info(plan.text)
        yield Info(
            "Its disk is moved as a snapshot, which takes some minutes; the old disk is "
            "kept until the new machine answers."
        )
        if not patience.move and not offer(plan):
            dry.hint = f"Move it to another zone with its disk: vmctl up --move\n{dry.hint}"
            raise
        moved = yield from move(project, compute, instance, others, clock, max_run_s, patience)
        return "moved", moved
    return "started", started


def other_zones(project: Project, instance: Instance, patience: SearchPolicy) -> tuple[str, ...]:
    """Where a VM could go: the zone that the user chose, else the other zones of its region.

    With any region allowed, those of the others follow by price.
    """
    if project.vm.zone not in (None, instance.zone):
        return (str(project.vm.zone),)
    gpu, machine = instance.gpu, instance.machine_type
    having = price_table.zones_with(gpu, machine) if gpu else price_table.zones()
    near = tuple(z for z in having if region_of(z) == instance.region and z != instance.zone)
    if not patience.any_region:
        return near
    prices = {
        zone: price_table.price(zone, machine, gpu, spot=instance.spot).usd_per_hour
        for zone in having
    }
    return tuple(z for z in with_other_regions(near, having, prices) if z != instance.zone)


def move(
    project: Project,
    compute: Compute,
    instance: Instance,
    zones: Sequence[str],
    clock: Clock,
    max_run_s: int,
    patience: SearchPolicy | None = None,
) -> Story[Instance]:
    """The VM that goes on in place of a stopped one, RUNNING in one of `zones`.

    Nothing of the old VM is deleted here: `settle` does that once the new one has answered. When
    no zone gives one, all is as before and the error of the search is raised.
    """
    began = clock.monotonic()
    if instance.data_disks:
        raise Conflict(
            _one_disk_only(instance),
            hint=f"gcloud compute instances detach-disk {instance.name} --zone {instance.zone} "
            f"--disk {instance.data_disks[0]}",
        )
    instance = yield from _mark(compute, instance, clock)
    new = yield from find_new_vm(project, compute, instance, clock)
    if new is None and not zones:
        raise NoCapacity(
            f"No other zone of {instance.region} has what {instance.name} needs.",
            hint="Move it to another region: vmctl up --move --any-region",
        )
    if new is None:
        snapshot = yield from _snapshot(project, compute, instance, clock)
        plan = _machine(project, instance, snapshot, zones, max_run_s, clock)
        try:
            zone = yield from create(compute, plan, zones, clock, patience or SearchPolicy())
        except (TimedOut, Unreachable):
            raise  # Google may still be at it: the next `up` goes on from there
        except VmctlError:
            yield from abort_move(project, compute, instance, clock)
            raise
        new = compute.get_instance(zone, plan.name) if zone else None
        new = new or made_from(project, compute, instance)
    if new is None:
        raise Conflict(
            f"A VM called {instance.name} exists in another zone and was not made from this one.",
            hint=f"See it: gcloud compute instances list --filter name={instance.name}",
        )
    if new.status.is_coming:
        new = yield from wait_until(compute, new, lambda vm: not vm.status.is_coming, clock, "move")
    if new is None or new.status is not Status.RUNNING:
        raise VmctlError(
            f"{instance.name} was created in its new zone and stopped again at once.",
            hint="Run it again, nothing is lost: vmctl up",
        )
    seconds = clock.monotonic() - began
    yield Finished("move", f"{new.name} runs in {new.zone} with its disk", seconds)
    return new


def _one_disk_only(instance: Instance) -> str:
    return (
        f"{instance.name} cannot be moved: a move includes only the boot disk, and it also "
        f"has {', '.join(instance.data_disks)}."
    )


# -- the steps ------------------------------------------------------------------------------------


def _mark(compute: Compute, instance: Instance, clock: Clock) -> Story[Instance]:
    """The old VM with the label that says that it is being left."""
    if instance.is_moving:
        return instance
    yield Started("move", f"Moving {instance.name} out of {instance.zone}")
    asked = compute.set_labels(instance, {MOVING_LABEL: "1"})
    yield from wait_done(compute, asked, clock, "move", f"Labelling {instance.name}")
    return compute.get_instance(instance.zone, instance.name) or instance


def _snapshot(
    project: Project, compute: Compute, instance: Instance, clock: Clock
) -> Story[OwnedResource]:
    """A snapshot of the VM's disk as it was left at its last stop: an older one is not enough."""
    name = f"vmctl-move-{instance.id}"
    began = clock.monotonic()
    while True:
        found = _snapshot_named(project, compute, name)
        if found is not None and not found.is_busy:
            taken, stopped = found.created_at, instance.stopped_at
            if found.is_ready and taken and (stopped is None or taken >= stopped):
                seconds = clock.monotonic() - began
                yield Finished("move", f"Snapshot of the disk of {instance.name} taken", seconds)
                return found
            why = "is older than the last stop" if found.is_ready else f"is {found.status}"
            yield Info(f"The snapshot {name} {why}: taking a new one.")
            asked = delete_owned(compute, found)
            yield from wait_deleted(compute, asked, clock, "move", f"the snapshot {name}")
        elif found is not None:  # an earlier attempt began it
            if clock.monotonic() - began > COPY_LIMIT_S:
                raise VmctlError(
                    f"The snapshot {name} is not ready after {COPY_LIMIT_S / 60:g} minutes.",
                    hint=f"Check: gcloud compute snapshots describe {name}",
                )
            clock.sleep(gap_s(clock.monotonic() - began))
            continue
        labels = labels_for(project.owner, project.name) | {MOVED_FROM_LABEL: instance.id}
        yield Started("move", f"Taking a snapshot of the disk of {instance.name}")
        asked = take_snapshot(compute, instance, name, labels)
        done = yield from wait_operation(compute, asked, clock, "move", limit_s=COPY_LIMIT_S)
        if not already_there(done):
            raise_failure(done, compute.project, f"Taking a snapshot of {instance.boot_disk}")


def _snapshot_named(project: Project, compute: Compute, name: str) -> OwnedResource | None:
    every = move_snapshots(compute, project.owner, project.name)
    return next((one for one in every if one.name == name), None)


def _machine(
    project: Project,
    instance: Instance,
    snapshot: OwnedResource,
    zones: Sequence[str],
    max_run_s: int,
    clock: Clock,
) -> InstanceSpec:
    now = clock.now()
    entry = key_entry(project.login_user, ensure_keypair().public_line, now + project.key_lifetime)
    return InstanceSpec(
        name=instance.name,
        zone=zones[0],
        machine=MachineType(instance.machine_type),
        gpu=instance.gpu,
        image=Image.parse(project.vm.image),  # not used: the disk comes from the snapshot
        disk_gb=instance.disk_gb,
        max_run_s=max_run_s,
        ssh_keys=merged_keys(instance.ssh_keys, entry, now),
        labels=labels_for(project.owner, project.name),
        metadata={**watchdog_metadata(project, max_run_s), **own_metadata(instance.metadata)},
        budget_usd=project.vm.budget,
        spot=instance.spot,
        network=project.vm.network,
        subnetwork=project.vm.subnetwork,
        external_address=instance.external,
        snapshot=snapshot.name,
        moved_from=instance.id,
    )
