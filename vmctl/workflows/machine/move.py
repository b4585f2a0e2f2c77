"""A stopped VM whose zone is dry goes on in another: a snapshot, and a new VM made from it.

The state of a move is in labels on Google's side only, so any command of any computer can go on
with it, whenever it was cut off:

    the old VM        vmctl-moving=1              from the first step until it is deleted
    the snapshot      vmctl-moved-from=<old id>   taken since the old VM's last stop
    the new VM        vmctl-moved-from=<old id>   until it has answered and the rest is deleted

The old VM and its disk are deleted only after the new one has answered over SSH.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vmctl.cloud import price_table
from vmctl.cloud.compute.compute import already_there, raise_failure
from vmctl.cloud.compute.owned import delete_owned, move_snapshots, take_snapshot
from vmctl.domain.errors import Conflict, NoCapacity, TimedOut, Unreachable, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.login.ssh_keys import merged_keys
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
from vmctl.domain.machine.zone_order import SearchPolicy, region_of, with_other_regions
from vmctl.workflows.base.operations import (
    gap_s,
    wait_deleted,
    wait_done,
    wait_operation,
    wait_until,
)
from vmctl.workflows.base.site import Site
from vmctl.workflows.machine.move_cleanup import COPY_LIMIT_S, abort_move, find_new_vm, made_from
from vmctl.workflows.machine.start import start
from vmctl.workflows.machine.watchdog_setup import watchdog_metadata
from vmctl.workflows.machine.zone_plan import Confirm, plan_again
from vmctl.workflows.machine.zone_search import create
from vmctl.workflows.session.login import new_key_entry


def start_or_move(
    site: Site, instance: Instance, max_run_s: int, confirm: Confirm | None, policy: SearchPolicy
) -> Story[tuple[str, Instance]]:
    """A stopped VM, running again: "started" in its zone, or "moved" to one that has capacity.

    An unfinished move goes on. `confirm` is asked before one begins, unless the policy allows it
    already; then a zone without capacity is not waited for either.
    """
    others = other_zones(site.project.vm.zone, instance, policy)
    if instance.is_moving:
        yield Info(f"Resuming the move of {instance.name} out of {instance.zone}.")
        return "moved", (yield from move(site, instance, others, max_run_s, policy))
    here = replace(policy, wait_s=0.0) if policy.move else policy
    try:
        return "started", (yield from start(site, instance, max_run_s, confirm, here))
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
        if not policy.move and (confirm is None or not confirm(plan)):
            dry.hint = f"Move it to another zone with its disk: vmctl up --move\n{dry.hint}"
            raise
    return "moved", (yield from move(site, instance, others, max_run_s, policy))


def other_zones(chosen: str | None, instance: Instance, policy: SearchPolicy) -> tuple[str, ...]:
    """Where a VM could go: the zone that the user chose, else the other zones of its region.

    With any region allowed, those of the others follow by price.
    """
    if chosen not in (None, instance.zone):
        return (str(chosen),)
    rows = price_table.rows(instance.gpu, instance.machine_type)
    near = tuple(z for z in rows if region_of(z) == instance.region and z != instance.zone)
    if not policy.any_region:
        return near
    prices = {zone: row.price(spot=instance.spot).usd_per_hour for zone, row in rows.items()}
    return tuple(z for z in with_other_regions(near, rows, prices) if z != instance.zone)


def move(
    site: Site, instance: Instance, zones: Sequence[str], max_run_s: int, policy: SearchPolicy
) -> Story[Instance]:
    """The VM that goes on in place of a stopped one, RUNNING in one of `zones`.

    Nothing of the old VM is deleted here: `finish_move` does that once the new one has answered.
    When no zone gives one, all is as before and the error of the search is raised.
    """
    began = site.clock.monotonic()
    if instance.data_disks:
        raise Conflict(
            _one_disk_only(instance),
            hint=f"gcloud compute instances detach-disk {instance.name} --zone {instance.zone} "
            f"--disk {instance.data_disks[0]}",
        )
    instance = yield from _mark(site, instance)
    new = yield from find_new_vm(site, instance)
    if new is None and not zones:
        raise NoCapacity(
            f"No other zone of {instance.region} has what {instance.name} needs.",
            hint="Move it to another region: vmctl up --move --any-region",
        )
    new = new or (yield from _create(site, instance, zones, max_run_s, policy))
    if new is None:
        raise Conflict(
            f"A VM called {instance.name} exists in another zone and was not made from this one.",
            hint=f"See it: gcloud compute instances list --filter name={instance.name}",
        )
    if new.status.is_coming:
        new = yield from wait_until(site, new, lambda vm: not vm.status.is_coming, "move")
    if new is None or new.status is not Status.RUNNING:
        raise VmctlError(
            f"{instance.name} was created in its new zone and stopped again at once.",
            hint="Run it again, nothing is lost: vmctl up",
        )
    seconds = site.clock.monotonic() - began
    yield Finished("move", f"{new.name} runs in {new.zone} with its disk", seconds)
    return new


def _create(
    site: Site, instance: Instance, zones: Sequence[str], max_run_s: int, policy: SearchPolicy
) -> Story[Instance | None]:
    """A new VM from a snapshot of the old one's disk; None where the name is another VM's."""
    snapshot = yield from _snapshot(site, instance)
    plan = plan_again("move", instance, zones, max_run_s)
    spec = _spec(site, instance, snapshot, plan.zones[0], max_run_s)
    try:
        zone = yield from create(site, spec, plan, policy)
    except (TimedOut, Unreachable):
        raise  # Google may still be working on it: the next `up` goes on from there
    except VmctlError:
        yield from abort_move(site, instance)
        raise
    new = site.compute.get_instance(zone, spec.name) if zone else None
    return new or made_from(site, instance)


def _one_disk_only(instance: Instance) -> str:
    return (
        f"{instance.name} cannot be moved: a move includes only the boot disk, and it also "
        f"has {', '.join(instance.data_disks)}."
    )


# -- the steps ------------------------------------------------------------------------------------


def _mark(site: Site, instance: Instance) -> Story[Instance]:
    """The old VM with the label that says that it is being left."""
    if instance.is_moving:
        return instance
    yield Started("move", f"Moving {instance.name} out of {instance.zone}")
    asked = site.compute.set_labels(instance, {MOVING_LABEL: "1"})
    yield from wait_done(site, asked, "move", f"Labelling {instance.name}")
    return site.reload(instance)


def _snapshot(site: Site, instance: Instance) -> Story[OwnedResource]:
    """A snapshot of the VM's disk as it was left at its last stop: an older one is not enough."""
    name = f"vmctl-move-{instance.id}"
    began = site.clock.monotonic()
    while True:
        found = _snapshot_named(site, name)
        if found is not None and not found.is_busy:
            taken, stopped = found.created_at, instance.stopped_at
            if found.is_ready and taken and (stopped is None or taken >= stopped):
                seconds = site.clock.monotonic() - began
                yield Finished("move", f"Snapshot of the disk of {instance.name} taken", seconds)
                return found
            why = "is older than the last stop" if found.is_ready else f"is {found.status}"
            yield Info(f"The snapshot {name} {why}: taking a new one.")
            asked = delete_owned(site.compute, found)
            yield from wait_deleted(site, asked, "move", f"the snapshot {name}")
        elif found is not None:  # an earlier attempt began it
            if site.clock.monotonic() - began > COPY_LIMIT_S:
                raise VmctlError(
                    f"The snapshot {name} is not ready after {COPY_LIMIT_S / 60:g} minutes.",
                    hint=f"Check: gcloud compute snapshots describe {name}",
                )
            site.clock.sleep(gap_s(site.clock.monotonic() - began))
            continue
        labels = _labels(site) | {MOVED_FROM_LABEL: instance.id}
        yield Started("move", f"Taking a snapshot of the disk of {instance.name}")
        asked = take_snapshot(site.compute, instance, name, labels)
        done = yield from wait_operation(site, asked, "move", limit_s=COPY_LIMIT_S)
        if not already_there(done):
            raise_failure(done, site.compute.project, f"Taking a snapshot of {instance.boot_disk}")


