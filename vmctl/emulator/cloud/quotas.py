"""Quotas: a project's limits and usage, and the error for a request beyond them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import Json, OperationError
from ..http import urls
from ..store import Key, Record, Store
from .catalog import DISK_TYPES, Catalog

ALIVE = {"PROVISIONING", "STAGING", "RUNNING", "STOPPING", "SUSPENDING", "REPAIRING"}

# GPUs whose on-demand quota is a regional metric; the others have only the global one here.
GPU_METRICS = {
    "nvidia-tesla-t4": "NVIDIA_T4_GPUS",
    "nvidia-tesla-p4": "NVIDIA_P4_GPUS",
    "nvidia-tesla-p100": "NVIDIA_P100_GPUS",
    "nvidia-tesla-v100": "NVIDIA_V100_GPUS",
    "nvidia-l4": "NVIDIA_L4_GPUS",
    "nvidia-tesla-a100": "NVIDIA_A100_GPUS",
    "nvidia-a100-80gb": "NVIDIA_A100_80GB_GPUS",
}
# The newest GPUs have no metric of their own: one limit per region and family, of another service.
GPU_FAMILIES = {
    "nvidia-h100-80gb": "NVIDIA_H100",
    "nvidia-h100-mega-80gb": "NVIDIA_H100_MEGA",
    "nvidia-h200-141gb": "NVIDIA_H200",
    "nvidia-b200": "NVIDIA_B200",
}
FAMILY_METRIC, FAMILY_LIMIT = "GPUS_PER_GPU_FAMILY", 64.0
_SERIES_CPUS = {"a2": "A2_CPUS"}

REGION_LIMITS: dict[str, float] = {
    "CPUS": 2400,
    "A2_CPUS": 1200,
    "PREEMPTIBLE_CPUS": 2400,
    **dict.fromkeys(GPU_METRICS.values(), 64),
    **{f"PREEMPTIBLE_{metric}": 64 for metric in GPU_METRICS.values()},
    "PREEMPTIBLE_NVIDIA_H100_GPUS": 64,
    "DISKS_TOTAL_GB": 40960,
    "SSD_TOTAL_GB": 40960,
    "LOCAL_SSD_TOTAL_GB": 50000,
    "IN_USE_ADDRESSES": 500,
    "STATIC_ADDRESSES": 100,
    "INSTANCES": 2400,
    "SNAPSHOTS": 5000,
}
GLOBAL_LIMITS: dict[str, float] = {
    "GPUS_ALL_REGIONS": 128,
    "CPUS_ALL_REGIONS": 5000,
    "SNAPSHOTS": 5000,
    "NETWORKS": 50,
    "FIREWALLS": 1000,
    "IMAGES": 2000,
}


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that was set by hand; `region` None means the global one.

    `family` chooses among the families of GPUs that one metric counts.
    """

    metric: str
    region: str | None
    limit: float
    family: str | None = None


