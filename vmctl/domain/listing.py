"""What the VM says a fetch would bring: checked here, because the VM is not trusted."""

from __future__ import annotations

import fnmatch
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vmctl.domain.errors import NotProvenWhole
from vmctl.domain.probe import one_line

PART_SUFFIX = ".vmctl-part"  # of the file in which bytes gather until they are proven whole


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """One thing in a listing from the VM, its path checked; times in ns, sizes in bytes."""

    kind: str  # file, dir or link
    relative: str  # "" for a file fetched by itself
    size: int
    mtime_ns: int
    mode: int
    link: str = ""


@dataclass(frozen=True, slots=True)
class RemoteItem:
    """One path that a fetch asked for: its name here and what it holds.

    `inside` is its path below the project's folder; `older` says that the run that goes on
    has not written it yet.
    """

    wanted: str
    base: str
    path: str
    kind: str
    entries: tuple[RemoteEntry, ...]
    inside: str = ""
    older: bool = False

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.entries if entry.kind == "file")


@dataclass(frozen=True, slots=True)
class Listing:
    """All that a fetch would bring, what was not found, and what is neither file nor folder."""

    items: tuple[RemoteItem, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    run: str = ""
    going: bool = False

    @staticmethod
    def parse(answer: Mapping[str, Any]) -> Listing:
        """From the helper's answer; raises NotProvenWhole where a name leads outside."""
        try:
            return Listing(
                items=tuple(parse_item(found) for found in answer["found"]),
                missing=tuple(str(path) for path in answer["missing"]),
                left_out=tuple(str(path) for path in answer.get("left_out", ())),
                run=str(answer.get("run") or ""),
                going=bool(answer.get("going")),
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise NotProvenWhole("The VM's listing is not what the helper there writes.") from error


def parse_item(answer: Mapping[str, Any]) -> RemoteItem:
    """A listing from the VM, which is not trusted: a name that leads outside is refused."""
    base = safe_name(str(answer["base"]))
    entries = []
    kind = str(answer["kind"])
    for given in answer["files"]:
        what, relative, size, mtime_ns, mode, link = given
        if what not in ("file", "dir", "link") or int(size) < 0:
            raise _distrust(str(relative))
        if kind == "dir" or relative:
            relative = safe_relative(str(relative))
        entries.append(
            RemoteEntry(
                kind=what,
                relative=relative,
                size=int(size),
                mtime_ns=sane_time(int(mtime_ns)),
                mode=int(mode) & 0o777,
                link=str(link),
            )
        )
    if kind != "dir" and (len(entries) != 1 or entries[0].relative or entries[0].kind != kind):
        raise _distrust(base)
    _refuse_through_links(entries)
    return RemoteItem(
        wanted=str(answer["wanted"]),
        base=base,
        path=str(answer["path"]),
        kind=kind,
        entries=tuple(entries),
        inside=safe_relative(str(answer.get("inside") or base)),
        older=bool(answer.get("older")),
    )


def safe_name(name: str) -> str:
    """A name that stays in its folder, and is not that of an unfinished fetch."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or name.endswith(PART_SUFFIX):
        raise _distrust(name)
    return name


def safe_relative(path: str) -> str:
    """A relative path that stays below its top."""
    for part in path.split("/"):
        if part in ("", ".", "..") or "\0" in part or part.endswith(PART_SUFFIX):
            raise _distrust(path)
    return path


def is_asked_for(item: RemoteItem, paths: Sequence[str], folders: Sequence[str] = ()) -> bool:
    """Whether the name under which it would be saved is one that the paths mean.

    The VM chooses neither that name nor, with --parents, a hidden folder (`.git`) to put it in:
    such must stand in the paths, or in `folders`, where the jobs run.
    """
    known = {part for path in (*paths, *folders) for part in path.split("/")}
    *above, name = item.inside.split("/")
    if name != item.base or any(part.startswith(".") and part not in known for part in above):
        return False
    return any(_means(path, item) for path in paths)


def _means(path: str, item: RemoteItem) -> bool:
    name = posixpath.normpath(path).rpartition("/")[2]
    if item.base == name:
        return True
    if item.base.startswith(".") and name[:1] != ".":
        return False  # as in a shell a star stands for no hidden name
    if name in ("", ".", "..") or name.startswith("~"):
        return item.kind == "dir" and not item.base.startswith(".")
    return any(sign in name for sign in "*?[") and (
        "**" in name or fnmatch.fnmatchcase(item.base, name)
    )


def safe_link(relative: str, target: str) -> bool:
    """Whether a link at `relative` points to something below the same top.

    `..` may only stand in front: behind a name that is a link itself it would lead elsewhere.
    """
    if not target or target.startswith("/") or "\0" in target:
        return False
    depth = relative.count("/")
    parts = [part for part in target.split("/") if part not in ("", ".")]
    while parts and parts[0] == "..":
        parts.pop(0)
        depth -= 1
    return depth >= 0 and ".." not in parts


def sane_time(mtime_ns: int) -> int:
    """A time that every file system can keep: 1970 to 2116."""
    return min(max(mtime_ns, 0), 1 << 62)


def names(paths: Sequence[str], most: int = 3) -> str:
    """A few names for a line of text, and how many more there are."""
    few = ", ".join(one_line(path) for path in paths[:most])
    return f"{few} and {len(paths) - most} more" if len(paths) > most else few


def _refuse_through_links(entries: Sequence[RemoteEntry]) -> None:
    kinds: dict[str, str] = {}
    for entry in entries:
        if entry.relative in kinds:
            raise _distrust(entry.relative)
        kinds[entry.relative] = entry.kind
    for entry in entries:
        parent = entry.relative
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if kinds.get(parent, "dir") != "dir":
                raise _distrust(entry.relative)


def _distrust(path: str) -> NotProvenWhole:
    return NotProvenWhole(
        f"The VM's listing names '{one_line(path)}', which does not belong in the target folder.",
        hint="Nothing of it was written; look at it on the VM: vmctl ssh",
    )
