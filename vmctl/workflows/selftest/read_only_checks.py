"""What a self-test can read, or be refused, for nothing: no machine is needed."""

from __future__ import annotations

from vmctl.cloud import price_table
from vmctl.cloud.compute import quotas
from vmctl.cloud.compute.compute import not_found
from vmctl.domain.errors import VmctlError
from vmctl.domain.events import Story
from vmctl.domain.google.api_errors import Kind
from vmctl.domain.google.quota import Meter, needs
from vmctl.domain.machine.gpu import MODELS, Gpu
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.machine_type import MachineType
from vmctl.workflows.base.operations import wait_operation
from vmctl.workflows.selftest.findings import SelftestRun, failure_text

LARGEST_DISK_GB = 65536
SSD = "SSD_TOTAL_GB"
SOMEBODY_ELSES = "debian-cloud"  # Google's own: everybody may read its images, nobody its VMs


def check_read_only(run: SelftestRun) -> Story[None]:
    """Images, zones, the network, quotas, and two refusals."""
    findings, compute = run.findings, run.compute
    refused = compute.refusal("instances", "list", project=SOMEBODY_ELSES, zone=run.plan.zone)
    permission = refused is not None and "compute.instances.list" in refused.message
    forbidden = refused is not None and refused.http_status == 403 and permission
    yield findings.record("forbidden-body", forbidden, failure_text(refused))
    for name in ("pytorch", "ubuntu"):
        image = Image.parse(name)
        found = compute.ask("images", "getFromFamily", project=image.project, family=image.family)
        said = found["name"] if found else "no such family"
        yield findings.record(f"image-{name}", found, f"{image.project}/{image.family}: {said}")
    yield from _check_gpu_zones(run)
    rule = compute.ask("firewalls", "get", firewall="default-allow-ssh")
    if rule is None:
        yield findings.skip("ssh-rule", "this project has no rule default-allow-ssh")
    else:
        opened = any(
            one.get("IPProtocol") == "tcp" and "22" in one.get("ports", ())
            for one in rule.get("allowed", ())
        )
        priority = rule.get("priority")
        yield findings.record(
            "ssh-rule",
            opened and priority == 65534,
            f"default-allow-ssh: tcp:22 {'open' if opened else 'not open'}, priority {priority}",
        )
    yield from _check_quotas(run)


def _check_gpu_zones(run: SelftestRun) -> Story[None]:
    region = run.plan.region
    try:
        offered = quotas.gpu_zones(run.compute)
    except VmctlError as error:
        yield run.findings.skip("gpu-zones", error.message)
        return
    rows = {
        (offer.accelerator, offer.zone)
        for offer in price_table.offers()
        if offer.zone.startswith(f"{region}-")
    }
    missing = sorted(
        f"{accelerator} in {zone}"
        for accelerator, zone in rows
        if zone not in offered.get(accelerator, ())
    )
    said = f"not offered: {', '.join(missing)}" if missing else f"all {len(rows)} of {region}"
    yield run.findings.record("gpu-zones", not missing, said)


def _check_quotas(run: SelftestRun) -> Story[None]:
    compute, region = run.compute, run.plan.region
    everywhere, here = quotas.quotas_of_project(compute), quotas.quotas_of_region(compute, region)
    host = MachineType.parse("n1-standard-4")
    wanted = {
        (metric, need.everywhere)
        for model in MODELS.values()
        if model.attaches_to_n1
        for spot in (False, True)
        for need in needs(Gpu(model.accelerator, 1), host, spot=spot, new_disk_gb=100)
        for metric in (need.metric, need.instead)
        if metric
    }
    missing = sorted(
        metric
        for metric, of_project in wanted
        if metric not in (everywhere if of_project else here)
    )
    said = f"missing: {', '.join(missing)}" if missing else f"all {len(wanted)} are reported"
    yield run.findings.record("quota-metrics", not missing, said)
    yield from _check_disk_quota(run, here.get(SSD))


def _check_disk_quota(run: SelftestRun, meter: Meter | None) -> Story[None]:
    """An empty disk that no quota allows; one that is made all the same goes at once."""
    name, findings = "quota-refusal", run.findings
    if meter is None:
        yield findings.skip(name, f"the region reports no quota {SSD}")
        return
    size_gb = int(meter.left) + 1
    if size_gb > LARGEST_DISK_GB:
        yield findings.skip(name, f"{meter.left:g} GB are left, and no disk is larger than that")
        return
    disk = f"{run.plan.name}-quota"
    asked = run.compute.insert_disk(
        disk, run.plan.zone, "pd-ssd", max(size_gb, 10), run.plan.labels
    )
    done = yield from wait_operation(run.site, asked, "selftest")
    failure = done.failure
    if failure is None:
        deletion = run.compute.change("disks", "delete", disk, zone=run.plan.zone, disk=disk)
        deletion = yield from wait_operation(run.site, deletion, "selftest")
        left = (
            ""
            if deletion.failure is None or not_found(deletion)
            else f"; {failure_text(deletion.failure)}"
        )
        yield findings.record(
            name, False, f"a disk of {size_gb} GB was made, and deleted again{left}"
        )
        return
    quota = failure.quota
    readable = (
        failure.kind is Kind.QUOTA
        and quota is not None
        and (quota.metric, quota.region, quota.limit) == (SSD, run.plan.region, meter.limit)
    )
    yield findings.record(name, readable, failure_text(failure))
