"""Machine types: their size read from the name, and the host that suits a GPU."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from vmctl.domain.errors import InvalidInput
from vmctl.domain.machine.gpu import MODELS, Gpu, GpuModel
from vmctl.domain.names import find_nearest

CPU_ONLY_DEFAULT = "e2-standard-4"
VCPUS_PER_N1_GPU = 4  # enough for a data loader; a GPU alone on two cores starves

_MEM_GB_PER_VCPU = {
    "n1-standard": 3.75,
    "n1-highmem": 6.5,
    "n1-highcpu": 0.9,
    "g2-standard": 4.0,
    "g4-standard": 3.75,
    "e2-standard": 4.0,
    "e2-highmem": 8.0,
    "e2-highcpu": 1.0,
}
_VCPUS = {  # how many the predefined types of a series have
    "n1-standard": (1, 2, 4, 8, 16, 32, 64, 96),
    "n1-highmem": (2, 4, 8, 16, 32, 64, 96),
    "n1-highcpu": (2, 4, 8, 16, 32, 64, 96),
    "g2-standard": (4, 8, 12, 16, 24, 32, 48, 96),
    "e2-standard": (2, 4, 8, 16, 32),
    "e2-highmem": (2, 4, 8, 16),
    "e2-highcpu": (2, 4, 8, 16, 32),
}
# N1's custom types are called custom-VCPUS-MB, with -ext where more memory than usual is wanted.
_N1_CUSTOM = re.compile(r"(?:n1-)?custom-(\d+)-(\d+)(-ext)?")
_N1_CUSTOM_GB_PER_VCPU = (0.9, 6.5)
_N1_LARGEST = (96, 624)  # vCPUs, GB
_SHARED_CORE = {"f1-micro": (1, 0.6), "g1-small": (1, 1.7)}
# Machines whose local SSDs are part of the price, and whose data a stop discards.
_BUNDLED_LOCAL_SSD = ("a2-ultragpu-", "a3-", "a4-", "a4x-")
_GVNIC_FAMILIES = {"g2", "g4", "a2", "a3", "a4", "a4x"}


@dataclass(frozen=True, slots=True)
class MachineType:
    """A machine type's name with its size, where the name tells it."""

    name: str
    vcpus: int | None = None
    mem_gb: float | None = None

    @property
    def family(self) -> str:
        """The part before the first hyphen: n1, g2, a2 …; N1's custom types go without it."""
        first = self.name.partition("-")[0]
        return "n1" if first == "custom" else first

    @property
    def is_custom(self) -> bool:
        """Whether its size was chosen freely: Google lists no such type, and no price for it."""
        return re.search(r"(^|-)custom-", self.name) is not None

    @property
    def has_local_ssd(self) -> bool:
        """Whether local SSDs come with it: stopping it loses what is on them."""
        return self.name.startswith(_BUNDLED_LOCAL_SSD)

    def choose_maintenance(self, *, spot: bool) -> str:
        """What happens to a VM while its host is maintained, in Google's word.

        A VM with a GPU cannot migrate, and E2 does nothing else unless it is Spot.
        """
        return "MIGRATE" if self.family == "e2" and not spot else "TERMINATE"

    @property
    def wants_gvnic(self) -> bool:
        """Whether it needs Google's own network card, or is faster with it."""
        return self.family in _GVNIC_FAMILIES

    @staticmethod
    def parse(text: str) -> MachineType:
        """A machine type by its name; raises InvalidInput when no machine is called like that."""
        name = text.strip().lower()
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)+", name):
            raise InvalidInput(
                f"'{text}' is not a machine type's name.",
                hint="Names look like n1-standard-8, g2-standard-12 or a2-highgpu-1g.",
            )
        if name in _SHARED_CORE:
            vcpus, mem_gb = _SHARED_CORE[name]
            return MachineType(name, vcpus, mem_gb)
        if match := _N1_CUSTOM.fullmatch(name):
            return MachineType(name, int(match[1]), int(match[2]) / 1024)
        if (match := re.fullmatch(r"(.+)-(\d+)", name)) and match[1] in _MEM_GB_PER_VCPU:
            vcpus = int(match[2])
            return MachineType(name, vcpus, vcpus * _MEM_GB_PER_VCPU[match[1]])
        return MachineType(name)


def choose_machine(gpu: Gpu | None, wanted: str | None) -> MachineType:
    """The machine for a GPU: the one asked for, when it can carry it, else the smallest sensible.

    Raises InvalidInput that says which machines can.
    """
    if gpu is None or gpu.model is None:
        return _without_gpu(wanted)
    if wanted is None:
        return MachineType.parse(_smallest(gpu.model, gpu.count))
    machine = _parse_wanted(wanted)
    if gpu.model.attaches_to_n1:
        _check_n1(gpu, gpu.model, machine)
    else:
        _check_built_in(gpu, gpu.model, machine)
    return machine


