"""What a pull does with one path: from what was pushed, what is here now, and what is there now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any


@dataclass(frozen=True, slots=True)
class Content:
    """What stands at a path: a file by its SHA-256, a link by its target, or nothing."""

    kind: str = ""  # file, link, other, or "" for nothing
    value: str = ""

    @staticmethod
    def parse(told: Mapping[str, Any] | None) -> Content | None:
        """From the VM's record of a push; None where no push put anything."""
        if told is None:
            return None
        kind = str(told["kind"])
        return Content(kind, str(told["link"] if kind == "link" else told["sha256"]))


NOTHING = Content()


class Verdict(Enum):
    """What becomes of a path here."""

    SAME = "the same here and there"
    TAKE = "changed on the VM only"
    BOTH = "was changed here, too"
    MADE = "was made on the VM and is another file here"
    GONE_HERE = "is gone here, but was changed on the VM"
    GONE_THERE = "was deleted on the VM"
    GONE_THERE_BOTH = "was deleted on the VM, but changed here"

    @property
    def is_conflict(self) -> bool:
        """Whether it is left alone until somebody says which side is right."""
        return self not in (Verdict.SAME, Verdict.TAKE)


def decide(before: Content | None, here: Content, there: Content) -> Verdict:
    """Only a file that is still as it was pushed is replaced without being asked for."""
    if here == there:
        return Verdict.SAME
    if there == NOTHING:
        return Verdict.GONE_THERE if here == before else Verdict.GONE_THERE_BOTH
    if here == before or (before is None and here == NOTHING):
        return Verdict.TAKE
    if here == NOTHING:
        return Verdict.GONE_HERE
    return Verdict.MADE if before is None else Verdict.BOTH
