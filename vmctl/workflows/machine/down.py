"""`vmctl down`: the meter stops. Stopped is the default, deleted on request; repeating is fine."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import not_found, raise_failure
from vmctl.config import Project
from vmctl.domain.errors import Conflict, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.money.prices import disk_text, disk_usd_per_month
from vmctl.ssh.identity import known_hosts
from vmctl.workflows.base.operations import wait_operation, wait_until
from vmctl.workflows.base.site import Site, open_site
from vmctl.workflows.costs.cost import stopped_line
from vmctl.workflows.machine.move_cleanup import clean_up_move
from vmctl.workflows.session.session import disconnect
from vmctl.workflows.session.ssh_restriction import remove_restriction


@dataclass(frozen=True, slots=True)
class DownResult:
    """What became of the machine, and what still costs money."""

    action: str  # stopped, deleted, "already stopped", "already deleted"
    name: str
    zone: str | None
    disk_gb: int  # still there
    disk_usd_per_month: float | None
    seconds: float
    cost: str = ""  # what it came to, an estimate, in words

    @property
    def text(self) -> str:
        """For people, one or two lines."""
        line = f"{self.name}: {self.action}."
        cost = f"\n{self.cost}" if self.cost else ""
        if self.disk_gb == 0:
            return f"{line} Nothing is billed any more.{cost}"
        disk = disk_text(self.disk_gb, self.disk_usd_per_month)
        return (
            f"{line} Processors and GPU are no longer billed; {disk}.\n"
            f"To delete the disk as well: vmctl down --delete{cost}"
        )


def down(
    project: Project, delete: bool = False, *, clock: Clock | None = None
) -> Story[DownResult]:
    """Stop the project's machine, or delete it with its disk; return when Google says that it is.

    A machine that is already stopped or deleted is no error.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    site = yield from open_site(project, clock)
    instance = yield from _found(site)
    disconnect(project)  # whatever becomes of it: a master to a VM that stops only hangs
    if instance is None:
        action = "already deleted"
    elif delete:
        yield from clean_up_move(site, instance)
        action = yield from _delete(site, instance)
    else:
        if instance.is_moving or instance.moved_from:
            yield Warned(
                "Its move to another zone is not finished: two disks and a snapshot may be "
                "billed until `vmctl up` has finished it."
            )
        action = yield from _stop(site, instance)
    is_deleted = action in ("deleted", "already deleted")
    if is_deleted and instance is not None:
        known_hosts.unpin(instance.id)
        yield from remove_restriction(site, instance)
    kept = None if is_deleted else instance
    return DownResult(
        action=action,
        name=instance.name if instance else project.instance_name,
        zone=instance.zone if instance else None,
        disk_gb=kept.disk_gb if kept else 0,
        disk_usd_per_month=(
            disk_usd_per_month(kept.region, kept.disk_type, kept.disk_gb) if kept else None
        ),
        seconds=round(clock.monotonic() - began, 3),
        cost=_cost(site, instance),
    )


def _cost(site: Site, instance: Instance | None) -> str:
    """One line about money; "" where it cannot be read: the machine is off all the same."""
    try:
        return stopped_line(site, instance)
    except VmctlError:
        return ""


def _found(site: Site) -> Story[Instance | None]:
    """The project's VM, also one that is still being created."""
    instance = site.find_vm()
    if instance is not None and not instance.status.is_coming and not instance.is_moving:
        return instance
    operation = site.pending_creation()
    if operation is None:
        return instance or site.find_vm()
    yield Info(f"The VM is still being created in {operation.zone}; waiting.")
    yield from wait_operation(site, operation, "create")
    return site.find_vm()


def _stop(site: Site, instance: Instance) -> Story[str]:
    if instance.status.is_stopped:
        return "already stopped"
    if instance.status is Status.SUSPENDED:
        raise Conflict(
            f"{instance.name} is suspended; its memory and disk are billed.",
            hint="Resume it first: vmctl up; or, if nothing on it is needed: vmctl down --delete",
        )
    began = site.clock.monotonic()
    yield Started("stop", f"Stopping {instance.name} in {instance.zone}")
    if not instance.status.is_going:
        done = yield from wait_operation(site, site.compute.stop(instance), "stop")
        if not_found(done):
            return "already deleted"
        raise_failure(done, site.compute.project, f"Stopping {instance.name}")
    off = yield from wait_until(site, instance, lambda vm: vm.status.is_stopped, "stop")
    if off is None:
        return "already deleted"
    yield Finished("stop", f"{instance.name} is off", site.clock.monotonic() - began)
    return "stopped"


def _delete(site: Site, instance: Instance) -> Story[str]:
    began = site.clock.monotonic()
    yield Started("delete", f"Deleting {instance.name} and its disk in {instance.zone}")
    if instance.status.is_going:  # Google refuses while it stops, or is being deleted already
        rest = yield from wait_until(site, instance, lambda vm: not vm.status.is_going, "delete")
        if rest is None:
            yield Finished("delete", f"{instance.name} is deleted", site.clock.monotonic() - began)
            return "deleted"
    done = yield from wait_operation(site, site.compute.delete(instance), "delete")
    if not_found(done):
        return "already deleted"
    raise_failure(done, site.compute.project, f"Deleting {instance.name}")
    yield from wait_until(site, instance, lambda vm: False, "delete")
    yield Finished("delete", f"{instance.name} is deleted", site.clock.monotonic() - began)
    return "deleted"