def _parse_wanted(text: str) -> MachineType:
    """A machine type that a user names; raises InvalidInput for a size that its series lacks."""
    machine = MachineType.parse(text)
    series, _, vcpus = machine.name.rpartition("-")
    if series in _VCPUS and int(vcpus) not in _VCPUS[series]:
        sizes = ", ".join(map(str, _VCPUS[series]))
        raise InvalidInput(
            f"There is no machine type {machine.name}.",
            hint=f"Machine types {series}-N exist with N = {sizes}.",
        )
    if machine.family == "n1" and machine.vcpus is None:
        raise unknown_machine(machine.name, ())
    if match := _N1_CUSTOM.fullmatch(machine.name):
        _check_n1_custom(machine.name, int(match[1]), int(match[2]), is_extended=bool(match[3]))
    return machine


def _check_n1_custom(name: str, vcpus: int, mem_mb: int, *, is_extended: bool) -> None:
    least, most = (round(vcpus * gb, 2) for gb in _N1_CUSTOM_GB_PER_VCPU)
    if is_extended:
        most = _N1_LARGEST[1]
    if not (vcpus == 1 or (vcpus % 2 == 0 and 0 < vcpus <= _N1_LARGEST[0])):
        why = f"an N1 machine has 1 vCPU, or an even number up to {_N1_LARGEST[0]}"
    elif mem_mb % 256:
        why = "its memory in MB must be a multiple of 256"
    elif not least <= mem_mb / 1024 <= most:
        more = "" if is_extended else "; more with -ext at the end of the name"
        why = f"with {vcpus} vCPUs it can have {least:g} to {most:g} GB{more}"
    else:
        return
    raise InvalidInput(
        f"There is no machine type {name}: {why}.",
        hint="Names are custom-VCPUS-MB, such as custom-4-16384.",
    )


def unknown_machine(name: str, known: Iterable[str]) -> InvalidInput:
    """The refusal of a name that no zone has; `known` are names that exist."""
    predefined = [f"{series}-{size}" for series, sizes in _VCPUS.items() for size in sizes]
    close = find_nearest(name, [*predefined, *known])
    return InvalidInput(
        f"There is no machine type {name} on Compute Engine.",
        hint=f"Did you mean {close}?" if close else "See: gcloud compute machine-types list",
    )


def built_in_gpu(machine_name: str) -> Gpu | None:
    """The GPUs that a machine type brings along, such as 2 x L4 for g2-standard-24."""
    for model in MODELS.values():
        for count, names in model.machines.items():
            if machine_name in names:
                return Gpu(model.accelerator, count)
    return None


def _without_gpu(wanted: str | None) -> MachineType:
    machine = _parse_wanted(wanted or CPU_ONLY_DEFAULT)
    inside = built_in_gpu(machine.name)
    if inside:
        raise InvalidInput(
            f"{machine.name} comes with {inside.title}, and you asked for no GPU.",
            hint=f"This machine type includes GPUs. Ask for them: --gpu {inside} --machine "
            f"{machine.name}",
        )
    return machine


def _smallest(model: GpuModel, count: int) -> str:
    if model.attaches_to_n1:
        return f"n1-standard-{VCPUS_PER_N1_GPU * count}"
    return model.machines[count][0]


def _check_n1(gpu: Gpu, model: GpuModel, machine: MachineType) -> None:
    smallest = _smallest(model, gpu.count)
    if machine.family != "n1":
        inside = built_in_gpu(machine.name)
        other = f"{machine.name} comes with {inside.title}: --gpu {inside}. " if inside else ""
        raise InvalidInput(
            f"A {model.title} needs an N1 machine type; {machine.name} is not one.",
            hint=f"{other}For {gpu.title}: --machine {smallest}, or omit --machine.",
        )
    limit = model.n1_limits[gpu.count]
    too_many = machine.vcpus is not None and machine.vcpus > limit.vcpus
    too_much = machine.mem_gb is not None and machine.mem_gb > limit.mem_gb
    if too_many or too_much:
        larger = [count for count in model.counts if count > gpu.count]
        more = f", or more GPUs: --gpu {model.name}:{larger[0]}" if larger else ""
        raise InvalidInput(
            f"A host with {gpu.title} can have at most {limit.vcpus} vCPUs and "
            f"{limit.mem_gb:g} GB, and {machine.name} has {machine.vcpus} and "
            f"{machine.mem_gb:g} GB.",
            hint=f"Choose a smaller host, such as --machine {smallest}{more}.",
        )


def _check_built_in(gpu: Gpu, model: GpuModel, machine: MachineType) -> None:
    fitting = model.machines[gpu.count]
    if machine.name in fitting:
        return
    inside = built_in_gpu(machine.name)
    if inside and inside.accelerator == gpu.accelerator:
        raise InvalidInput(
            f"{machine.name} has {inside.count} x {model.title}, not {gpu.count}.",
            hint=f"Use --gpu {inside} or --machine {fitting[0]}.",
        )
    raise InvalidInput(
        f"{gpu.title} comes only with {', '.join(fitting)}, not with {machine.name}.",
        hint=f"Use --machine {fitting[0]}, or omit --machine.",
    )


def boot_disk_type(machine_type: str) -> str:
    """The boot disk that a machine type takes: the newest ones know Hyperdisk only."""
    hyperdisk = machine_type.startswith(("a3-ultragpu-", "a4-", "a4x-", "g4-"))
    return "hyperdisk-balanced" if hyperdisk else "pd-balanced"


def machine_text(name: str, gpu: Gpu | None) -> str:
    """ "n1-standard-4 + T4"."""
    return f"{name} + {gpu.title}" if gpu else name