class Quotas:
    """Counts usage from the stored instances and disks, so that it always agrees with them."""

    def __init__(self, store: Store, catalog: Catalog) -> None:
        self._store = store
        self._catalog = catalog
        self.limits: Callable[[], list[Limit]] = list  # those in force now; set by the faults
        self._lists: dict[tuple[str, str | None], tuple[object, list[Json]]] = {}
        self._used: dict[str, tuple[tuple[int, ...], Counter[_Use]]] = {}  # by version of the store

    def of_region(self, project: str, region: str) -> list[Json]:
        """Return the `quotas` of a region resource."""
        return self._list(project, region)

    def of_project(self, project: str) -> list[Json]:
        """Return the `quotas` of a project resource."""
        return self._list(project, None)

    def _list(self, project: str, region: str | None) -> list[Json]:
        """Return the quotas of a region or a project; counted again only after a change."""
        version = (self._store.version("instances", "disks", "firewalls", "images"), self.limits())
        known = self._lists.get((project, region))
        if known is None or known[0] != version:
            used = self._region_usage(project, region) if region else self._global_usage(project)
            metrics = REGION_LIMITS if region else GLOBAL_LIMITS
            quotas: list[Json] = [
                {"metric": name, "limit": self._limit(name, region), "usage": float(used[name])}
                for name in metrics
            ]
            known = self._lists[project, region] = (version, quotas)
        return known[1]

    def check(self, instance: Record) -> None:
        """Raise OperationError QUOTA_EXCEEDED if this instance exceeds a quota.

        The instance itself is already in the store, so usage includes it.
        """
        project, region = instance.key.project, urls.region_of(urls.last(instance.key.scope))
        asked = self._sum({_Use.of(instance): 1})
        used = self._global_usage(project)
        for metric in asked.keys() & GLOBAL_LIMITS.keys():
            if used[metric] > self._limit(metric, None):
                raise _exceeded(metric, self._limit(metric, None), None)
        used = self._region_usage(project, region)
        asked += self._disk_usage(
            disk
            for attached in instance.body["disks"]
            if (disk := self._store.get(_disk_key(instance, attached))) is not None
        )
        self._check_region(asked, used, region)
        self._check_family(instance, region)

    def check_disk(self, disk: Record) -> None:
        """Raise OperationError QUOTA_EXCEEDED if this stored disk exceeds a quota."""
        project, region = disk.key.project, urls.region_of(urls.last(disk.key.scope))
        used = self._disk_usage(self._disks_of(project, region))
        self._check_region(self._disk_usage([disk]), used, region)

    def _check_region(self, asked: Counter[str], used: Counter[str], region: str) -> None:
        for metric in sorted(asked.keys() & REGION_LIMITS.keys()):
            if used[metric] > self._limit(metric, region):
                raise _exceeded(metric, self._limit(metric, region), region)

    def _check_family(self, instance: Record, region: str) -> None:
        """Spot GPUs count against metrics of their own."""
        for accelerator in instance.body.get("guestAccelerators", ()):
            gpu = urls.last(accelerator["acceleratorType"])
            if gpu not in GPU_FAMILIES or _is_spot(instance):
                continue
            used = sum(
                other["acceleratorCount"]
                for record in self._store.find("instances", instance.key.project)
                if urls.region_of(urls.last(record.key.scope)) == region
                and record.body["status"] in ALIVE
                and not _is_spot(record)
                for other in record.body.get("guestAccelerators", ())
                if urls.last(other["acceleratorType"]) == gpu
            )
            family = GPU_FAMILIES[gpu]
            limit = self._family_limit(region, family)
            if used > limit:
                raise _exceeded(FAMILY_METRIC, limit, region, family)

    def _family_limit(self, region: str, family: str) -> float:
        here = (limit for limit in reversed(self.limits()) if limit.metric == FAMILY_METRIC)
        for limit in here:
            if limit.region == region and limit.family in (None, family):
                return float(limit.limit)
        return FAMILY_LIMIT

    def gpus_in_use(self, zone: str, gpu: str) -> int:
        """Return the number of a GPU that the instances of all projects hold in a zone."""
        return sum(
            accelerator["acceleratorCount"]
            for record in self._store.find("instances")
            if urls.last(record.key.scope) == zone and record.body["status"] in ALIVE
            for accelerator in record.body.get("guestAccelerators", ())
            if urls.last(accelerator["acceleratorType"]) == gpu
        )

    def _limit(self, metric: str, region: str | None) -> float:
        for limit in reversed(self.limits()):
            if limit.metric == metric and limit.region == region:
                return float(limit.limit)
        return float((GLOBAL_LIMITS if region is None else REGION_LIMITS)[metric])

    def _region_usage(self, project: str, region: str) -> Counter[str]:
        zones = {f"zones/{zone}" for zone in self._catalog.zones_of(region)}
        here = {use: n for use, n in self._uses(project).items() if use.scope in zones}
        return self._sum(here) + self._disk_usage(self._disks_of(project, region))

    def _global_usage(self, project: str) -> Counter[str]:
        usage = self._sum(self._uses(project))
        usage["IMAGES"] = len(self._store.find("images", project))
        usage["FIREWALLS"] = len(self._store.find("firewalls", project))
        usage["NETWORKS"] = 1
        return usage

    def _uses(self, project: str) -> Counter[_Use]:
        """Return how many of a project's instances use the same; counted after changes only."""
        version = self._store.version("instances")
        if self._used.get(project, ((),))[0] != version:
            uses = Counter(map(_Use.of, self._store.find("instances", project)))
            self._used[project] = (version, uses)
        return self._used[project][1]

    def _sum(self, uses: Mapping[_Use, int]) -> Counter[str]:
        usage: Counter[str] = Counter()
        for use, count in uses.items():
            for metric, each in self._usage(use).items():
                usage[metric] += each * count
        return usage

    def _usage(self, use: _Use) -> Counter[str]:
        usage: Counter[str] = Counter({"INSTANCES": 1})
        if not use.alive:
            return usage
        spot, zone = use.spot, urls.last(use.scope)
        region = urls.region_of(zone)
        machine = self._catalog.machine_type(zone, urls.last(use.machine_type))
        if machine is None:  # of an older catalogue
            return usage
        usage["CPUS_ALL_REGIONS"] = machine.cpus
        cpus = _SERIES_CPUS.get(machine.series, "CPUS")
        if spot and self._limit("PREEMPTIBLE_CPUS", region):
            cpus = "PREEMPTIBLE_CPUS"
        usage[cpus] = machine.cpus
        for link, count in use.gpus:
            gpu = urls.last(link)
            usage["GPUS_ALL_REGIONS"] += count
            metric = GPU_METRICS.get(gpu)
            if gpu.startswith("nvidia-h100") and spot:
                metric = "NVIDIA_H100_GPUS"
            # A project without preemptible quota has 0 there and uses its standard quota.
            if metric and spot and self._limit(f"PREEMPTIBLE_{metric}", region):
                metric = f"PREEMPTIBLE_{metric}"
            if metric in REGION_LIMITS:
                usage[metric] += count
        usage["IN_USE_ADDRESSES"] = use.addresses
        return usage

    def _disks_of(self, project: str, region: str) -> Iterable[Record]:
        zones = {f"zones/{zone}" for zone in self._catalog.zones_of(region)}
        return (r for r in self._store.find("disks", project) if r.key.scope in zones)

    def _disk_usage(self, disks: Iterable[Record]) -> Counter[str]:
        usage: Counter[str] = Counter()
        for disk in disks:
            usage[_disk_metric(disk)] += int(disk.body["sizeGb"])
        return usage


