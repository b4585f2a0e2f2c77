"""Pushes: what came along, what was left out."""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Via(enum.Enum):
    """What carries the contents of a push."""

    STREAM = "stream"  # one compressed stream; rsync's difference for large files
    RSYNC = "rsync"
    SCP = "scp"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """What a push leaves here because of one rule; a folder counts once, with all it holds."""

    rule: str
    count: int
    examples: tuple[str, ...]


def group_left_out(found: Sequence[tuple[str, str]], examples: int = 3) -> tuple[LeftOut, ...]:
    """(rule, path) pairs by rule, the most frequent rule first."""
    by_rule: dict[str, list[str]] = {}
    for rule, path in found:
        by_rule.setdefault(rule, []).append(path)
    grouped = [
        LeftOut(rule, len(paths), tuple(sorted(paths)[:examples]))
        for rule, paths in by_rule.items()
    ]
    return tuple(sorted(grouped, key=lambda item: (-item.count, item.rule)))


_PROGRESS = r"^\s*([\d,.]+)\s+(\d+)%\s"
_STATS = {
    "files": r"Number of (?:regular )?files transferred: ([\d,.]+)",
    "bytes": r"Total transferred file size: ([\d,.]+)",
    "sent": r"Total bytes sent: ([\d,.]+)",
}


def rsync_progress(line: str) -> int | None:
    """Bytes done, from a line of `--info=progress2`; None for any other line."""
    found = re.match(_PROGRESS, line)
    return _integer(found.group(1)) if found else None


class RsyncStats(NamedTuple):
    """What rsync's `--stats` tell; 0 where this rsync does not tell it."""

    files: int = 0
    bytes: int = 0
    sent: int = 0


def rsync_stats(text: str) -> RsyncStats:
    """Numbers from `rsync --stats`, whatever it uses between thousands."""
    values = {}
    for name, pattern in _STATS.items():
        found = re.search(pattern, text)
        values[name] = _integer(found.group(1)) if found else 0
    return RsyncStats(**values)


def _integer(text: str) -> int:
    return int(re.sub(r"\D", "", text) or "0")
