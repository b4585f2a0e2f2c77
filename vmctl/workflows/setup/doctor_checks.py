"""What `vmctl doctor` looks at inside a Google project: machine, quota, network, image."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from vmctl.cloud import price_table
from vmctl.cloud.compute import quotas, resources
from vmctl.cloud.compute.compute import Compute
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, VmctlError
from vmctl.domain.events import Started, Story
from vmctl.domain.google.api_errors import advice, quota_page
from vmctl.domain.google.quota import gpu_metric, shortages
from vmctl.domain.machine.instance import NETWORK_TAG, Instance
from vmctl.domain.machine.instance_spec import cautions
from vmctl.domain.machine.machine_type import MachineType, machine_text
from vmctl.domain.machine.zone_order import region_of
from vmctl.domain.network.firewall import evaluate_ssh
from vmctl.domain.readiness.checks import (
    Check,
    CheckResult,
    check_firewall,
    check_image,
    check_nat,
)
from vmctl.domain.text import format_time
from vmctl.workflows.machine.quota_check import QuotaLimits, demand_for, shortage_error
from vmctl.workflows.machine.request import MachineRequest

RECENT = timedelta(hours=24)


def check_project(
    project: Project,
    compute: Compute,
    request: MachineRequest | None,
    findings: list[CheckResult],
    now: datetime,
) -> Story[None]:
    """The machine, its quota, its network and its image; each one alone may fail."""
    if request is None:
        return
    instance: Instance | None = None
    yield Started("machine", f"Checking {request.machine.name} in {request.region}")
    try:
        instance = compute.find_instance(project.owner, project.name)
        findings.append(_check_machine(project, compute, request, instance))
        findings += _check_last_attempt(project, compute, instance, now)
    except VmctlError as error:
        findings.append(CheckResult.of(Check.MACHINE, error))
    yield Started("quota", "Checking the quotas")
    try:
        findings += _check_quota(project, compute, request, instance)
    except VmctlError as error:
        findings.append(CheckResult.of(Check.QUOTA, error))
    yield Started("network", "Checking the network")
    findings += _check_network(project, compute, request, instance)
    yield Started("image", "Checking the image")
    try:
        image = resources.newest_image(compute, request.image)
        warned = cautions(request.gpu, request.machine, request.image, project.vm.spot)
        findings.append(check_image(request.image, image, project.vm.disk_gb, warned))
    except VmctlError as error:
        findings.append(CheckResult.of(Check.IMAGE, error))


def _check_machine(
    project: Project, compute: Compute, request: MachineRequest, instance: Instance | None
) -> CheckResult:
    """Whether the region offers the machine, and its name is free."""
    if instance is not None:
        message = f"{instance.name} exists in {instance.zone} and is {instance.status}"
        return CheckResult.ok(Check.MACHINE, message)
    taken = resources.zones_of_name(compute, project.instance_name)
    if taken:
        return CheckResult.broken(
            Check.MACHINE,
            f"A VM called {project.instance_name} is in {', '.join(taken)}, and vmctl did "
            "not create it",
            f"Adopt it: vmctl adopt {project.instance_name}; or choose: vmctl --name NAME up",
            4,
        )
    what = machine_text(request.machine.name, request.gpu)
    zones = compute.zones_with(request.gpu) if request.gpu else compute.zones()
    wanted = [project.vm.zone] if project.vm.zone else []
    here = [zone for zone in zones if region_of(zone) == request.region]
    offering = [zone for zone in wanted or here if zone in zones]
    having = [
        zone for zone in offering if resources.has_machine_type(compute, zone, request.machine.name)
    ]
    if having:
        return CheckResult.ok(Check.MACHINE, f"{what}: offered in {', '.join(having)}")
    regions = list(dict.fromkeys(map(region_of, zones)))
    elsewhere = here if wanted and here else [r for r in regions if r != request.region]
    return CheckResult.broken(
        Check.MACHINE,
        f"{what} is not offered in {project.vm.zone or request.region}",
        f"It is in {', '.join(elsewhere)}. See: vmctl gpus"
        if elsewhere and not offering
        else "[vm] gpu and machine in vmctl.toml. See: vmctl gpus",
        2,
    )


def _check_last_attempt(
    project: Project, compute: Compute, instance: Instance | None, now: datetime
) -> Iterator[CheckResult]:
    """What Google said when the VM was last asked for, where that is recent and was a no."""
    tried = resources.last_try(compute, instance.name if instance else project.instance_name)
    if tried is None or tried[0].failure is None or now - tried[1] > RECENT:
        return
    operation, at = tried
    yield CheckResult.warning(
        Check.MACHINE,
        f"Google's last answer, in {operation.zone} on {format_time(at)}: "
        f"{tried[0].failure.message}",
        advice(tried[0].failure, compute.project),
    )


def _check_quota(
    project: Project, compute: Compute, request: MachineRequest, instance: Instance | None
) -> Iterator[CheckResult]:
    """Whether the limits would do for the machine; one that runs is counted already."""
    if instance is not None and instance.status.is_billed:
        yield CheckResult.ok(Check.QUOTA, f"{instance.name} already has what it needs")
        return
    gpu, machine, spot, region = request.gpu, request.machine, project.vm.spot, request.region
    disk_gb, address = project.vm.disk_gb, project.vm.external_address
    if instance is not None:
        gpu, machine = instance.gpu, MachineType.parse(instance.machine_type)
        spot, region, disk_gb = instance.spot, instance.region, 0
        address = instance.external
    rows = price_table.rows(gpu, machine.name)
    wanted = demand_for(gpu, machine, rows, spot=spot, new_disk_gb=disk_gb, address=address)
    allowance = QuotaLimits(quotas.quotas_of_project(compute), quotas.quotas_by_region(compute))
    short = shortages(
        wanted.needs, region, allowance.by_region.get(region, {}), allowance.of_project
    )
    certain = [shortage for shortage in short if shortage.certain]
    if certain:
        yield CheckResult.of(Check.QUOTA, shortage_error(certain, allowance, wanted, compute))
    elif short:
        message = f"There is no Spot quota, and Google may count Spot as on demand: {short[0]}"
        yield CheckResult.warning(Check.QUOTA, message, "vmctl up without --spot")
    elif gpu is not None and gpu_metric(gpu.accelerator, spot=spot) is None:
        message = (
            f"The quota of the {gpu.title} is not visible from here; the visible quotas "
            f"suffice in {region}"
        )
        fix = f"Look for 'GPUs per GPU family' in {region}: {quota_page(compute.project)}"
        yield CheckResult.warning(Check.QUOTA, message, fix)
    else:
        known = {**allowance.by_region.get(region, {}), **allowance.of_project}
        counted = [need.metric for need in wanted.needs if need.metric in known]
        message = f"enough in {region} for {wanted.what}: {', '.join(counted)}"
        yield CheckResult.ok(Check.QUOTA, message)


def _check_network(
    project: Project, compute: Compute, request: MachineRequest, instance: Instance | None
) -> list[CheckResult]:
    """Whether the VM's network is there and lets SSH in."""
    network, subnetwork = project.vm.network, project.vm.subnetwork
    try:
        if subnetwork:
            network = network or resources.network_of(compute, request.region, subnetwork)
            if network is None:
                return [
                    _report_missing_network(
                        f"subnetwork {subnetwork} in {request.region}", subnetwork
                    )
                ]
        network = network or "default"
        if not resources.has_network(compute, network):
            return [_report_missing_network(f"network {network}", network)]
    except VmctlError as error:
        return [CheckResult.of(Check.NETWORK, error)]
    name = network.rpartition("/")[2]
    proxied = not project.vm.external_address
    there = CheckResult.ok(Check.NETWORK, subnetwork or name)
    if proxied:
        there = check_nat(request.region, name, _has_nat(compute, request.region, network))
    try:
        tags = {NETWORK_TAG, *(instance.tags if instance else ())}
        door = evaluate_ssh(resources.ingress_rules(compute, network), tags)
    except AccessDenied as error:  # the rules of a shared network may be somebody else's to see
        message = f"The firewall rules of {name} cannot be read: {error.message}"
        return [there, CheckResult.warning(Check.FIREWALL, message, error.hint)]
    except VmctlError as error:
        return [there, CheckResult.of(Check.FIREWALL, error)]
    return [there, check_firewall(door, name, NETWORK_TAG, proxied=proxied)]


def _has_nat(compute: Compute, region: str, network: str) -> bool:
    try:
        return resources.has_nat(compute, region, network)
    except VmctlError:  # what cannot be seen is worth a warning, too
        return False


def _report_missing_network(what: str, name: str) -> CheckResult:
    if name == "default":  # organisations can forbid it
        fix = (
            "gcloud compute networks create default --subnet-mode auto; "
            "or another one: [vm] network in vmctl.toml"
        )
    else:
        fix = "[vm] network and subnetwork in vmctl.toml. See: gcloud compute networks list"
    return CheckResult.broken(Check.NETWORK, f"There is no {what} in the project", fix, 2)
