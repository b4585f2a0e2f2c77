"""`vmctl up`: one machine of the project's, created, started or taken over, until it can train.

Whatever happened before (a kill -9 in the middle of an earlier `up`, a stop from the console),
the same command ends with one machine: Google's side is asked first, and only what is missing
is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from vmctl.clock import Clock
from vmctl.cloud.price_table import price_of
from vmctl.config import Project
from vmctl.domain.errors import Conflict, VmctlError
from vmctl.domain.events import Info, Started, Story, Warned
from vmctl.domain.machine.drift import DesiredMachine, differences
from vmctl.domain.machine.instance import Instance, Status
from vmctl.domain.machine.instance_spec import cautions
from vmctl.domain.machine.zone_order import SearchPolicy, region_of
from vmctl.domain.network.nat import nat_caution
from vmctl.domain.readiness.stages import StageReached
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.domain.text import to_iso
from vmctl.files import FileLock
from vmctl.folders import cache_dir
from vmctl.workflows.base.operations import wait_operation, wait_until
from vmctl.workflows.base.site import Site, open_site
from vmctl.workflows.base.tasks import Task
from vmctl.workflows.costs.ledger_store import observe, remember_vm
from vmctl.workflows.machine.move import start_or_move
from vmctl.workflows.machine.move_cleanup import abort_move, finish_move
from vmctl.workflows.machine.quota_check import QuotaLimits, prefetch_quotas
from vmctl.workflows.machine.request import MachineRequest, make_spec, parse_request
from vmctl.workflows.machine.start import start
from vmctl.workflows.machine.watchdog_setup import start_watchdog_now, update_watchdog
from vmctl.workflows.machine.zone_plan import Confirm, ZonePlan, agree, plan_creation
from vmctl.workflows.machine.zone_search import create
from vmctl.workflows.readiness.bring_up import Readiness, make_ready, preload
from vmctl.workflows.readiness.context import BringUp
from vmctl.workflows.session.login import new_key_entry
from vmctl.workflows.session.ssh_restriction import restriction_for
from vmctl.workflows.sync.push import PushResult


@dataclass(frozen=True, slots=True)
class UpResult:
    """The machine that is up now; `action` says what it took."""

    action: str  # created, started, resumed, moved, running; adopted (asked for by an earlier `up`)
    name: str
    instance_id: str
    zone: str
    machine_type: str
    gpu: str | None
    gpu_driver: str | None
    simulated: bool  # the GPU is the embedded Compute Engine's stand-in
    address: str | None
    ssh_port: int
    user: str
    workspace: str
    usd_per_hour: float | None
    price_dated: str | None
    stops_at: str | None
    max_hours: float | None
    seconds: float
    stages: tuple[StageReached, ...] = ()  # what was reached, and when
    pushed: PushResult | None = None  # with --push
    google_project: str = ""
    project_source: str | None = None  # what named it; None for the embedded Compute Engine
    account: str | None = None  # where the credentials name it
    credentials: str | None = None


def up(
    project: Project,
    *,
    confirm: Confirm | None = None,
    policy: SearchPolicy | None = None,
    clock: Clock | None = None,
    pushing: Callable[[], Story[PushResult]] | None = None,
) -> Story[UpResult]:
    """Create or start the project's machine and return when it can train.

    `confirm` is shown what it will cost before anything is asked for; False ends it. Closing
    the story early leaves what Google is doing: the next `up` takes it over. `pushing` starts
    as soon as the VM is set up.
    """
    clock, policy = clock or Clock(), policy or SearchPolicy()
    began = asked = clock.monotonic()

    def ask(plan: ZonePlan) -> bool:
        """The time that a person takes to agree is not the machine's."""
        nonlocal asked
        agreed = confirm is not None and confirm(plan)
        asked = clock.monotonic()
        return agreed

    request = parse_request(project.vm, local=project.local)
    site = yield from open_site(project, clock)
    if site.compute.access is not None:
        yield Info(site.compute.access.text)
    preload()
    lock = FileLock(cache_dir() / f"up-{project.instance_name}.lock")
    if not lock.acquire():  # two at once could create the VM twice, in two zones
        yield Info("Another `vmctl up` is running for this VM; waiting for it.")
    with lock:
        action, instance = yield from _bring_up(site, request, ask if confirm else None, policy)
        if action in ("running", "adopted"):
            instance = yield from update_watchdog(site, instance, request.max_run_s)
        is_new = action not in ("running", "started", "resumed")
        limit = yield from restriction_for(site, instance, is_new=is_new)
        ready = yield from make_ready(BringUp(site, asked, limit), instance, pushing)
        if action == "running":
            yield from start_watchdog_now(site, ready.instance)
        known = remember_vm(site, ready.instance)
        if known.is_stale(site.now()):
            with suppress(VmctlError):  # a memory is no reason to fail
                observe(site)
        settled = yield from finish_move(site, ready.instance)
        ready = replace(ready, instance=settled)
    result = _result(project, action, ready, clock.monotonic() - began)
    access = site.compute.access
    if access is None:
        return replace(result, google_project=site.compute.project)
    return replace(
        result,
        google_project=access.project,
        project_source=access.project_source,
        account=access.account or None,
        credentials=access.credentials_source,
    )


