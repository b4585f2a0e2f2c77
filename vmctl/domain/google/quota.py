"""Quotas: what a machine needs of each, what is left, and what to do about a shortage.

Google counts the same machine against several limits: GPUs over all regions, GPUs of the kind,
processors, disk space and addresses of the region. Names of metrics are Compute Engine's own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from vmctl.domain.google.api_errors import quota_page
from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type

ALL_GPUS = "GPUS_ALL_REGIONS"
FREE_TRIAL = "A free trial cannot raise quotas: upgrade it to a paid account first."

# H200, B200 and on-demand H100 have no metric here: Google keeps them in another service, by
# family; a shortage of those is known from the refusal.
_GPU_METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
}
_SPOT_ONLY_METRICS = {"nvidia-h100-80gb": "PREEMPTIBLE_NVIDIA_H100_GPUS"}
# G2 is left out: which metric counts it is not certain, and a wrong one would refuse
_CPU_METRICS = {
    "n1": "CPUS",
    "a2": "A2_CPUS",
    "n2": "N2_CPUS",
    "n2d": "N2D_CPUS",
    "c2": "C2_CPUS",
    "c2d": "C2D_CPUS",
    "c3": "C3_CPUS",
    "t2d": "T2D_CPUS",
    "t2a": "T2A_CPUS",
}
_EITHER_CPUS = {"e2": ("E2_CPUS", "CPUS")}  # one of them counts it: both must be too small
_DISK_METRICS = {"pd-balanced": "SSD_TOTAL_GB", "hyperdisk-balanced": "HDB_TOTAL_GB"}


@dataclass(frozen=True, slots=True)
class Meter:
    """One limit of a project as Google tells it, with how much of it is in use."""

    metric: str
    limit: float
    usage: float

    @property
    def left(self) -> float:
        """What may still be taken; never below zero."""
        return max(0.0, self.limit - self.usage)


@dataclass(frozen=True, slots=True)
class Need:
    """What a machine takes of one metric; `instead` counts where Spot has no limit of its own.

    Where it is not certain which of two metrics counts, the other one is `either`.
    """

    metric: str
    amount: float
    everywhere: bool = False  # over all regions
    instead: str = ""
    either: str = ""


@dataclass(frozen=True, slots=True)
class Shortage:
    """A limit that the machine would exceed; `region` None means over all regions."""

    metric: str
    region: str | None
    limit: float
    usage: float
    needed: float
    certain: bool = True  # False: Google may count otherwise, so it is worth a try

    @property
    def short_by(self) -> float:
        """How much is missing."""
        return self.needed - max(0.0, self.limit - self.usage)

    @property
    def where(self) -> str:
        """ "in europe-west1" or "over all regions"."""
        return f"in {self.region}" if self.region else "over all regions"

    @property
    def wanted_limit(self) -> float:
        """The limit that would do."""
        return self.usage + self.needed

    def __str__(self) -> str:
        return (
            f"{self.metric} {self.where}: limit {self.limit:g}, {self.usage:g} in use, "
            f"{self.needed:g} needed: short by {self.short_by:g}"
        )


def gpu_metric(accelerator: str, *, spot: bool) -> str | None:
    """The regional metric that counts a GPU; None where Compute Engine has none."""
    if spot and accelerator in _SPOT_ONLY_METRICS:
        return _SPOT_ONLY_METRICS[accelerator]
    metric = _GPU_METRICS.get(accelerator)
    return f"PREEMPTIBLE_{metric}" if metric and spot else metric


def needs(
    gpu: Gpu | None, machine: MachineType, *, spot: bool, new_disk_gb: int = 0, address: bool = True
) -> tuple[Need, ...]:
    """What a machine takes; `new_disk_gb` is 0 for one whose disk is there already.

    `address` is whether it has an external one.
    """
    found = []
    if gpu is not None:
        found.append(Need(ALL_GPUS, gpu.count, everywhere=True))
        metric = gpu_metric(gpu.accelerator, spot=spot)
        if metric:
            instead = _GPU_METRICS.get(gpu.accelerator, "") if spot else ""
            found.append(Need(metric, gpu.count, instead=instead))
    cpus, vcpus = _CPU_METRICS.get(machine.family), _vcpus(machine)
    if vcpus is not None and cpus:
        found.append(Need("CPUS_ALL_REGIONS", vcpus, everywhere=True))
        found.append(Need("PREEMPTIBLE_CPUS", vcpus, instead=cpus) if spot else Need(cpus, vcpus))
    if vcpus is not None and machine.family in _EITHER_CPUS and not spot:
        metric, either = _EITHER_CPUS[machine.family]
        found.append(Need(metric, vcpus, either=either))
    if new_disk_gb:
        found.append(Need(_DISK_METRICS[boot_disk_type(machine.name)], new_disk_gb))
        found.append(Need("INSTANCES", 1))
    if address:
        found.append(Need("IN_USE_ADDRESSES", 1))
    return tuple(found)


def _vcpus(machine: MachineType) -> int | None:
    """Of the type's size, or of the number that ends a predefined type's name."""
    if machine.vcpus is not None:
        return machine.vcpus
    match = re.fullmatch(r"[a-z0-9]+-(?:standard|highmem|highcpu)-(\d+)", machine.name)
    return int(match[1]) if match else None


def shortages(
    wanted: Iterable[Need],
    region: str,
    of_region: Mapping[str, Meter],
    of_project: Mapping[str, Meter],
) -> tuple[Shortage, ...]:
    """The limits that are too small; a metric that Google does not tell is no shortage."""
    found = []
    for need in wanted:
        meters = of_project if need.everywhere else of_region
        meter, certain = meters.get(need.metric), True
        if meter is not None and meter.limit == 0 and need.instead:
            # Spot quota that was never asked for: Google counts Spot as on-demand then
            meter, certain = meters.get(need.instead), False
        if need.either and need.either in meters:
            other = meters[need.either]
            meter = other if meter is None or other.left >= need.amount else meter
        if meter is not None and meter.left < need.amount:
            place = None if need.everywhere else region
            found.append(
                Shortage(meter.metric, place, meter.limit, meter.usage, need.amount, certain)
            )
    return tuple(found)


def regions_with_room(
    wanted: Iterable[Need], by_region: Mapping[str, Mapping[str, Meter]], regions: Iterable[str]
) -> tuple[str, ...]:
    """Those of the regions, in their order, whose own limits would do."""
    local = [need for need in wanted if not need.everywhere]
    return tuple(
        region
        for region in regions
        if region in by_region and not shortages(local, region, by_region[region], {})
    )


def how_to_ask(shortage: Shortage, project: str, machine: str) -> str:
    """The page, what to choose there, and a text to paste as the reason."""
    place = f", {shortage.region}" if shortage.region else " (global)"
    return (
        f"Request more at {quota_page(project)}\n"
        f"  choose: {shortage.metric}{place}; new value: {shortage.wanted_limit:g}\n"
        f'  reason: "One VM ({machine}) to train neural networks, stopped when idle."\n'
        f"{FREE_TRIAL}"
    )
