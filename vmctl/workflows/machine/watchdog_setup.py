"""The VM's watchdog: the script that starts it at every boot, and the settings that it goes by."""

from __future__ import annotations

import base64
import io
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path

from vmctl.cloud.compute.guest_attributes import watch_report
from vmctl.cloud.price_table import hourly_cost, hourly_cost_of
from vmctl.domain.command import command
from vmctl.domain.errors import InvalidInput
from vmctl.domain.events import Info, Story, Warned
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.watchdog import (
    SETTINGS_ITEM,
    STARTUP_ITEM,
    WATCHDOG_MARKER,
    WatchSettings,
    parse_idle,
)
from vmctl.domain.money.prices import HourlyCost, affordable_s
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.domain.text import one_line
from vmctl.guest import watchdog
from vmctl.workflows.base.operations import wait_operation
from vmctl.workflows.base.site import Site
from vmctl.workflows.session.session import connect

MODULES = ("__init__.py", "activity.py", "idle_policy.py", "unsupported.py", "watchdog.py")
ENTRY = """\
import sys

if sys.version_info < (3, 10):
    from vmctl_watchdog.unsupported import main
else:
    from vmctl_watchdog.watchdog import main
raise SystemExit(main())
"""
BEGIN_S = 60.0
SHORTEST_RUN_S = 30  # the shortest run limit that Google takes
EARLIEST = (1980, 1, 1, 0, 0, 0)  # a date in every archive: the same bytes for the same sources


@cache
def startup_script() -> str:
    """What each boot of a VM runs as root: it brings the watchdog along and starts it."""
    folder = Path(watchdog.__file__).parent
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        files = {f"vmctl_watchdog/{name}": (folder / name).read_bytes() for name in MODULES}
        for name, data in sorted({**files, "__main__.py": ENTRY.encode()}.items()):
            archive.writestr(zipfile.ZipInfo(name, EARLIEST), data, zipfile.ZIP_DEFLATED, 9)
    packed = base64.encodebytes(raw.getvalue()).decode().strip()
    return (folder / "watchdog.sh").read_text(encoding="utf-8").replace("@ARCHIVE@", packed)


def watchdog_metadata(vm: VmSettings, max_run_s: int) -> dict[str, str]:
    """The metadata items of a new VM that watches itself."""
    settings = WatchSettings(idle_s=parse_idle(vm.idle), max_run_s=max_run_s)
    return {SETTINGS_ITEM: settings.text(), STARTUP_ITEM: startup_script()}


def run_limit_s(vm: VmSettings, cost: HourlyCost, machine: str) -> int:
    """After how many seconds Google is to stop the VM: `max_hours`, or sooner for a budget.

    Raises InvalidInput where there is a budget and no price.
    """
    hours_s = max(SHORTEST_RUN_S, round(vm.max_hours * 3600))
    if vm.budget is None:
        return hours_s
    affordable = affordable_s(vm.budget, cost)
    if affordable is None:
        raise no_price(machine)
    return max(SHORTEST_RUN_S, min(hours_s, int(affordable)))


def limit_in_zone(plan: InstanceSpec, zone: str) -> InstanceSpec:
    """A machine in one of its zones, where a budget may last shorter than in another."""
    there = plan.in_zone(zone)
    if plan.budget_usd is None:
        return there
    name = plan.machine.name
    rate = hourly_cost(zone, name, plan.gpu, plan.disk_gb, spot=plan.spot)
    affordable = affordable_s(plan.budget_usd, rate)
    if affordable is None:
        raise no_price(name)
    max_run_s = max(SHORTEST_RUN_S, min(plan.max_run_s, int(affordable)))
    settings = WatchSettings.parse(plan.metadata.get(SETTINGS_ITEM))
    changed_items = {SETTINGS_ITEM: replace(settings, max_run_s=max_run_s).text()}
    return replace(there, max_run_s=max_run_s, metadata={**plan.metadata, **changed_items})


def update_watchdog(site: Site, instance: Instance, max_run_s: int) -> Story[Instance]:
    """Give a VM that exists the watchdog's settings where it has others; a failure is a warning.

    They take effect at once; a newer watchdog comes with the VM's next boot, see `begin`. A budget
    for a running VM becomes the moment at which its watchdog stops it: Google's own limit cannot
    be moved while it runs.
    """
    vm = site.project.vm
    before = WatchSettings.parse(instance.metadata.get(SETTINGS_ITEM))
    running = instance.status is Status.RUNNING
    wanted = replace(
        before,
        idle_s=parse_idle(vm.idle),
        max_run_s=(instance.max_run_s or 0) if running else max_run_s,
        stop_at=before.stop_at if running else 0.0,
        keep_until=before.keep_until if running else 0.0,
    )
    if running and vm.budget is not None:
        # one that is spent already ends now: a watchdog takes what is before its boot for old
        now_s = site.now().timestamp()
        ends = max(_budget_end(vm.budget, instance), now_s)
        wanted = replace(wanted, stop_at=ends)
    changed = {}
    script = instance.metadata.get(STARTUP_ITEM, "")
    if wanted.text() != before.text():
        changed[SETTINGS_ITEM] = wanted.text()
    if not script or (WATCHDOG_MARKER in script and script != startup_script()):
        changed[STARTUP_ITEM] = startup_script()
    elif WATCHDOG_MARKER not in script and wanted.idle_s:
        yield Warned(
            f"{instance.name} has its own start-up script, which is kept: it gets no "
            "watchdog and does not stop when idle."
        )
    if not changed:
        return instance
    done = yield from wait_operation(site, site.compute.set_metadata(instance, changed), "watchdog")
    if done.failure is not None:
        yield Warned(f"The watchdog's settings are unchanged: {done.failure.message}")
        return instance
    if running and script and STARTUP_ITEM in changed:
        yield Info("This VM's watchdog is new: it starts with the VM's next start.")
    return site.reload(instance)


def start_watchdog_now(site: Site, instance: Instance) -> Story[None]:
    """A VM that has run since before it had a watchdog need not wait for one until its next boot.

    Nothing happens where one has reported lately; an older one makes room for it.
    """
    script = instance.metadata.get(STARTUP_ITEM, "")
    settings = WatchSettings.parse(instance.metadata.get(SETTINGS_ITEM))
    if WATCHDOG_MARKER not in script or settings == WatchSettings():
        return
    report = watch_report(site.compute, instance)
    if report is not None and report.is_fresh(site.now()):
        return
    session = yield from connect(site.project, clock=site.clock)
    done = session.ssh.run(
        command("sudo", "-n", "sh", "-s"), input=script.encode(), timeout_s=BEGIN_S
    )
    if done.code:
        reason = one_line(done.error_text)
        yield Warned(
            f"The watchdog did not start; it will start with the VM's next start: {reason}"
        )


def _budget_end(budget_usd: float, instance: Instance) -> float:
    """When a running VM will have cost so much since its start, in epoch seconds."""
    since = instance.started_at or instance.created_at
    affordable = affordable_s(budget_usd, hourly_cost_of(instance))
    if affordable is None or since is None:
        raise no_price(instance.machine_type)
    return since.timestamp() + affordable


def no_price(machine: str) -> InvalidInput:
    """A budget needs a price."""
    return InvalidInput(
        f"The price of {machine} is not known here, so --budget cannot limit its time.",
        hint="Limit the time instead: vmctl up --max-hours 4",
    )
