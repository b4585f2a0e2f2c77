"""`vmctl adopt`: a VM made in the console or with gcloud becomes the project's.

What will change is shown before anything does. The label that makes the VM vmctl's comes last, so
that an adoption which was cut off is none, and the same command goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from vmctl.clock import Clock
from vmctl.cloud.compute import adoption
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.resources import vm_names, zones_of_name
from vmctl.cloud.compute.responses import host_keys_in_log
from vmctl.cloud.price_table import price_of
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, Conflict, HostKeyChanged, InvalidInput, NotFound
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.google.operation import Operation
from vmctl.domain.login.ssh_keys import merged_keys, time_left
from vmctl.domain.machine.adoption import Adoption, Candidate, Change, adoption_of, refuse_unfit
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import NETWORK_TAG, Instance, Status
from vmctl.domain.machine.machine_type import machine_text
from vmctl.domain.machine.watchdog import parse_idle
from vmctl.domain.names import find_nearest
from vmctl.domain.settings.vm_settings import VmSettings
from vmctl.domain.text import to_iso
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.operations import wait_done
from vmctl.workflows.base.site import Site, open_site
from vmctl.workflows.machine.up import up
from vmctl.workflows.session.login import new_key_entry
from vmctl.workflows.setup.completion import cache_foreign_vms

GAP_S = 0.5
FIRST_BOOT = timedelta(minutes=5)  # host keys may still come

Agree = Callable[[str], bool]  # shown what will change


@dataclass(frozen=True, slots=True)
class AdoptRequest:
    """Which VM, and how far to go."""

    name: str
    zone: str | None = None
    host_key: str | None = None  # "ssh-ed25519 AAAA…", read on the VM itself
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class AdoptResult:
    """The VM, what was (or with --dry-run would be) changed on it, and what stays as it is."""

    name: str
    instance_id: str
    zone: str
    status: str
    project: str
    done: bool  # False after --dry-run
    changed: tuple[Change, ...]
    stays: tuple[str, ...]
    usd_per_hour: float | None
    stops_at: str | None
    ready: bool  # it runs, and has answered


def adopt(
    project: Project, wanted: AdoptRequest, agree: Agree, *, clock: Clock | None = None
) -> Story[AdoptResult]:
    """Take a VM under vmctl's wing; `agree` is shown what will change, False ends it.

    Raises NotFound, and Conflict for a VM that is another's or one too many. A VM that runs is
    made ready as by `up`; one that is stopped stays so.
    """
    site = yield from open_site(project, clock)
    yield Started("adopt", f"Checking {wanted.name}")
    found = adoption.look_at(site.compute, _zone(site.compute, wanted), wanted.name)
    present = site.find_vm()
    refuse_unfit(found, project.owner, project.name, present)
    known = bool(known_hosts.pinned(found.instance.id)) and not wanted.host_key
    keys = [] if known else _host_keys(site.compute, found, wanted)
    if not keys and not known:
        _refuse_faceless(found.instance, site.clock)
    plan = _plan(site, found)
    yield Info(_summary(found, plan, project))
    for fact in plan.stays:
        yield Warned(fact)
    if wanted.dry_run:
        return _result(project, found.instance, plan, done=False, ready=False)
    if plan.changes and not agree(found.instance.name):
        raise InvalidInput(
            "Nothing was changed.", hint="To go ahead without being asked: vmctl adopt NAME --yes"
        )
    began = site.clock.monotonic()
    yield from _carry_out(site, found, plan)
    while not keys and not known and found.instance.status is Status.RUNNING:  # it boots
        site.clock.sleep(GAP_S)
        keys = _host_keys(site.compute, found, wanted)
        if not keys:
            _refuse_faceless(found.instance, site.clock)
    if keys:
        known_hosts.pin(found.instance.id, keys)
    yield Finished("adopt", f"{wanted.name} is now the VM of '{project.name}'",
                   site.clock.monotonic() - began)  # fmt: skip
    ready = False
    if found.instance.status is Status.RUNNING:
        yield from up(_as_it_is(project, found.instance), clock=clock)
        ready = True
    if Gpu.parse(project.vm.gpu) != found.instance.gpu:
        setting = f'gpu = "{found.instance.gpu or "none"}"'
        yield Info(
            f"The settings ask for {project.vm.gpu}: write {setting} under [vm] in vmctl.toml."
        )
    now = site.compute.get_instance(found.instance.zone, found.instance.name) or found.instance
    return _result(project, now, plan, done=True, ready=ready)


def _zone(compute: Compute, wanted: AdoptRequest) -> str:
    """Where the VM is; raises NotFound, or Conflict when the name is in several zones."""
    zones = zones_of_name(compute, wanted.name)
    if wanted.zone in zones:
        return wanted.zone
    if not zones or wanted.zone:
        where = f"in {wanted.zone}" if wanted.zone else f"in the project {compute.project}"
        also = f"It is in {', '.join(zones)}. " if zones else ""
        names = vm_names(compute)
        cache_foreign_vms(names)  # for the shell's completion
        close = None if zones else find_nearest(wanted.name, names)
        also = f"Did you mean '{close}'? " if close else also
        raise NotFound(
            f"There is no VM called {wanted.name} {where}.",
            hint=f"{also}See: gcloud compute instances list --project {compute.project}",
        )
    if len(zones) > 1:
        raise Conflict(
            f"There are VMs called {wanted.name} in {', '.join(zones)}.",
            hint=f"Choose one: vmctl adopt {wanted.name} --zone {zones[0]}",
        )
    return zones[0]


def _host_keys(compute: Compute, found: Candidate, wanted: AdoptRequest) -> list[str]:
    """The keys to pin: those given, published, or on the serial port; [] where there are none."""
    if wanted.host_key:
        try:
            return [known_hosts.checked(wanted.host_key)]
        except HostKeyChanged as error:
            raise InvalidInput(error.message, hint="It looks like: ssh-ed25519 AAAA…") from error
    try:
        keys = compute.host_keys(found.instance)
    except (AccessDenied, InvalidInput):  # guest attributes are off on this VM
        keys = []
    return keys or host_keys_in_log(compute.serial_output(found.instance))


def _refuse_faceless(instance: Instance, clock: Clock) -> None:
    """A VM shows its host keys at its first boot only: one that ran on without never will.

    Raises Conflict: its identity could not be verified.
    """
    since = instance.started_at or instance.created_at
    young = since is not None and clock.now() - since < FIRST_BOOT
    if instance.status is Status.RUNNING and not young:
        raise Conflict(
            f"{instance.name} has never published its SSH host keys, so its identity cannot "
            "be verified.",
            hint="Open SSH in the console's browser window and print its key: "
            "cat /etc/ssh/ssh_host_ed25519_key.pub\n"
            f"Then: vmctl adopt {instance.name} --host-key 'ssh-ed25519 AAAA…'",
        )


def _plan(site: Site, found: Candidate) -> Adoption:
    vm, user = found.instance, site.project.login_user
    left = time_left(vm.ssh_keys, user, ensure_keypair().public_line, site.clock.now())
    return adoption_of(
        found,
        owner=site.project.owner,
        name=site.project.name,
        user=user,
        has_key=left > site.project.key_lifetime / 2,
        max_run_s=max(30, round(site.project.vm.max_hours * 3600)),
        idle=site.project.vm.idle if parse_idle(site.project.vm.idle) else "",
    )


def _summary(found: Candidate, plan: Adoption, project: Project) -> str:
    vm = found.instance
    what = machine_text(vm.machine_type, vm.gpu)
    head = f"{vm.name}: {what} in {vm.zone}, {vm.status}, {price_of(vm)}."
    if not plan.changes:
        return f"{head}\nIt is already the VM of '{project.name}': nothing to change."
    return "\n".join([head, "This would change:", *(f"  {change}" for change in plan.changes)])


def _carry_out(site: Site, found: Candidate, plan: Adoption) -> Story[None]:
    vm, now = found.instance, site.clock.now()
    entry = new_key_entry(site)

    def metadata(fresh: Instance) -> dict[str, str]:
        keys = {"ssh-keys": merged_keys(fresh.ssh_keys, entry, now)} if plan.key else {}
        return {**plan.metadata, **keys}

    if plan.max_run_s is not None:
        yield from _done(site, site.compute.set_run_limit(vm, plan.max_run_s))
    if plan.metadata or plan.key:
        yield from _done(site, site.compute.set_metadata(vm, metadata))
    if plan.tags:
        yield from _done(site, site.compute.add_tag(vm, NETWORK_TAG))
    if plan.take_disk_along:
        yield from _done(site, adoption.take_disk_along(site.compute, found))
    if plan.disk_labels:
        yield from _done(site, adoption.label_disk(site.compute, found, plan.disk_labels))
    if plan.labels:
        yield from _done(site, site.compute.set_labels(vm, dict(plan.labels)))


def _done(site: Site, asked: Operation) -> Story[None]:
    yield from wait_done(site, asked, "adopt", f"{asked.kind} of {asked.target}")


def _as_it_is(project: Project, vm: Instance) -> Project:
    """The project with settings that ask for the VM that there is, whatever it is."""
    default = VmSettings()
    unheard_of = vm.gpu is not None and vm.gpu.model is None  # such as a K80
    there = replace(
        project.vm,
        gpu=project.vm.gpu if unheard_of else str(vm.gpu or "none"),
        machine=None,
        zone=None,
        region=default.region,
        disk_gb=default.disk_gb,
        spot=False,
    )
    return replace(project, vm=there)


def _result(
    project: Project, vm: Instance, plan: Adoption, *, done: bool, ready: bool
) -> AdoptResult:
    return AdoptResult(
        name=vm.name,
        instance_id=vm.id,
        zone=vm.zone,
        status=str(vm.status),
        project=project.name,
        done=done,
        changed=plan.changes,
        stays=plan.stays,
        usd_per_hour=price_of(vm).usd_per_hour,
        stops_at=to_iso(vm.stops_at),
        ready=ready,
    )
