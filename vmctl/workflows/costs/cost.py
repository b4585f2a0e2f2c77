"""`vmctl cost`: what the machines came to, with their disks, and what each run's share was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from vmctl.clock import Clock
from vmctl.cloud.price_table import hourly_cost, hourly_cost_of
from vmctl.config import Project
from vmctl.domain.errors import VmctlError
from vmctl.domain.events import Story, Warned
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.money.bill import ResourceCost, VmCost, bill, skew_text, start_usd
from vmctl.domain.money.ledger import Ledger, PaidRun, PaidVm
from vmctl.domain.money.prices import HourlyCost
from vmctl.workflows.base.site import Site, open_site
from vmctl.workflows.costs import ledger_store as memory
from vmctl.workflows.runs.run import ended_runs


@dataclass(frozen=True, slots=True)
class RunCost:
    """A run that ended, and what its VM cost meanwhile, its disk left out."""

    id: str
    job: str
    began_at: str
    hours: float
    usd: float | None


@dataclass(frozen=True, slots=True)
class CostResult:
    """An estimate by list prices, in USD; times are ISO 8601."""

    since: str
    until: str
    project: str | None  # None: all of the owner's
    usd: float
    prices_missing: int
    priced: tuple[str, ...]  # of what dates the prices are
    machines: tuple[VmCost, ...]
    others: tuple[ResourceCost, ...]
    runs: tuple[RunCost, ...] = ()

    @property
    def text(self) -> str:
        """The sum in one line that says what it is."""
        begin = datetime.fromisoformat(self.since)
        more = f", and {self.prices_missing} of unknown price" if self.prices_missing else ""
        return (
            f"About ${self.usd:.2f}{more} since {begin:%d %b %Y}: an estimate by "
            f"{priced_text(self.priced)}, before discounts and taxes."
        )


def priced_text(dates: Iterable[str]) -> str:
    """ "list prices (of 2026-07-30)" """
    dated = "; ".join(sorted(filter(None, dates)))
    return f"list prices ({dated})" if dated else "list prices"


def cost(
    project: Project,
    since: datetime | None = None,
    all_projects: bool = False,
    *,
    clock: Clock | None = None,
) -> Story[CostResult]:
    """What was paid for since a moment, by default since this month began (UTC)."""
    site = yield from open_site(project, clock)
    ledger = memory.observe(site)
    now = site.now()
    made = make_bill(
        ledger, since or month_start(now), now, None if all_projects else site.project.name
    )
    if skew := skew_text(ledger.vms.values(), now):
        yield Warned(skew)
    instance = site.find_vm()
    if instance is not None and instance.status is Status.RUNNING:
        _note_runs(project, instance)
    begin = datetime.fromisoformat(made.since)
    shown = sorted(memory.load_runs(project).values(), key=lambda run: run.began_at)
    return replace(
        made,
        runs=tuple(
            _run_cost(run)
            for run in shown
            if made.project in (None, run.project) and run.ended_at >= begin
        ),
    )


def _note_runs(project: Project, instance: Instance) -> None:
    """Take note of what has run on the VM and ended with nobody there; it may not answer."""
    rate = hourly_cost_of(instance)
    with contextlib.suppress(VmctlError):
        for run in ended_runs(project, rate.on_usd_h):
            memory.note_run(project, run)


def month_start(moment: datetime) -> datetime:
    """When its month began, in UTC."""
    return moment.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def make_bill(ledger: Ledger, since: datetime, until: datetime, project: str | None) -> CostResult:
    """The bill for what is in a ledger."""
    rates = {vm.id: _rate(vm) for vm in ledger.vms.values()}
    made = bill(ledger, rates, since, until, project)
    return CostResult(
        since=since.isoformat(timespec="seconds"),
        until=until.isoformat(timespec="milliseconds"),
        project=project,
        usd=round(made.usd, 2),
        prices_missing=made.prices_missing,
        priced=tuple(sorted({vm.price_dated for vm in made.vms if vm.price_dated})),
        machines=made.vms,
        others=made.things,
    )


def stopped_line(site: Site, instance: Instance | None) -> str:
    """What this start of a VM, and this month, cost; shown after a VM was stopped."""
    if instance is not None:
        memory.remember_vm(site, instance)
    ledger = memory.observe(site)
    now = site.now()
    vm = ledger.vms.get(instance.id) if instance else None
    month = make_bill(ledger, month_start(now), now, site.project.name)
    line = f"This month so far: about ${month.usd:.2f}"
    skew = ""
    if vm is not None and vm.on:
        usd = start_usd(_rate(vm), vm.on[-1], now)
        if usd is not None:
            line = f"This start: about ${usd:.2f}. {line}"
        skew = skew_text([vm], now)
    return f"{line} (an estimate by {priced_text(month.priced)}): vmctl cost{skew and f'. {skew}'}"


def _rate(vm: PaidVm) -> HourlyCost:
    gpu = Gpu(vm.accelerator, vm.gpu_count) if vm.accelerator else None
    rate = hourly_cost(vm.zone, vm.machine_type, gpu, vm.disk_gb, spot=vm.spot)
    return replace(rate, has_address=vm.has_address)


def _run_cost(run: PaidRun) -> RunCost:
    return RunCost(
        id=run.id,
        job=run.job,
        began_at=run.began_at.isoformat(timespec="seconds"),
        hours=round(max((run.ended_at - run.began_at).total_seconds(), 0.0) / 3600, 4),
        usd=None if run.usd is None else round(run.usd, 4),
    )
