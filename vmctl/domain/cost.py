"""Money: what a machine costs by the hour, and what stays on the bill while it is off."""

from __future__ import annotations

from dataclasses import dataclass

# USD per GB and month, list prices of 2026-07-30
_DISK_GB_MONTH = {
    "europe-west1": {"pd-balanced": 0.10, "pd-ssd": 0.17, "pd-standard": 0.04},
}
_SNAPSHOT_GB_MONTH = {"europe-west1": 0.05}
_UNUSED_ADDRESS_USD_H = 0.01  # a static external one that no VM uses
HOURS_PER_MONTH = 730


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


def snapshot_usd_per_month(region: str, stored_bytes: int) -> float | None:
    """What a snapshot of a disk of this region costs: what it stores, not the disk's size."""
    rate = _SNAPSHOT_GB_MONTH.get(region)
    return None if rate is None else round(rate * stored_bytes / 2**30, 2)


def unused_address_usd_per_month() -> float:
    """What a static external address costs while no VM uses it."""
    return round(_UNUSED_ADDRESS_USD_H * HOURS_PER_MONTH, 2)
