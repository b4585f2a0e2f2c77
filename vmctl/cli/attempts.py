"""The table that ends a failed search: each zone, Google's answer there, what to do."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest

HEADINGS = ("ZONE", "GOOGLE'S ANSWER", "WHAT TO DO")
NARROWEST = 24


def format_attempts(attempts: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Lines of three columns that fit the terminal; links are never broken. Nothing for none."""
    if not attempts:
        return
    rows = [(_zone(row), _answer(row), str(row["advice"])) for row in attempts]
    first = max(len(HEADINGS[0]), *(len(zone) for zone, _, _ in rows))
    room = max(shutil.get_terminal_size((120, 24)).columns - first - 4, 2 * NARROWEST)
    middle = room * 6 // 10
    for zone, said, do in [HEADINGS, *rows]:
        for cells in zip_longest([zone], _wrap(said, middle), _wrap(do, room - middle)):
            one, two, three = (cell or "" for cell in cells)
            yield f"{one:{first}}  {two:{middle}}  {three}".rstrip()


def _zone(row: Mapping[str, object]) -> str:
    tries = row.get("tries")
    return f"{row['zone']} ({tries} times)" if tries not in (0, 1, None) else str(row["zone"])


def _answer(row: Mapping[str, object]) -> str:
    """Google's words; of a stockout its first sentence, as the others are about what to do."""
    said = str(row["message"])
    return f"{said.partition('. ')[0].rstrip('.')}." if row["kind"] == "stockout" else said


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False) or [""]
