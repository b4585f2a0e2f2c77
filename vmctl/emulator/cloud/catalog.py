"""What the cloud offers: zones, machine types, GPUs and the combinations that fit, images, disks.

GPUs, their zones and their machine types are read from vmctl/data/gpu_catalog.csv; CPU-only
machine types are Google's public series. Nothing in here changes while the emulator runs.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from ..http.urls import region_of, stable_id

# The regions of the price table, with all their zones (a zone may offer no GPU at all).
_ZONES = {
    "europe-central2": "abc",
    "europe-north1": "abc",
    "europe-west1": "bcd",
    "europe-west2": "abc",
    "europe-west3": "abc",
    "europe-west4": "abc",
    "europe-west6": "abc",
    "europe-west9": "abc",
    "us-central1": "abcf",
}
_STANDARD_CPUS = {"n1": (1, 2, 4, 8, 16, 32, 64, 96), "e2": (2, 4, 8, 16, 32)}
_N1_GB = {"standard": 3.75, "highmem": 6.5, "highcpu": 0.9}
_E2_GB = {"standard": 4.0, "highmem": 8.0, "highcpu": 1.0}
_SHARED_CORE = (("e2-micro", 1.0), ("e2-small", 2.0), ("e2-medium", 4.0), ("f1-micro", 0.6))
# Custom machine types: GB for a vCPU from and to (with -ext more), most vCPUs, most GB
_CUSTOM_GB = {"n1": (0.9, 6.5, 96, 624), "e2": (0.5, 8.0, 32, 128)}
_CUSTOM = re.compile(r"(?:(n1|e2)-)?custom-(\d{1,3})-(\d{1,7})(-ext)?")

# Local SSDs of 375 GB that are part of a machine, for each of its GPUs
_BUNDLED_SSDS = {
    "a2-ultragpu": 1,
    "a3-highgpu": 2,
    "a3-megagpu": 2,
    "a3-ultragpu": 4,
    "a4-highgpu": 4,
}

GPU_TITLES = {
    "nvidia-tesla-t4": "NVIDIA T4",
    "nvidia-tesla-p4": "NVIDIA Tesla P4",
    "nvidia-tesla-p100": "NVIDIA Tesla P100",
    "nvidia-tesla-v100": "NVIDIA V100",
    "nvidia-l4": "NVIDIA L4",
    "nvidia-tesla-a100": "NVIDIA A100 40GB",
    "nvidia-a100-80gb": "NVIDIA A100 80GB",
    "nvidia-h100-80gb": "NVIDIA H100 80GB",
    "nvidia-h100-mega-80gb": "NVIDIA H100 80GB MEGA",
    "nvidia-h200-141gb": "NVIDIA H200 141GB",
    "nvidia-b200": "NVIDIA B200 180GB",
}


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type; `gpu` and `gpu_count` are set where the GPUs are part of it."""

    name: str
    cpus: int
    memory_mb: int
    shared_core: bool = False
    gpu: str | None = None
    gpu_count: int = 0

    @property
    def series(self) -> str:
        """The series, `n1` of `n1-standard-8` and of `custom-4-16384`."""
        first = self.name.partition("-")[0]
        return "n1" if first == "custom" else first

    @property
    def is_custom(self) -> bool:
        """Whether its size is in its name."""
        return _CUSTOM.fullmatch(self.name) is not None

    @property
    def local_ssds(self) -> int:
        """How many local SSDs are part of the machine."""
        return _BUNDLED_SSDS.get(self.name.rpartition("-")[0], 0) * self.gpu_count


