"""How this project's machine is, and which others there are: one call to Google each."""

from __future__ import annotations

from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.cloud.compute.guest_attributes import watch_report
from vmctl.cloud.compute.stop_reason import explain_stop
from vmctl.cloud.price_table import price_of
from vmctl.config import Project
from vmctl.domain.events import Story
from vmctl.domain.google.stop_reason import StopReason
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.machine.watchdog import SETTINGS_ITEM, WatchReport, WatchSettings, what_stops
from vmctl.domain.money.prices import Price, disk_text, disk_usd_per_month
from vmctl.domain.network.ssh_restriction import restricted_to, restriction_text
from vmctl.domain.text import to_iso
from vmctl.workflows.base.site import open_site


@dataclass(frozen=True, slots=True)
class MachineView:
    """One VM with what it costs; prices are list prices in USD, None where not known."""

    name: str
    project: str
    status: str
    zone: str
    machine_type: str
    gpu: str | None
    spot: bool
    address: str | None
    ssh_port: int
    instance_id: str
    started_at: str | None
    stopped_at: str | None
    stops_at: str | None  # when Google's run limit stops it
    max_hours: float | None
    disk_gb: int
    usd_per_hour: float | None
    price_dated: str | None
    disk_usd_per_month: float | None
    ssh_from: str | None  # the one address that SSH is limited to; or "iap", "lifted"
    move_unfinished: bool  # the VM is moving to another zone, or came from one, and both cost


@dataclass(frozen=True, slots=True)
class StatusResult:
    """This project's machine, None when there is none; and why it stopped where that is known."""

    project: str
    local: bool
    machine: MachineView | None
    stop_reason: StopReason | None = None
    watchdog: WatchReport | None = None  # what the running VM's watchdog saw last
    what_stops: str = ""  # one line; of a running VM

    @property
    def text(self) -> str:
        """For people, a few lines."""
        vm = self.machine
        if vm is None:
            return f"There is no VM for '{self.project}'. Create one: vmctl up"
        what = f"{vm.machine_type} + {vm.gpu}" if vm.gpu else vm.machine_type
        spot = ", spot" if vm.spot else ""
        where = f" at {vm.address}" if vm.address else ""
        lines = [f"{vm.name}: {vm.status} in {vm.zone} ({what}{spot}){where}"]
        disk = disk_text(vm.disk_gb, vm.disk_usd_per_month)
        if vm.status == Status.RUNNING:
            price = Price(vm.usd_per_hour, vm.price_dated or "", vm.spot)
            lines.append(f"Costs {price}, and {disk}.")
            lines.append(self.what_stops)
        elif vm.status in (Status.TERMINATED, Status.STOPPED):
            lines += [self.stop_reason.text] if self.stop_reason else []
            lines.append(f"Stopped: only {disk}. Start it: vmctl up")
        elif vm.status == Status.SUSPENDED:
            lines.append(f"Suspended: {disk}, and what Google takes for its kept memory.")
            lines.append("Resume it: vmctl up")
        if vm.ssh_from:
            lines.append(restriction_text(vm.ssh_from))
        if vm.move_unfinished:
            lines.append(
                "Its move to another zone is not finished, and the old disk or a snapshot "
                "is billed as well. Finish it: vmctl up"
            )
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class ListResult:
    """Machines of this owner: of this project, or of all; `others` counts those left out."""

    machines: tuple[MachineView, ...]
    others: int = 0


def status(project: Project, *, clock: Clock | None = None) -> Story[StatusResult]:
    """This project's machine: its state, address and price, and what will stop it."""
    site = yield from open_site(project, clock)
    found = site.find_vm()
    if found is None:
        return StatusResult(project.name, project.local, None)
    ending = explain_stop(site.compute, found)
    view = machine_view(found)
    if found.status is not Status.RUNNING:
        return StatusResult(project.name, project.local, view, ending)
    report = watch_report(site.compute, found)
    settings = WatchSettings.parse(found.metadata.get(SETTINGS_ITEM))
    now = site.now()
    line = what_stops(settings, report, found.stops_at, view.max_hours, now, found.started_at)
    return StatusResult(project.name, project.local, view, ending, report, line)


def ls(
    project: Project, all_projects: bool = False, *, clock: Clock | None = None
) -> Story[ListResult]:
    """The owner's machines in this project, or in all of the owner's projects."""
    site = yield from open_site(project, clock)
    every = site.list_vms()
    shown = [vm for vm in every if all_projects or vm.project_name == project.name]
    return ListResult(tuple(map(machine_view, shown)), others=len(every) - len(shown))


def machine_view(instance: Instance) -> MachineView:
    """A VM with its prices, as plain values."""
    price = price_of(instance)
    return MachineView(
        name=instance.name,
        project=instance.project_name,
        status=str(instance.status),
        zone=instance.zone,
        machine_type=instance.machine_type,
        gpu=instance.gpu.title if instance.gpu else None,
        spot=instance.spot,
        address=instance.address,
        ssh_port=instance.ssh_port,
        instance_id=instance.id,
        started_at=to_iso(instance.started_at or instance.created_at),
        stopped_at=to_iso(instance.stopped_at),
        stops_at=to_iso(instance.stops_at) if instance.status.is_billed else None,
        max_hours=round(instance.max_run_s / 3600, 3) if instance.max_run_s else None,
        disk_gb=instance.disk_gb,
        usd_per_hour=price.usd_per_hour if instance.status.is_billed else 0.0,
        price_dated=price.dated or None,
        disk_usd_per_month=disk_usd_per_month(
            instance.region, instance.disk_type, instance.disk_gb
        ),
        ssh_from=restricted_to(instance.labels),
        move_unfinished=instance.is_moving or bool(instance.moved_from),
    )
