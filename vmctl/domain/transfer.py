"""Transfers: what may be written where, what came along, what was left out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from vmctl.domain.errors import NotProvenWhole
from vmctl.domain.probe import printable


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
    """One path that a fetch asked for: its name here and what it holds."""

    wanted: str
    base: str
    path: str
    kind: str
    entries: tuple[RemoteEntry, ...]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(entry.size for entry in self.entries if entry.kind == "file")


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
            RemoteEntry(what, relative, int(size), int(mtime_ns), int(mode) & 0o777, str(link))
        )
    if kind == "file" and (len(entries) != 1 or entries[0].relative or entries[0].kind != "file"):
        raise _distrust(base)
    _refuse_through_links(entries)
    return RemoteItem(str(answer["wanted"]), base, str(answer["path"]), kind, tuple(entries))


def safe_name(name: str) -> str:
    """A name that stays in its folder."""
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise _distrust(name)
    return name


def safe_relative(path: str) -> str:
    """A relative path that stays below its top."""
    parts = path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in path:
        raise _distrust(path)
    return path


def safe_link(relative: str, target: str) -> bool:
    """Whether a link at `relative` points to something below the same top."""
    if not target or target.startswith("/") or "\0" in target:
        return False
    depth = len(PurePosixPath(relative).parts) - 1
    for part in target.split("/"):
        if part == "..":
            depth -= 1
        elif part not in ("", "."):
            depth += 1
        if depth < 0:
            return False
    return True


def _refuse_through_links(entries: Sequence[RemoteEntry]) -> None:
    kinds: dict[str, str] = {}
    for entry in entries:
        if entry.relative in kinds:
            raise _distrust(entry.relative)
        kinds[entry.relative] = entry.kind
    for entry in entries:
        for parent in PurePosixPath(entry.relative).parents:
            if kinds.get(str(parent), "dir") != "dir":
                raise _distrust(entry.relative)


def _distrust(path: str) -> NotProvenWhole:
    return NotProvenWhole(
        f"The VM's listing names '{printable(path)}', which does not belong in the target folder.",
        hint="Nothing of it was written; look at it on the VM: vmctl ssh",
    )


# -- push ------------------------------------------------------------------------------------


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


_PROGRESS = re.compile(r"^\s*([\d,.]+)\s+(\d+)%\s")
_STATS = {
    "files": re.compile(r"Number of (?:regular )?files transferred: ([\d,.]+)"),
    "bytes": re.compile(r"Total transferred file size: ([\d,.]+)"),
    "sent": re.compile(r"Total bytes sent: ([\d,.]+)"),
}


def rsync_progress(line: str) -> int | None:
    """Bytes done, from a line of `--info=progress2`; None for any other line."""
    found = _PROGRESS.match(line)
    return _integer(found.group(1)) if found else None


def rsync_name(shown: str) -> str:
    r"""A path as it is, from one that rsync printed with `\#303` for what is not ASCII."""
    raw = shown.encode("utf-8", "surrogateescape")
    plain = re.sub(rb"\\#([0-3][0-7]{2})", lambda found: bytes([int(found[1], 8)]), raw)
    return plain.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class RsyncStats:
    """What rsync's `--stats` tell; 0 where this rsync does not tell it."""

    files: int = 0
    bytes: int = 0
    sent: int = 0


def rsync_stats(text: str) -> RsyncStats:
    """Numbers from `rsync --stats`, whatever it uses between thousands."""
    values = {}
    for name, pattern in _STATS.items():
        found = pattern.search(text)
        values[name] = _integer(found.group(1)) if found else 0
    return RsyncStats(**values)


def _integer(text: str) -> int:
    return int(re.sub(r"\D", "", text) or "0")
