"""Money: what a machine costs by the hour and what its disk costs while it is off."""

from __future__ import annotations

from dataclasses import dataclass

# USD per GB and month of pd-balanced, list prices of 2026-07-30
_PD_BALANCED_GB_MONTH = {"europe-west1": 0.10}


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
    rate = _PD_BALANCED_GB_MONTH.get(region) if disk_type == "pd-balanced" else None
    return None if rate is None else round(rate * disk_gb, 2)