@dataclass(frozen=True, slots=True)
class DiskType:
    """A disk type with its default and allowed sizes in GB."""

    name: str
    title: str
    default_gb: int
    sizes_gb: str
    ssd: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image; `machine` names what its machines are made from: pytorch, slurm or base.

    A project's own one has content, under the id of its resource.
    """

    project: str
    name: str
    family: str
    title: str
    size_gb: int
    created: str
    machine: str
    content: str | None = None

    @property
    def path(self) -> str:
        """Its path in the API."""
        return f"projects/{self.project}/global/images/{self.name}"

    @property
    def id(self) -> str:
        """Its numeric id."""
        return self.content or stable_id("image", self.project, self.name)


DISK_TYPES = {
    t.name: t
    for t in (
        DiskType("pd-standard", "Standard Persistent Disk", 500, "10GB-65536GB", False),
        DiskType("pd-balanced", "Balanced Persistent Disk", 100, "10GB-65536GB", True),
        DiskType("pd-ssd", "SSD Persistent Disk", 100, "10GB-65536GB", True),
        DiskType("hyperdisk-balanced", "Hyperdisk Balanced", 100, "4GB-65536GB", False),
        DiskType("local-ssd", "Local SSD", 375, "375GB-375GB", False),
    )
}


def _image(
    project: str, family: str, version: str, title: str, size_gb: int, machine: str = "base"
) -> Image:
    created = f"{version[1:5]}-{version[5:7]}-{version[7:9]}T08:00:00.000-07:00"
    return Image(project, f"{family}-{version}", family, title, size_gb, created, machine)


IMAGES = (
    *(
        _image(
            "deeplearning-platform-release",
            family,
            "v20260416",
            "Google, Deep Learning VM for PyTorch with CUDA, Python 3",
            50,
            "pytorch",
        )
        for family in (
            "pytorch-2-9-cu129-ubuntu-2404-nvidia-580",
            "pytorch-2-9-cu129-ubuntu-2204-nvidia-580",
            "pytorch-2-7-cu128-ubuntu-2204-nvidia-570",
        )
    ),
    *(
        _image(
            "deeplearning-platform-release",
            family,
            "v20260416",
            "Google, Deep Learning VM Base with CUDA",
            50,
        )
        for family in (
            "common-cu129-ubuntu-2204-nvidia-580",
            "common-cu128-ubuntu-2204-nvidia-570",
        )
    ),
    _image(
        "ubuntu-os-accelerator-images",
        "ubuntu-accelerator-2404-amd64-with-nvidia-580",
        "v20260402",
        "Canonical, Ubuntu, 24.04 LTS with NVIDIA driver 580",
        15,
    ),
    _image(
        "ubuntu-os-cloud", "ubuntu-2404-lts-amd64", "v20260410", "Canonical, Ubuntu, 24.04 LTS", 10
    ),
    _image("ubuntu-os-cloud", "ubuntu-2204-lts", "v20260410", "Canonical, Ubuntu, 22.04 LTS", 10),
    _image("debian-cloud", "debian-12", "v20260408", "Debian, Debian GNU/Linux, 12", 10),
    # Google has none of these: for the rehearsal of a cluster
    _image("vmctl-emulator", "slurm", "v20261201", "Slurm, two nodes, PyTorch", 50, "slurm"),
)


@dataclass(frozen=True, slots=True)
class CatalogRow:
    """One row of the table: a machine type with a number of one GPU, in one zone."""

    zone: str
    gpu: str
    machine_type: str
    count: int
    cpus: int
    memory_mb: int


class Catalog:
    """The table's rows, indexed by zone."""

    def __init__(self, rows: Iterable[CatalogRow]) -> None:
        self.rows = tuple(rows)
        self.zones = sorted(f"{region}-{z}" for region, zones in _ZONES.items() for z in zones)
        self.regions = sorted(_ZONES)
        self.machine_types = cache(self._machine_types)

    @classmethod
    @cache
    def load(cls) -> Catalog:
        """Read the table that comes with the package, once."""
        file = Path(__file__).parents[2] / "data" / "gpu_catalog.csv"
        with file.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(line for line in stream if not line.startswith("#"))
            return cls(
                CatalogRow(
                    row["zone"],
                    row["accelerator"],
                    row["machine_type"],
                    int(row["gpu_count"]),
                    int(row["vcpus"]),
                    int(float(row["mem_gb"]) * 1024),
                )
                for row in rows
            )

    def zones_of(self, region: str) -> list[str]:
        """Return a region's zones."""
        return [zone for zone in self.zones if region_of(zone) == region]

    def _machine_types(self, zone: str) -> dict[str, MachineType]:
        """Return the machine types of a zone by name."""
        types = dict(_CPU_TYPES)
        for row in self._rows_by_zone.get(zone, ()):
            if not row.machine_type.startswith("n1-"):
                types[row.machine_type] = MachineType(
                    row.machine_type,
                    row.cpus,
                    row.memory_mb,
                    gpu=row.gpu,
                    gpu_count=row.count,
                )
        return dict(sorted(types.items()))

    def machine_type(self, zone: str, name: str) -> MachineType | None:
        """Return a zone's machine type by name, a custom one too."""
        return self.machine_types(zone).get(name) or _custom_type(name)

    def gpus(self, zone: str) -> dict[str, list[int]]:
        """Return the GPUs of a zone, each with the counts that one machine can have."""
        found: dict[str, set[int]] = {}
        for row in self._rows_by_zone.get(zone, ()):
            found.setdefault(row.gpu, set()).add(row.count)
        return {gpu: sorted(counts) for gpu, counts in sorted(found.items())}

    def zones_with(self, gpu: str) -> list[str]:
        """Return the zones that offer a GPU."""
        return [zone for zone in self.zones if gpu in self.gpus(zone)]

    def max_host(self, zone: str, gpu: str, count: int) -> tuple[int, int]:
        """Return the most vCPUs and MB of memory that a host with `count` of the GPU may have."""
        hosts = [r for r in self._rows_by_zone.get(zone, ()) if (r.gpu, r.count) == (gpu, count)]
        return max((r.cpus for r in hosts), default=0), max((r.memory_mb for r in hosts), default=0)

    @cached_property
    def _rows_by_zone(self) -> dict[str, list[CatalogRow]]:
        by_zone: dict[str, list[CatalogRow]] = {}
        for row in self.rows:
            by_zone.setdefault(row.zone, []).append(row)
        return by_zone