def _bring_up(
    site: Site, request: MachineRequest, confirm: Confirm | None, policy: SearchPolicy
) -> Story[tuple[str, Instance]]:
    """From whatever there is to a RUNNING machine, and the word for how."""
    quotas = prefetch_quotas(site.compute, request.region, policy)
    instance = yield from _find(site)
    if instance is None:
        return (yield from _create(site, request, confirm, policy, quotas))
    yield from _compare(instance, request, policy)
    if instance.status is Status.RUNNING:
        yield Info(f"{instance.name} is already running in {instance.zone}: nothing to create.")
        if instance.is_moving:  # somebody started it where it was: no move is needed any more
            yield from abort_move(site, instance)
        return "running", instance
    if instance.status.is_stopped:
        return (yield from start_or_move(site, instance, request.max_run_s, confirm, policy))
    if instance.status is Status.SUSPENDED:
        return "resumed", (yield from start(site, instance, request.max_run_s, confirm, policy))
    if not instance.status.is_coming:
        raise Conflict(
            f"{instance.name} is in an unknown state ({instance.status}).",
            hint=f"Check it: gcloud compute instances describe {instance.name} --zone "
            f"{instance.zone}",
        )
    yield Started("boot", f"{instance.name} is {instance.status}: waiting for it")
    running = yield from wait_until(site, instance, lambda vm: not vm.status.is_coming, "boot")
    if running is None or running.status is not Status.RUNNING:
        # the creation failed in the end, or somebody stopped it meanwhile: look again
        return (yield from _bring_up(site, request, confirm, policy))
    return "adopted", running


def _find(site: Site) -> Story[Instance | None]:
    """The project's VM, once no operation will change it any more; None: there is none."""
    while True:
        instance = site.find_vm()
        if instance is not None and instance.status.is_going:
            yield Started("stop", f"{instance.name} is {instance.status}: waiting until it has")
            yield from wait_until(site, instance, lambda vm: not vm.status.is_going, "stop")
            continue
        if instance is not None and not instance.status.is_coming:
            return instance
        # None, or being created: an unfinished creation, perhaps of an `up` that was killed
        operation = site.pending_creation()
        if operation is None:
            # it may have ended between the two questions
            return instance or site.find_vm()
        yield Started("create", f"Resuming the creation in {operation.zone}")
        done = yield from wait_operation(site, operation, "create")
        if done.failure is not None:
            yield Warned(f"The creation in {done.zone} failed: {done.failure.message}")


def _create(
    site: Site,
    request: MachineRequest,
    confirm: Confirm | None,
    policy: SearchPolicy,
    quotas: Task[QuotaLimits],
) -> Story[tuple[str, Instance]]:
    plan = yield from plan_creation(site, request, policy, quotas)
    vm = request.vm
    for caution in cautions(request.gpu, request.machine, request.image, vm.spot):
        yield Warned(caution)
    if not vm.external_address:
        yield Warned(nat_caution(vm.network or "default", region_of(plan.zones[0])))
    yield Info(plan.text)
    agree(confirm, plan)
    spec = make_spec(site.project, request, plan.zones[0], new_key_entry(site))
    zone = yield from create(site, spec, plan, policy)
    if zone is None:  # a VM of this name is there after all: another `up` was faster
        if site.find_vm() is None and site.pending_creation() is None:
            raise Conflict(
                f"A VM called {spec.name} exists that vmctl did not create.",
                hint="Choose another name: vmctl --name NAME up",
            )
        return (yield from _bring_up(site, request, confirm, policy))
    instance = site.compute.get_instance(zone, spec.name)
    if instance is None:
        raise VmctlError(
            f"Google reported {spec.name} as created, but it cannot be found.",
            hint="Run it again: vmctl up",
        )
    return "created", instance


def _compare(instance: Instance, request: MachineRequest, policy: SearchPolicy) -> Story[None]:
    """Say where the machine that exists is not the one that the settings ask for."""
    vm, default = request.vm, VmSettings()
    desired = DesiredMachine(
        gpu=request.gpu,
        machine=request.machine.name if vm.machine else None,
        zone=vm.zone,
        region=vm.region if vm.region != default.region and not policy.any_region else None,
        disk_gb=vm.disk_gb if vm.disk_gb != default.disk_gb else None,
        spot=vm.spot,
    )
    found = differences(instance, desired)
    if found:
        have, want = (", ".join(side) for side in zip(*found, strict=True))
        yield Warned(
            f"{instance.name} has {have}; you asked for {want}. Keeping the VM as it is. "
            "For another machine: vmctl down --delete, then vmctl up"
        )


def _result(project: Project, action: str, ready: Readiness, seconds: float) -> UpResult:
    instance = ready.instance
    price = price_of(instance)
    return UpResult(
        action=action,
        name=instance.name,
        instance_id=instance.id,
        zone=instance.zone,
        machine_type=instance.machine_type,
        gpu=instance.gpu.title if instance.gpu else None,
        gpu_driver=ready.driver,
        simulated=ready.simulated,
        address=instance.address,
        ssh_port=instance.ssh_port,
        user=project.login_user,
        workspace=project.workspace,
        usd_per_hour=price.usd_per_hour,
        price_dated=price.dated or None,
        stops_at=to_iso(instance.stops_at),
        max_hours=round(instance.max_run_s / 3600, 3) if instance.max_run_s else None,
        seconds=round(seconds, 3),
        stages=ready.stage_log.reached,
        pushed=ready.pushed,
    )
