"""A stopped VM of the project's, started again in its zone."""

from __future__ import annotations

from collections.abc import Callable

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import Compute, raise_failure
from vmctl.cloud.price_table import hourly_cost_of
from vmctl.config import Project
from vmctl.domain.errors import NoCapacity, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.machine.machine_type import MachineType
from vmctl.domain.machine.placement import NextZone, SearchPolicy
from vmctl.workflows.base.operations import wait_operation, wait_until
from vmctl.workflows.costs.ledger_store import remember_vm
from vmctl.workflows.machine.quota_check import (
    demand_for,
    filter_zones_by_quota,
    prefetch_quotas,
    to_error,
)
from vmctl.workflows.machine.watchdog_setup import run_limit_s, update_watchdog
from vmctl.workflows.machine.zone_plan import ZonePlan, plan_again
from vmctl.workflows.machine.zone_search import search
from vmctl.workflows.session.login import renew_key

Agree = Callable[[ZonePlan], None]


def start(
    project: Project,
    compute: Compute,
    instance: Instance,
    max_run_s: int,
    agree: Agree,
    clock: Clock,
    patience: SearchPolicy,
) -> Story[Instance]:
    """A stopped VM, started; its key is renewed before, so that its first boot knows it.

    Raises NoCapacity when its zone has none left (after as long as `patience` says).
    """
    if project.vm.budget is not None:
        max_run_s = run_limit_s(project, hourly_cost_of(instance), instance.machine_type)
    remember_vm(project, compute, instance)  # its last stop is told only until it starts
    plan = plan_again("start", instance, (instance.zone,), max_run_s)
    yield Info(plan.text)
    agree(plan)
    wanted = demand_for(
        instance.gpu,
        MachineType.parse(instance.machine_type),
        spot=instance.spot,
        address=instance.external,
    )
    ahead = prefetch_quotas(compute, instance.region, SearchPolicy())
    yield from renew_key(project, compute, instance, clock)
    if instance.max_run_s != max_run_s:
        limit = yield from wait_operation(
            compute, compute.set_run_limit(instance, max_run_s), clock, "start"
        )
        if limit.failure is not None:
            # money was promised, or nothing at all would ever stop it: it does not start
            if project.vm.budget is not None or not instance.max_run_s:
                raise_failure(limit, compute.project, f"Setting the run limit of {instance.name}")
            max_run_s = instance.max_run_s or 0
            yield Warned(f"The run limit is unchanged: {limit.failure.message}")
    instance = yield from update_watchdog(project, compute, instance, max_run_s, clock)
    yield from filter_zones_by_quota(ahead, wanted, (instance.zone,), compute, patience)
    began = clock.monotonic()

    def ask(step: NextZone) -> Story[Operation]:
        yield Started("start", f"Starting {instance.name} in {instance.zone}")
        return (yield from wait_operation(compute, compute.start(instance), clock, "start"))

    try:
        yield from search(
            (instance.zone,),
            ask,
            clock,
            patience,
            what=plan.machine,
            explain=lambda failure: to_error(failure, wanted, compute, f"Starting {instance.name}"),
            project=compute.project,
        )
    except NoCapacity as error:
        raise _dry(instance, error) from None
    running = yield from wait_until(
        compute, instance, lambda vm: not vm.status.is_coming, clock, "start"
    )
    if running is None or running.status is not Status.RUNNING:
        raise VmctlError(
            f"{instance.name} started and stopped again at once.", hint="Check: vmctl status"
        )
    yield Finished("start", f"{instance.name} is RUNNING", clock.monotonic() - began)
    return running


def _dry(instance: Instance, error: NoCapacity) -> NoCapacity:
    """The same refusal with what may be done about a VM that has a disk in that zone."""
    if not any(row["kind"] == "stockout" for row in error.attempts):
        return error  # a quota: what it says is right here, too
    said = error.attempts[-1]["message"]
    dry = NoCapacity(
        f"{instance.zone} has no capacity to start {instance.name}: {said}",
        hint="Keep trying: vmctl up --wait 2h; or, if nothing on its disk is needed: "
        "vmctl down --delete, then vmctl up",
    )
    dry.attempts = error.attempts
    return dry
