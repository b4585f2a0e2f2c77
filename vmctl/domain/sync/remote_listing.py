"""What the VM says a fetch would bring: checked here, because the VM is not trusted."""

from __future__ import annotations

import posixpath
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any

from vmctl.domain.errors import IntegrityError
from vmctl.domain.guest_replies import PATHS
from vmctl.domain.limits import DEPTH, LARGEST, LISTED, NAME_BYTES, PATH_BYTES
from vmctl.domain.reply_shapes import (
    Misfit,
    checked,
    encoded,
    flag,
    many,
    number,
    one_of,
    path,
    record,
    run_id,
)
from vmctl.domain.sync.file_names import (
    bare_repositories,
    ends_with,
    fits,
    has_git,
    is_git,
    is_pattern,
    plain,
)
from vmctl.domain.text import one_line

PART_SUFFIX = ".vmctl-part"  # of the file in which bytes gather until they are proven whole
_Entry = tuple[str, str, int, int, int, str]  # kind, path, size, time in ns, mode, link


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """One thing in a listing from the VM, its path checked; times in ns, sizes in bytes.

    Files are numbered in the order of the listing, over all its items.
    """

    kind: str  # file, dir or link
    relative: str  # "" for a file fetched by itself
    size: int
    mtime_ns: int
    mode: int
    link: str = ""
    number: int = -1


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
    """All that a fetch would bring, what was not found, and what is neither file nor folder.

    `obeyed` is what was left out of the items because git here would obey it.
    """

    items: tuple[RemoteItem, ...]
    missing: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    obeyed: tuple[str, ...] = ()
    run: str = ""
    going: bool = False
    files: int = 0  # that the VM would send unasked

    @staticmethod
    def parse(answer: Mapping[str, Any]) -> Listing:
        """From the helper's answer; raises IntegrityError where it is none, or leads outside."""
        found = checked(_LISTING, answer, "its listing")
        if sum(len(item["files"]) for item in found["found"]) > LISTED:
            raise IntegrityError(f"The VM lists more than {LISTED} files.")
        items: list[RemoteItem] = []
        obeyed: list[str] = []
        count = 0
        for given in found["found"]:
            item, left, count = _item(given, count)
            items.append(item)
            obeyed += left
        return Listing(
            items=tuple(items),
            missing=tuple(found["missing"]),
            left_out=tuple(found["left_out"] or ()),
            obeyed=tuple(obeyed),
            run=found["run"] or "",
            going=bool(found["going"]),
            files=count,
        )


def _entries(value: Any) -> list[_Entry]:
    """[kind, relative path, size, mtime in ns, mode, link target] for each; a tight loop."""
    if not isinstance(value, list):
        raise Misfit("is not a list")
    found = []
    for given in value:
        if not isinstance(given, list) or len(given) != 6:
            raise Misfit("holds an item that is not a list of 6")
        what, relative, size, mtime_ns, mode, link = given
        if what not in ("file", "dir", "link") or not (type(relative) is type(link) is str):
            raise Misfit("holds an item that is not an entry")
        if not (type(size) is type(mtime_ns) is type(mode) is int and 0 <= size <= LARGEST):
            raise Misfit("holds an item that is not an entry")
        path(link)
        found.append((what, relative, size, sane_time(mtime_ns), mode & 0o777, link))
    return found


_ITEM = record(
    {
        "wanted": path,
        "base": path,
        "path": path,
        "kind": one_of("file", "dir", "link"),
        "files": _entries,
    },
    {"inside": path, "older": flag},
)
_LISTING = record(
    {"found": many(_ITEM, LISTED), "missing": PATHS},
    {"left_out": PATHS, "run": run_id, "going": flag, "ended_at": number()},
)


def parse_item(answer: Mapping[str, Any]) -> RemoteItem:
    """One path of a listing, which is not trusted: a name that leads outside is refused."""
    return _item(checked(_ITEM, answer, "its listing"), 0)[0]


def _item(given: Mapping[str, Any], count: int) -> tuple[RemoteItem, list[str], int]:
    """An item whose first file has this number, what was left out of it, and the next number."""
    base, kind, entries = safe_name(given["base"]), given["kind"], given["files"]
    folders = {""}
    for _, relative, *_ in entries:
        if kind == "dir" or relative:
            folder, _, name = relative.rpartition("/")
            if folder not in folders:
                folders.add(safe_relative(folder))
            safe_name(name, relative)
            if len(relative) + 3 > PATH_BYTES // 4 and len(encoded(relative)) > PATH_BYTES:
                raise _distrust(relative)
    if kind != "dir" and (len(entries) != 1 or entries[0][1] or entries[0][0] != kind):
        raise _distrust(base)
    _refuse_through_links(entries)
    git, heads = _obeyed_by_git(entries) if kind == "dir" else (set(), set())
    found: list[RemoteEntry] = []
    obeyed: dict[str, None] = {}
    for what, relative, size, mtime_ns, mode, link in entries:
        number = -1
        if what == "file":
            number, count = count, count + 1
        if git or heads:
            top = _below(relative, git) or (relative if relative in heads else "")
            if top:
                obeyed[f"{base}/{top}"] = None
                continue
        found.append(RemoteEntry(what, relative, size, mtime_ns, mode, link, number))
    item = RemoteItem(
        wanted=given["wanted"],
        base=base,
        path=given["path"],
        kind=kind,
        entries=tuple(found),
        inside=safe_relative(given["inside"] or base),
        older=bool(given["older"]),
    )
    return item, list(obeyed), count


