"""Words and numbers for people."""

from __future__ import annotations

import datetime as dt

from vmctl.cli.rate import TransferRate
from vmctl.cli.terminal import DIM, RED, Part, Styled
from vmctl.domain.events import Advanced


def format_error(message: str, hint: str) -> list[tuple[Part, ...]]:
    """How an error reads: `error: …` and, below it, what to do."""
    lines: list[tuple[Part, ...]] = [(Styled("error:", RED), f" {message}")]
    for number, line in enumerate(hint.split("\n") if hint else ()):
        lead: Part = " " * len("hint:") if number else Styled("hint:", DIM)
        lines.append((lead, f"  {line}"))
    return lines


def format_seconds(seconds: float) -> str:
    """0.4 s · 12 s · 3 min 5 s · 2 h 10 min"""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_bytes(count: float) -> str:
    """512 B · 1.4 kB · 30 MB: powers of ten, as disks and networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def format_price(usd_per_hour: float | None) -> str:
    return "price unknown" if usd_per_hour is None else f"${usd_per_hour:.3f}/h"


def format_time(stamp: str | None) -> str:
    """An ISO 8601 stamp in the user's own time zone."""
    if not stamp:
        return ""
    return dt.datetime.fromisoformat(stamp).astimezone().strftime("%a %d %b %H:%M")


def format_progress(event: Advanced, rate: TransferRate) -> str:
    if event.done_bytes is None:
        return ""
    if not event.total_bytes:
        return format_bytes(event.done_bytes)
    share = min(100, 100 * event.done_bytes // event.total_bytes)
    text = f"{format_bytes(event.done_bytes)} of {format_bytes(event.total_bytes)} ({share} %)"
    if rate.bytes_per_s:
        text += f", {format_bytes(rate.bytes_per_s)}/s"
    left_s = rate.left_s(event.total_bytes)
    return f"{text}, {format_seconds(left_s)} left" if left_s is not None else text
