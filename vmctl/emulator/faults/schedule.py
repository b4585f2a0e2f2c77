"""How long a fault lasts and how often it strikes: for ever and always by default.

Every fault takes `calls` (how often it acts) and `lasts_s` (how long, on the emulator's clock).
Faults of single calls also take `share`: 0.5 strikes every second call, evenly and not at random,
so that a rehearsal can be repeated.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from ..clock import parse_stamp, stamp
from ..errors import Json

_NUMBER = (int, float)
FOR_ALL: dict[str, tuple[Any, bool]] = {"calls": (int, False), "lasts_s": (_NUMBER, False)}
FOR_CALLS: dict[str, tuple[Any, bool]] = {"share": (_NUMBER, False)}


def check(fault: Json) -> None:
    """Raise ValueError for a time or a share out of range."""
    if fault.get("lasts_s", 1) <= 0:
        raise ValueError("lasts_s must be above 0")
    if not 0 < fault.get("share", 1) <= 1:
        raise ValueError("share must be above 0 and at most 1")


def with_end(fault: Json, now: datetime) -> Json:
    """Return the fault with the time of its end, if it has one."""
    if "lasts_s" not in fault:
        return fault
    return {**fault, "until": stamp(now + timedelta(seconds=fault["lasts_s"]))}


def is_over(fault: Json, now: datetime) -> bool:
    """Whether the fault's time has passed."""
    return "until" in fault and parse_stamp(fault["until"]) <= now


def strikes(fault: Json) -> bool:
    """Whether the fault strikes this call, which it counts."""
    share, number = fault.get("share", 1), fault.get("met", 0)
    if share < 1:
        fault["met"] = number + 1
    return int((number + 1) * share) > int(number * share) or share == 1
