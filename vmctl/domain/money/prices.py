"""Money: what a machine costs by the hour, and what stays on the bill while it is off."""

from __future__ import annotations

from dataclasses import dataclass

# USD per GB and month, list prices of 2026-07-30
_DISK_GB_MONTH = {"europe-west1": {"pd-balanced": 0.10, "pd-ssd": 0.17, "pd-standard": 0.04}}
_SNAPSHOT_GB_MONTH = {"europe-west1": 0.05}
USED_ADDRESS_USD_H = 0.005  # an external one while its VM runs
_UNUSED_ADDRESS_USD_H = 0.01  # a static external one that no VM uses
HOURS_PER_MONTH = 730
SHORTEST_BILLED_S = 60.0  # of each start


@dataclass(frozen=True, slots=True)
class Price:
    """A list price per hour with its date; `usd_per_hour` is None where it is not known."""

    usd_per_hour: float | None
    dated: str = ""
    spot: bool = False

    def __str__(self) -> str:
        if self.usd_per_hour is None:
            return "price unknown"
        kind = "spot, " if self.spot else ""
        return f"${self.usd_per_hour:.2f}/h ({kind}list price, {self.dated})"


UNKNOWN = Price(None)


def disk_usd_per_month(region: str, disk_type: str, disk_gb: int) -> float | None:
    """What a disk costs whether its VM runs or not; None where the price is not known."""
    rate = _DISK_GB_MONTH.get(region, {}).get(disk_type)
    return None if rate is None else round(rate * disk_gb, 2)


def disk_text(disk_gb: int, usd_per_month: float | None) -> str:
    """ "the 100 GB disk costs $10.00 a month", or that its price is not known."""
    if usd_per_month is None:
        return f"the {disk_gb} GB disk is billed, too (price unknown)"
    return f"the {disk_gb} GB disk costs ${usd_per_month:.2f} a month"


def snapshot_usd_per_month(region: str, stored_bytes: int) -> float | None:
    """What a snapshot of a disk of this region costs: what it stores, not the disk's size."""
    rate = _SNAPSHOT_GB_MONTH.get(region)
    return None if rate is None else round(rate * stored_bytes / 2**30, 2)


def unused_address_usd_per_month() -> float:
    """What a static external address costs while no VM uses it."""
    return round(_UNUSED_ADDRESS_USD_H * HOURS_PER_MONTH, 2)


@dataclass(frozen=True, slots=True)
class HourlyCost:
    """What one VM costs: by the hour while it runs, by the month for its disk in any case.

    In USD by list prices of `dated`; None where a price is not known.
    """

    machine_usd_h: float | None
    disk_usd_month: float | None
    dated: str = ""
    has_address: bool = True  # an external one, which is paid for while the VM runs

    @property
    def on_usd_h(self) -> float | None:
        """What an hour more of running costs, the disk left out: it costs either way."""
        if self.machine_usd_h is None:
            return None
        return self.machine_usd_h + (USED_ADDRESS_USD_H if self.has_address else 0.0)

    @property
    def all_usd_h(self) -> float | None:
        """What an hour of running costs with the disk."""
        if self.on_usd_h is None:
            return None
        return self.on_usd_h + (self.disk_usd_month or 0.0) / HOURS_PER_MONTH


def affordable_s(budget_usd: float, rate: HourlyCost) -> float | None:
    """How long a VM may run for so much, its disk included; None where no price is known."""
    return None if not rate.all_usd_h else budget_usd / rate.all_usd_h * 3600