def find_image(project: str, name: str) -> Image | None:
    """Return the image of a project by name, or by `family/FAMILY`."""
    family = name.removeprefix("family/") if name.startswith("family/") else None
    for image in IMAGES:
        if image.project == project and (image.family == family or image.name == name):
            return image
    return None


def _cpu_types() -> Iterable[MachineType]:
    for kind, gb in _N1_GB.items():
        for cpus in _STANDARD_CPUS["n1"]:
            if cpus > 1 or kind == "standard":
                yield MachineType(f"n1-{kind}-{cpus}", cpus, int(cpus * gb * 1024))
    for kind, gb in _E2_GB.items():
        for cpus in _STANDARD_CPUS["e2"]:
            if cpus <= 16 or kind != "highmem":
                yield MachineType(f"e2-{kind}-{cpus}", cpus, int(cpus * gb * 1024))
    for name, gb in _SHARED_CORE:
        cpus = 1 if name.startswith("f1") else 2
        yield MachineType(name, cpus, int(gb * 1024), shared_core=True)


def _custom_type(name: str) -> MachineType | None:
    """Return the machine type `custom-VCPUS-MB`, N1's, or `e2-custom-VCPUS-MB`, if there can be."""
    match = _CUSTOM.fullmatch(name)
    if match is None:
        return None
    series, cpus, memory_mb, more = match[1] or "n1", int(match[2]), int(match[3]), match[4]
    least_gb, most_gb, most_cpus, largest_gb = _CUSTOM_GB[series]
    gb = memory_mb / 1024
    is_even = cpus % 2 == 0 or (cpus == 1 and series == "n1")
    fits = round(cpus * least_gb, 2) <= gb <= (largest_gb if more else round(cpus * most_gb, 2))
    if is_even and 0 < cpus <= most_cpus and memory_mb % 256 == 0 and fits and gb <= largest_gb:
        return MachineType(name, cpus, memory_mb)
    return None


_CPU_TYPES = {machine.name: machine for machine in _cpu_types()}
