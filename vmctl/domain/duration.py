"""Lengths of time as people write them: 90s, 30m, 2h, 1h30m."""

from __future__ import annotations

import re

from vmctl.domain.errors import InvalidInput

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
LONGEST_S = 30 * 86400


def parse_duration(text: str, *, of: str) -> float:
    """Seconds; raises InvalidInput that names the setting `of` and shows how to write one."""
    word = text.strip().lower().replace(" ", "")
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", word):
        raise InvalidInput(
            f"{of} '{text}' is not a length of time.",
            hint=f"A number with its unit, such as: {of} 30m, or 2h, or 1h30m",
        )
    seconds = sum(
        float(number) * _UNITS_S[unit] for number, unit in re.findall(r"([\d.]+)([smhd])", word)
    )
    if not 0 < seconds <= LONGEST_S:
        raise InvalidInput(
            f"{of} '{text}' must be more than nothing and at most 30 days.",
            hint=f"Such as: {of} 2h",
        )
    return seconds


def duration_text(seconds: float) -> str:
    """45 s · 5 min · 2 h 10 min"""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if rest else f"{hours} h"