def _obeyed_by_git(entries: Sequence[_Entry]) -> tuple[set[str], set[str]]:
    """The names of git's own folders among the parts of these paths, and files named HEAD that
    make a folder a repository."""
    names = {part for _, relative, *_ in entries for part in relative.split("/")}
    bare = bare_repositories(relative for _, relative, *_ in entries)
    heads = set()
    if bare:
        for _, relative, *_ in entries:
            folder, _, name = relative.rpartition("/")
            if folder in bare and plain(name) == "head":
                heads.add(relative)
    return set(filter(is_git, names)), heads


def _below(relative: str, names: Set[str]) -> str:
    """The part of a path up to the first of these names; "" where it has none of them."""
    parts = relative.split("/")
    place = next((place for place, part in enumerate(parts) if part in names), None)
    return "" if place is None else "/".join(parts[: place + 1])


def safe_name(name: str, place: str = "") -> str:
    """A name that stays in its folder, and is not that of an unfinished fetch."""
    if name in ("", ".", "..") or "/" in name or "\0" in name or name.endswith(PART_SUFFIX):
        raise _distrust(place or name)
    try:
        if len(name) > NAME_BYTES or len(encoded(name)) > NAME_BYTES:
            raise _distrust(place or name)
    except UnicodeEncodeError:
        raise _distrust(place or name) from None
    return name


def safe_relative(relative: str) -> str:
    """A relative path that stays below its top."""
    parts = relative.split("/")
    if len(parts) > DEPTH or len(relative) > PATH_BYTES:
        raise IntegrityError(
            f"The VM's listing names a path of {len(parts)} folders and {len(relative)} letters, "
            f"'{one_line(relative[:40])}…': more than {DEPTH}, or {PATH_BYTES}.",
            hint="Pack it on the VM, then fetch that: vmctl exec -- tar czf deep.tgz FOLDER",
        )
    for part in parts:
        safe_name(part, relative)
    return relative


# -- what was asked for ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class RequestedPaths:
    """What the user asked for. From it, never from the VM, come the names that are used here.

    `folders` are where the jobs run, `outputs` what they leave, as paths below the project.
    """

    paths: tuple[str, ...]
    project: str
    folders: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def place_of(self, item: RemoteItem, *, parents: bool = False) -> str:
        """Under which name an item is saved; raises IntegrityError where it was not asked for.

        With `parents` that is its path below the project.
        """
        if item.wanted not in self.paths:
            raise _not_asked(item)
        typed = posixpath.normpath(item.wanted)
        name = typed.rpartition("/")[2]
        if name in ("", ".", "..") or (item.wanted.startswith("~") and "/" not in typed):
            if item.kind != "dir":
                raise _not_asked(item)
            return self.project if name == "." else "home"
        if not self._means(item, typed, name):
            raise _not_asked(item)
        place = item.inside if parents else item.base
        if parents and not any(fits(place, pattern) for pattern in self._patterns(typed)):
            raise _not_asked(item)
        if has_git(place):
            raise IntegrityError(
                f"'{one_line(place)}' would be used by git on this computer.",
                hint="Nothing was written. Clone it instead: git clone NAME.vmctl:PATH (vmctl "
                "ssh-config gives the name)",
            )
        return place

    def _means(self, item: RemoteItem, typed: str, name: str) -> bool:
        known = {part for path in (*self.paths, *self.folders) for part in path.split("/")}
        *above, last = item.inside.split("/")
        if last != item.base or any(part[:1] == "." and part not in known for part in above):
            return False
        if item.base == name:
            return True
        if not is_pattern(typed):
            return False
        # "runs/**" means runs itself, too
        return fits(item.base, name) or (
            name == "**" and any(fits(item.inside, pattern) for pattern in self._patterns(typed))
        )

    def _patterns(self, typed: str) -> list[str]:
        """The paths below the project that what was typed can stand for."""
        if typed.startswith(("/", "~/")):  # below some folder of the VM, which may be the project's
            parts = typed.strip("/").split("/")
            return ["/".join(parts[begin:]) for begin in range(len(parts))]
        tops = [posixpath.normpath(posixpath.join(folder, typed)) for folder in self.folders]
        named = [output for output in self.outputs if ends_with(output, typed)]
        return [typed, *tops, *named]


def _not_asked(item: RemoteItem) -> IntegrityError:
    return IntegrityError(
        f"The VM names '{one_line(item.inside)}', which was not asked for.",
        hint="Nothing was written. If you want it, name it: vmctl fetch PATH",
    )


def safe_link(relative: str, target: str) -> bool:
    """Whether a link at `relative` points to something below the same top.

    `..` may only stand in front: behind a name that is a link itself it would lead elsewhere.
    """
    if not target or target.startswith("/") or "\0" in target or has_git(target):
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


def _refuse_through_links(entries: Sequence[_Entry]) -> None:
    kinds: dict[str, str] = {}
    for what, relative, *_ in entries:
        if relative in kinds:
            raise _distrust(relative)
        kinds[relative] = what
    clear: set[str] = {""}  # folders that are folders, and so are all above them
    for relative in kinds:
        parent = relative.rpartition("/")[0]
        while parent not in clear:
            if kinds.get(parent, "dir") != "dir":
                raise _distrust(relative)
            clear.add(parent)
            parent = parent.rpartition("/")[0]


def _distrust(path: str) -> IntegrityError:
    return IntegrityError(
        f"The VM's listing names '{one_line(path[:200])}', which does not belong in the target "
        "folder.",
        hint="Nothing was written; check it on the VM: vmctl ssh",
    )
