"""The shipped table of GPUs, zones and list prices, and what it says about a choice."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

from vmctl.domain.machine.gpu import Gpu
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type
from vmctl.domain.machine.zone_order import region_of
from vmctl.domain.money.prices import UNKNOWN, HourlyCost, Price, disk_usd_per_month

HOSTS_DATED = "2026-07-30"
GPU_UNITS_DATED = "Feb-Apr 2026"


@dataclass(frozen=True, slots=True)
class Offer:
    """A zone that has a machine type with a number of GPUs, and its list price per hour."""

    zone: str
    accelerator: str
    machine: str
    gpu_count: int
    vcpus: int
    mem_gb: float
    on_demand_usd_h: float | None
    spot_usd_h: float | None


@dataclass(frozen=True, slots=True)
class ZoneRow:
    """A zone in which a machine may be tried, and what it costs there."""

    zone: str
    on_demand: Price
    spot: Price

    def price(self, *, spot: bool) -> Price:
        """The price that is asked for."""
        return self.spot if spot else self.on_demand


@lru_cache(maxsize=1)
def offers() -> tuple[Offer, ...]:
    """Every row of the table."""
    file = Path(__file__).parents[1] / "data" / "gpu_catalog.csv"
    with file.open("r", encoding="utf-8") as lines:
        return tuple(
            Offer(
                zone=row["zone"],
                accelerator=row["accelerator"],
                machine=row["machine_type"],
                gpu_count=int(row["gpu_count"]),
                vcpus=int(row["vcpus"]),
                mem_gb=float(row["mem_gb"]),
                on_demand_usd_h=_number(row["price_ondemand_usd_h"]),
                spot_usd_h=_number(row["price_spot_usd_h"]),
            )
            for row in csv.DictReader(lines)
        )


def zones() -> tuple[str, ...]:
    """The zones of the table; Google has more."""
    return tuple(sorted({offer.zone for offer in offers()}))


def regions() -> tuple[str, ...]:
    """The regions of the table."""
    return tuple(sorted({region_of(zone) for zone in zones()}))


def zones_with(gpu: Gpu, machine: str) -> tuple[str, ...]:
    """The zones that have this GPU on this machine type.

    A custom host is in no row of the table: then the zones that have the GPU.
    """
    having = [offer for offer in offers() if offer.accelerator == gpu.accelerator]
    exact = {o.zone for o in having if o.gpu_count == gpu.count and o.machine == machine}
    return tuple(sorted(exact or {offer.zone for offer in having}))


def knows_machine(machine: MachineType) -> bool:
    """Whether a machine type is known to exist: by the table, or as one whose sizes are known."""
    return machine.is_custom or size_of(machine).vcpus is not None


def size_of(machine: MachineType) -> MachineType:
    """The machine type with its size, from its name or else from the table."""
    if machine.vcpus is not None:
        return machine
    for offer in offers():
        if offer.machine == machine.name:
            return MachineType(machine.name, offer.vcpus, offer.mem_gb)
    return machine


def rows(gpu: Gpu | None, machine: str) -> dict[str, ZoneRow]:
    """The table's zones for a machine with its GPUs, with their prices, by zone."""
    having = zones_with(gpu, machine) if gpu else zones()
    return {zone: row(zone, gpu, machine) for zone in having}


def row(zone: str, gpu: Gpu | None, machine: str) -> ZoneRow:
    """A zone's prices, also of one that the table does not have."""
    on_demand, spot = (price(zone, machine, gpu, spot=is_spot) for is_spot in (False, True))
    return ZoneRow(zone, on_demand, spot)


def price(zone: str, machine: str, gpu: Gpu | None, *, spot: bool) -> Price:
    """The list price of a machine with its GPUs in a zone, or `UNKNOWN`.

    Prices are per region: a zone that is not in the table costs what its neighbours cost.
    """
    if gpu is None:
        usd = _n1_host_usd_h(region_of(zone), machine, spot)
        return UNKNOWN if usd is None else Price(usd, f"of {HOSTS_DATED}", spot)
    fitting = [
        offer for offer in _offers_of(machine, gpu) if region_of(offer.zone) == region_of(zone)
    ]
    for offer in sorted(fitting, key=lambda offer: offer.zone != zone):
        usd = offer.spot_usd_h if spot else offer.on_demand_usd_h
        if usd is not None:
            return Price(usd, _dated(machine), spot)
    return UNKNOWN


def price_of(instance: Instance) -> Price:
    """What the VM costs while it runs, by the shipped table."""
    return price(instance.zone, instance.machine_type, instance.gpu, spot=instance.spot)


def hourly_cost_of(instance: Instance) -> HourlyCost:
    """What the VM and its disk cost, by the shipped tables."""
    rate = hourly_cost(
        instance.zone, instance.machine_type, instance.gpu, instance.disk_gb, spot=instance.spot
    )
    return replace(rate, has_address=instance.external)


def hourly_cost(
    zone: str, machine_type: str, gpu: Gpu | None, disk_gb: int, *, spot: bool
) -> HourlyCost:
    """What such a VM and its disk would cost in a zone, by the shipped tables."""
    listed = price(zone, machine_type, gpu, spot=spot)
    disk = disk_usd_per_month(region_of(zone), boot_disk_type(machine_type), disk_gb)
    return HourlyCost(listed.usd_per_hour, disk, listed.dated)


@lru_cache(maxsize=64)
def _offers_of(machine: str, gpu: Gpu) -> tuple[Offer, ...]:
    return tuple(
        offer
        for offer in offers()
        if (offer.machine, offer.accelerator, offer.gpu_count)
        == (machine, gpu.accelerator, gpu.count)
    )


@lru_cache(maxsize=64)
def _n1_host_usd_h(region: str, machine: str, spot: bool) -> float | None:
    """An N1 host alone: its rates are in the table, as the differences between hosts.

    Two hosts with the same GPU differ by their processors and memory only.
    """
    size = MachineType.parse(machine)
    if size.is_custom:  # those have prices of their own
        return None
    if size.family != "n1" or size.vcpus is None or size.mem_gb is None:
        return None
    costs: dict[str, dict[str, float]] = {}
    for offer in offers():
        usd = offer.spot_usd_h if spot else offer.on_demand_usd_h
        if region_of(offer.zone) == region and offer.machine.startswith("n1-") and usd is not None:
            costs.setdefault(f"{offer.zone} {offer.accelerator} {offer.gpu_count}", {})[
                offer.machine
            ] = usd
    for hosts in costs.values():
        one, eight, large = (
            hosts.get(f"n1-{name}") for name in ("standard-1", "standard-8", "highmem-8")
        )
        if one is not None and eight is not None and large is not None:
            per_gb = (large - eight) / (8 * (6.5 - 3.75))
            per_vcpu = (eight - one) / 7 - 3.75 * per_gb
            return round(size.vcpus * per_vcpu + size.mem_gb * per_gb, 4)
    return None


def _dated(machine: str) -> str:
    if machine.startswith("n1-"):
        return f"host of {HOSTS_DATED}, GPU of {GPU_UNITS_DATED}"
    if machine.startswith(("a3-ultragpu-", "a4-")):
        return f"of {GPU_UNITS_DATED}"
    return f"of {HOSTS_DATED}"


def _number(text: str) -> float | None:
    return float(text) if text else None