class _Use(NamedTuple):
    """All that decides what an instance counts for."""

    scope: str
    machine_type: str
    alive: bool
    spot: bool
    gpus: tuple[tuple[str, int], ...]
    addresses: int

    @classmethod
    def of(cls, record: Record) -> _Use:
        body = record.body
        return cls(
            record.key.scope,
            body["machineType"],
            body["status"] in ALIVE,
            _is_spot(record),
            tuple(
                (gpu["acceleratorType"], gpu["acceleratorCount"])
                for gpu in body.get("guestAccelerators", ())
            ),
            sum(len(nic.get("accessConfigs", ())) for nic in body["networkInterfaces"]),
        )


def _disk_key(instance: Record, attached: Json) -> Key:
    return instance.key._replace(collection="disks", name=urls.last(attached.get("source", "")))


def _disk_metric(disk: Record) -> str:
    kind = DISK_TYPES.get(urls.last(disk.body["type"]))
    return "SSD_TOTAL_GB" if kind is not None and kind.ssd else "DISKS_TOTAL_GB"


def _is_spot(instance: Record) -> bool:
    return bool(instance.body["scheduling"].get("provisioningModel") == "SPOT")


def _exceeded(
    metric: str, limit: float, region: str | None, family: str | None = None
) -> OperationError:
    where = f"in region {region}." if region else "globally."
    name = metric.replace("_", "-") + ("-per-project-region" if region else "-per-project")
    info: Json = {
        "metricName": f"compute.googleapis.com/{metric.lower()}",
        "limitName": name,
        "limit": limit,
        "dimensions": {"region": region} if region else {"global": "global"},
    }
    if family:
        info["dimensions"] = {**info["dimensions"], "gpu_family": family}
    return OperationError(
        "QUOTA_EXCEEDED",
        f"Quota '{metric}' exceeded.  Limit: {limit:.1f} {where}",
        http_code=403,
        http_message="FORBIDDEN",
        details=[{"quotaInfo": info}],
    )
