"""What a Google project has in store for vmctl: its network, its images, its settings."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.compute.operations import operation_of
from vmctl.cloud.compute.responses import aggregated, last_part, time_of
from vmctl.cloud.errors import api_error_of
from vmctl.domain.errors import NotFound, VmctlError
from vmctl.domain.google.api_errors import ApiError
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.image import Image
from vmctl.domain.network.firewall import ANYWHERE, Rule
from vmctl.domain.readiness.checks import PublicImage


def failure_behind(error: VmctlError) -> ApiError | None:
    """Google's refusal, classified, where an error of vmctl's was one."""
    from googleapiclient.errors import HttpError

    cause = error.__cause__
    return api_error_of(cause) if isinstance(cause, HttpError) else None


def project_metadata(compute: Compute) -> dict[str, str]:
    """The metadata that all VMs of the project share; the cheapest proof that the API answers."""
    (reply,) = compute.pages("projects", "get", fields="commonInstanceMetadata")
    items = reply.get("commonInstanceMetadata", {}).get("items", [])
    return {item["key"]: item.get("value", "") for item in items}


def has_network(compute: Compute, network: str) -> bool:
    """Whether a network is there, by name or by the path of a shared one."""
    project, name = _split(network)
    try:
        next(compute.pages("networks", "get", project=project, network=name, fields="name"))
    except NotFound:
        return False
    return True


def network_of(compute: Compute, region: str, subnetwork: str) -> str | None:
    """The network, by its path, in which a subnetwork lies; None when there is none such."""
    project, name = _split(subnetwork)
    where = {"region": region, "subnetwork": name, "fields": "network"}
    try:
        (reply,) = compute.pages("subnetworks", "get", project=project, **where)
    except NotFound:
        return None
    return str(reply.get("network", "")).partition("/compute/v1/")[2] or None


def ingress_rules(compute: Compute, network: str) -> list[Rule]:
    """The firewall rules of a network for what comes in, by name or by a shared one's path."""
    project, name = _split(network)
    return [
        _rule(item)
        for page in compute.pages("firewalls", project=project)
        for item in page.get("items", [])
        if last_part(item.get("network", "")) == name
        and item.get("direction", "INGRESS") == "INGRESS"
    ]


def has_nat(compute: Compute, region: str, network: str) -> bool:
    """Whether Cloud NAT is set up for a network in a region."""
    project, name = _split(network)
    return any(
        router.get("nats")
        for page in compute.pages("routers", project=project, region=region)
        for router in page.get("items", [])
        if last_part(router.get("network", "")) == name
    )


def newest_image(compute: Compute, image: Image) -> PublicImage | None:
    """The image that a family stands for today; None when there is no such family."""
    try:
        (reply,) = compute.pages(
            "images", "getFromFamily", project=image.project, family=image.family
        )
    except NotFound:
        return None
    state = str(reply.get("deprecated", {}).get("state", ""))
    return PublicImage(
        name=reply["name"],
        disk_gb=int(reply.get("diskSizeGb", 0)),
        state="" if state == "ACTIVE" else state,
    )


def has_machine_type(compute: Compute, zone: str, name: str) -> bool:
    """Whether a zone offers a machine type to this project."""
    try:
        next(compute.pages("machineTypes", "get", zone=zone, machineType=name, fields="name"))
    except NotFound:
        return False
    return True


def zones_with_machine_type(compute: Compute, name: str) -> list[str]:
    """The zones that offer a machine type to this project."""
    return sorted(
        last_part(item["zone"])
        for page in compute.pages("machineTypes", "aggregatedList", filter=f"name = {name}")
        for item in aggregated(page, "machineTypes")
        if item.get("name") == name
    )


def zones_of_name(compute: Compute, name: str) -> list[str]:
    """The zones in which VMs of this name are, of any owner."""
    return sorted(
        last_part(item["zone"])
        for page in compute.pages("instances", "aggregatedList", filter=f"name = {name}")
        for item in aggregated(page, "instances")
        if item.get("name") == name
    )


def last_try(compute: Compute, name: str) -> tuple[Operation, datetime] | None:
    """The last creation or start of a VM of this name that Google has on record, and when."""
    wanted = "(operationType = insert) OR (operationType = start)"
    tries = [
        (operation_of(item), at)
        for page in compute.pages("globalOperations", "aggregatedList", filter=wanted)
        for item in aggregated(page, "operations")
        if item.get("operationType") in ("insert", "start")
        and item.get("targetLink", "").endswith(f"/instances/{name}")
        and (at := time_of(item.get("insertTime")))
    ]
    return max(tries, key=lambda one: one[1], default=None)


def vm_names(compute: Compute) -> list[str]:
    """The names of all VMs in the project, of any owner."""
    fields = "items/*/instances/name,nextPageToken"
    return sorted(
        {
            item["name"]
            for page in compute.pages("instances", "aggregatedList", fields=fields)
            for item in aggregated(page, "instances")
        }
    )


def _split(reference: str) -> tuple[str, str]:
    """The project (empty: this one) and the name in "default" or "projects/P/global/networks/N"."""
    words = reference.split("/")
    project = words[words.index("projects") + 1] if "projects" in words[:-1] else ""
    return project, words[-1]


def _rule(item: Mapping[str, Any]) -> Rule:
    what = item.get("allowed") or item.get("denied") or []
    accounts = bool(item.get("targetServiceAccounts"))  # vmctl's VMs have none
    return Rule(
        name=item["name"],
        priority=int(item.get("priority", 1000)),
        allows="allowed" in item,
        protocols=tuple(
            (str(one.get("IPProtocol", "")), tuple(one["ports"]) if one.get("ports") else None)
            for one in what
        ),
        # a rule for certain VMs as sources lets in nobody from outside
        sources=tuple(item.get("sourceRanges", ()))
        or (() if item.get("sourceTags") or item.get("sourceServiceAccounts") else (ANYWHERE,)),
        tags=tuple(item.get("targetTags", ())),
        disabled=bool(item.get("disabled")) or accounts,
    )