def _snapshot_named(site: Site, name: str) -> OwnedResource | None:
    every = move_snapshots(site.compute, site.project.owner, site.project.name)
    return next((one for one in every if one.name == name), None)


def _spec(
    site: Site, instance: Instance, snapshot: OwnedResource, zone: str, max_run_s: int
) -> InstanceSpec:
    """The same machine with its disk from the snapshot, its own metadata and the settings' rest."""
    vm = site.project.vm
    return InstanceSpec(
        name=instance.name,
        zone=zone,
        machine=MachineType(instance.machine_type),
        gpu=instance.gpu,
        image=Image.parse(vm.image),  # not used: the disk comes from the snapshot
        disk_gb=instance.disk_gb,
        max_run_s=max_run_s,
        ssh_keys=merged_keys(instance.ssh_keys, new_key_entry(site), site.clock.now()),
        labels=_labels(site),
        metadata={**watchdog_metadata(vm, max_run_s), **own_metadata(instance.metadata)},
        budget_usd=vm.budget,
        spot=instance.spot,
        network=vm.network,
        subnetwork=vm.subnetwork,
        external_address=instance.external,
        snapshot=snapshot.name,
        moved_from=instance.id,
    )


def _labels(site: Site) -> dict[str, str]:
    return labels_for(site.project.owner, site.project.name)
