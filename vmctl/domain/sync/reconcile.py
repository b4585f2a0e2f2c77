"""What a pull does with one path: from what was pushed, what is here now, and what is there now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from vmctl.domain.sync.file_names import covers, is_obeyed
from vmctl.domain.sync.tree import TreeEntry


@dataclass(frozen=True, slots=True)
class FileState:
    """What stands at a path: a file by its SHA-256, a link by its target, or nothing."""

    kind: str = ""  # file, link, other, or "" for nothing
    value: str = ""

    @staticmethod
    def of(entry: TreeEntry | None) -> FileState | None:
        """From our own record of the last push; None where that put nothing there."""
        if not entry or entry[0] == "d":
            return None
        return FileState("file" if entry[0] == "f" else "link", str(entry[1]))


NOTHING = FileState()


class Resolution(Enum):
    """What becomes of a path here."""

    SAME = "the same here and there"
    TAKE = "changed on the VM only"
    BOTH = "was changed here as well"
    MADE = "was made on the VM and differs from the file here"
    GONE_HERE = "was deleted here, but changed on the VM"
    GONE_THERE = "was deleted on the VM"
    GONE_THERE_BOTH = "was deleted on the VM, but changed here"
    NEW = "was not pushed from here: name it to pull it"
    UNKNOWN = "differs on the VM, and no push from here is on record"
    OBEYED = "would be executed or read by programs on this computer: name it to pull it"

    @property
    def needs_name(self) -> bool:
        """Whether not even --force takes it, unless the user names it."""
        return self in (Resolution.NEW, Resolution.UNKNOWN, Resolution.OBEYED)

    @property
    def is_conflict(self) -> bool:
        """Whether it is left alone until somebody says which side is right."""
        return self not in (Resolution.SAME, Resolution.TAKE)


def decide(before: FileState | None, here: FileState, there: FileState) -> Resolution:
    """Only a file that is still as it was pushed is replaced without being asked for."""
    if here == there:
        return Resolution.SAME
    if there == NOTHING:
        return Resolution.GONE_THERE if here == before else Resolution.GONE_THERE_BOTH
    if here == before or (before is None and here == NOTHING):
        return Resolution.TAKE
    if here == NOTHING:
        return Resolution.GONE_HERE
    return Resolution.MADE if before is None else Resolution.BOTH


def resolve(
    path: str,
    pushed: FileState | None,
    here: FileState,
    there: FileState,
    named: Sequence[str],
    has_record: bool,
) -> Resolution:
    """As `decide`; but the VM chooses no names here.

    What was not pushed from here comes only where the user named it or its folder (`named`, "" for
    the whole project names nothing), and what is obeyed here only where he named just that.
    """
    resolution = decide(pushed, here, there)
    if resolution is Resolution.SAME:
        return resolution
    tops = [top for top in named if top and covers([top], path)]
    if is_obeyed(path) and not any(top == path or is_obeyed(top) for top in tops):
        return Resolution.OBEYED
    if pushed is None and not tops:
        return Resolution.NEW if here == NOTHING or has_record else Resolution.UNKNOWN
    return resolution
