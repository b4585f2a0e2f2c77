"""A stopped or suspended VM of the project's, started again in its zone."""

from __future__ import annotations

from vmctl.cloud.compute.compute import raise_failure
from vmctl.cloud.price_table import hourly_cost_of
from vmctl.domain.errors import NoCapacity, VmctlError
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.machine.zone_order import NextZone, SearchPolicy
from vmctl.workflows.base.operations import wait_operation, wait_until
from vmctl.workflows.base.site import Site
from vmctl.workflows.costs.ledger_store import remember_vm
from vmctl.workflows.machine.quota_check import filter_zones_by_quota, prefetch_quotas
from vmctl.workflows.machine.watchdog_setup import run_limit_s, update_watchdog
from vmctl.workflows.machine.zone_plan import Confirm, agree, plan_again
from vmctl.workflows.machine.zone_search import ZoneSearch
from vmctl.workflows.session.login import renew_key


def start(
    site: Site, instance: Instance, max_run_s: int, confirm: Confirm | None, policy: SearchPolicy
) -> Story[Instance]:
    """A stopped VM, started; its key is renewed before, so that its first boot knows it.

    A suspended one runs on as it was: its run limit can be changed only while it is off.
    Raises NoCapacity when its zone has none left (after as long as the policy says).
    """
    vm = site.project.vm
    if vm.budget is not None:
        max_run_s = run_limit_s(vm, hourly_cost_of(instance), instance.machine_type)
    remember_vm(site, instance)  # Google forgets its last stop when it starts
    suspended = instance.status is Status.SUSPENDED
    doing = "Resuming" if suspended else "Starting"
    max_run_s = instance.max_run_s or 0 if suspended else max_run_s
    plan = plan_again("resume" if suspended else "start", instance, (instance.zone,), max_run_s)
    yield Info(plan.text)
    agree(confirm, plan)
    quotas = prefetch_quotas(site.compute, instance.region, SearchPolicy())
    if suspended:
        yield from renew_key(site, instance)
    else:
        instance = yield from _prepare(site, instance, max_run_s)
    yield from filter_zones_by_quota(quotas, plan.demand, plan.zones, site.compute, policy)
    began = site.clock.monotonic()

    def ask(_: NextZone) -> Story[Operation]:
        yield Started("start", f"{doing} {instance.name} in {instance.zone}")
        return (yield from wait_operation(site, site.compute.start(instance), "start"))

    try:
        yield from ZoneSearch(site, plan, policy, f"{doing} {instance.name}").run(ask)
    except NoCapacity as error:
        raise _dry(instance, error) from None
    running = yield from wait_until(site, instance, lambda vm: not vm.status.is_coming, "start")
    if running is None or running.status is not Status.RUNNING:
        raise VmctlError(
            f"{instance.name} started and stopped again at once.", hint="Check: vmctl status"
        )
    yield Finished("start", f"{instance.name} is RUNNING", site.clock.monotonic() - began)
    return running


def _prepare(site: Site, instance: Instance, max_run_s: int) -> Story[Instance]:
    """The VM with a login key, a run limit and the watchdog's settings for its next start."""
    yield from renew_key(site, instance)
    if instance.max_run_s != max_run_s:
        asked = site.compute.set_run_limit(instance, max_run_s)
        limit = yield from wait_operation(site, asked, "start")
        if limit.failure is not None:
            # a budget was agreed to, or nothing at all would ever stop it: it does not start
            if site.project.vm.budget is not None or not instance.max_run_s:
                raise_failure(
                    limit, site.compute.project, f"Setting the run limit of {instance.name}"
                )
            max_run_s = instance.max_run_s or 0
            yield Warned(f"The run limit is unchanged: {limit.failure.message}")
    return (yield from update_watchdog(site, instance, max_run_s))


def _dry(instance: Instance, error: NoCapacity) -> NoCapacity:
    """The same refusal with what may be done about a VM that has a disk in that zone."""
    if not any(row["kind"] == "stockout" for row in error.attempts):
        return error  # a quota: what it says is right here, too
    reason = error.attempts[-1]["message"]
    dry = NoCapacity(
        f"{instance.zone} has no capacity to start {instance.name}: {reason}",
        hint="Keep trying: vmctl up --wait 2h; or, if nothing on its disk is needed: "
        "vmctl down --delete, then vmctl up",
    )
    dry.attempts = error.attempts
    return dry
