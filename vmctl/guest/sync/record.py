"""The record of what a push put on this machine, and what changed here since.

~/.vmctl/push/PROJECT.json is written when a push is whole:

    version   2
    origin    which folder of which key pushed it; `place` says the same to people
    tree      the id of `files`: the SHA-256 over them, see `tree_id`
    files     path below ~/Workspace/PROJECT: ENTRY, the whole tree as it was pushed
    met       those of `files` that were here already and the same: a later push may overwrite
              them, because what is lost then came from the other side, but never delete them
    kept      path: ENTRY of what is no longer pushed but was changed here, and so was left

ENTRY is ["f", sha256, size, mtime_ns, mode], ["l", target] or ["d"] (an empty folder). Paths are
text with surrogate escapes for bytes that are not UTF-8.

While a push changes files, PROJECT.next.json names what it is about to put: `may` is
path: [ENTRY, ...]. A push that died leaves it behind; a path is then ours when it is as either
file says, and the next push makes the tree whole.
"""

from __future__ import annotations

import os
import stat

from ..paths import STATE, ensure, workspace
from ..protocol import tree_id
from ..records import locked, read_json, write_json

TYPE_CHECKING = False  # typing is not imported: every start of a push is waited for
if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path
    from typing import Any

    from ..messages import AcceptReply, AcceptRequest, TreeEntry

VERSION = 2
CHUNK_BYTES = 1 << 20


class PushRecord:
    """What pushes have put here so far."""

    def __init__(self, project: str) -> None:
        self.project = project
        found, unfinished = record(project), read_json(_next_file(project)) or {}
        pushed_by = found if found.get("origin") else unfinished
        self.origin: str = pushed_by.get("origin", "")
        self.place: str = pushed_by.get("place", "")
        self.tree: str = found.get("tree", "")
        self.files: dict[str, TreeEntry] = found.get("files", {})
        self.preexisting: set[str] = set(found.get("met", ()))
        self.kept: dict[str, TreeEntry] = found.get("kept", {})
        self.pending: dict[str, list[TreeEntry]] = unfinished.get("may", {})

    def versions(self, path: str) -> list[TreeEntry]:
        """What a push put, or may have put, at a path; the newest last."""
        known = self.files.get(path) or self.kept.get(path)
        return ([known] if known else []) + self.pending.get(path, [])

    def paths(self) -> set[str]:
        """Every path that a push put or met."""
        return {*self.files, *self.kept, *self.pending}

    def begin(self, may: dict[str, TreeEntry]) -> None:
        """Put on disk what is about to be put, before any of it is."""
        for path, entry in may.items():
            self.pending[path] = [*self.pending.get(path, []), entry][-4:]
        place = {"origin": self.origin, "place": self.place, "may": self.pending}
        _replace(_next_file(self.project), place)

    def commit(self) -> None:
        """Put on disk what is here now; nothing is unfinished any more."""
        self.tree = tree_id(self.files)
        _replace(
            _file(self.project),
            {
                "version": VERSION,
                "origin": self.origin,
                "place": self.place,
                "tree": self.tree,
                "files": self.files,
                "met": sorted(self.preexisting),
                "kept": self.kept,
            },
        )
        _next_file(self.project).unlink(missing_ok=True)
        self.pending = {}


# -- what others on this machine ask ---------------------------------------------------------


def record(project: str) -> dict[str, Any]:
    """The record of the last whole push; empty before the first."""
    found = read_json(_file(project)) or {}
    return found if found.get("version") == VERSION else {}


def pushed(project: str) -> dict[str, dict[str, Any]]:
    """Every path of the pushed tree: kind (file, link, dir), sha256, size in bytes, mtime_ns,
    mode, link. After a push that died: what is here of the old tree and the new one."""
    known, root = PushRecord(project), str(workspace(project))
    found = dict(known.files)
    for path in known.pending:
        here = find_as_pushed(f"{root}/{path}", known.versions(path))
        if here is not None:
            found[path] = here
    return {path: _describe(entry) for path, entry in found.items()}


def changed(project: str) -> list[list[str]]:
    """[path, "changed" or "deleted"] for each pushed path whose content is no longer as pushed."""
    known, root = PushRecord(project), str(workspace(project))
    found = []
    for path in sorted({*known.files, *known.kept, *known.pending}):
        place = f"{root}/{path}"
        versions = known.versions(path)
        if find_as_pushed(place, versions) is not None:
            continue
        now = lstat(place)
        if now is None:
            if path in known.files:
                found.append([path, "deleted"])
        elif find_same_content(place, now, versions) is None:
            found.append([path, "changed"])
    return found


def hold_tree(project: str) -> AbstractContextManager[int]:
    """While it is held no push puts files in place: what reads the tree sees one push's, whole."""
    return locked(STATE / "push" / f"{project}.tree.lock")


def accept(request: AcceptRequest) -> AcceptReply:
    """After a pull: what is here at these paths counts as pushed, as the other side has it now.

    `accept` is [path, ENTRY or null]; null drops a path removed on both sides. An entry
    that is not what is here is left alone, so that a change in between stays a change.
    """
    project = request["project"]
    with hold_tree(project):
        known, root = PushRecord(project), str(workspace(project))
        for path, versions in known.pending.items():
            here = find_as_pushed(f"{root}/{path}", versions)
            if here is not None:
                known.files[path] = here
        taken, pushed_here = [], known.paths()
        for path, entry in request["accept"]:
            place = f"{root}/{path}"
            now = lstat(place)
            if entry is None:
                if now is None:
                    known.files.pop(path, None)
                    known.kept.pop(path, None)
                    taken.append(path)
            elif now is not None and find_same_content(place, now, [entry]) is not None:
                if path not in pushed_here:
                    known.preexisting.add(path)  # made here: no push may ever delete it
                known.files[path] = entry
                known.kept.pop(path, None)
                taken.append(path)
        known.commit()
    return {"accepted": taken, "tree": known.tree}


def _describe(entry: TreeEntry) -> dict[str, Any]:
    kind = entry[0]
    _, sha256, size, mtime_ns, mode = entry if kind == "f" else ("", "", 0, 0, 0)
    return {
        "kind": {"f": "file", "l": "link", "d": "dir"}[kind],
        "sha256": sha256,
        "size": size,
        "mtime_ns": mtime_ns,
        "mode": mode,
        "link": entry[1] if kind == "l" else "",
    }


# -- entries and the disk --------------------------------------------------------------------


def lstat(place: str) -> os.stat_result | None:
    """What stands at a path, links not followed; None when nothing does."""
    try:
        return os.lstat(place)
    except (FileNotFoundError, NotADirectoryError):
        return None


def has_metadata(entry: TreeEntry, now: os.stat_result, place: str) -> bool:
    """Whether what stands there has an entry's kind, size, time and mode, or its target."""
    kind = entry[0]
    if kind == "f":
        return (
            stat.S_ISREG(now.st_mode)
            and now.st_size == entry[2]
            and now.st_mtime_ns == entry[3]
            and now.st_mode & 0o777 == entry[4]
        )
    if kind == "l":
        # Path.readlink would tidy the target up
        return stat.S_ISLNK(now.st_mode) and os.readlink(place) == entry[1]  # noqa: PTH115
    return stat.S_ISDIR(now.st_mode)


def find_as_pushed(place: str, versions: Iterable[TreeEntry]) -> TreeEntry | None:
    """The entry that a path is as, going by its kind, size, time and mode."""
    now = lstat(place)
    if now is None:
        return None
    return next((entry for entry in versions if has_metadata(entry, now, place)), None)


def find_same_content(
    place: str, now: os.stat_result, versions: Iterable[TreeEntry]
) -> TreeEntry | None:
    """The entry whose content a path has, going by its SHA-256; times and mode may differ."""
    digest = ""
    for entry in versions:
        if entry[0] != "f":
            if has_metadata(entry, now, place):
                return entry
        elif stat.S_ISREG(now.st_mode) and now.st_size == entry[2]:
            digest = digest or sha256_of(place)
            if digest == entry[1]:
                return entry
    return None


def sha256_of(place: str) -> str:
    """The SHA-256 of a file; "" when it cannot be read."""
    import hashlib

    digest = hashlib.sha256()
    try:
        with open(place, "rb", buffering=0) as file:  # noqa: PTH123 - 2,000 times in a push
            while data := file.read(CHUNK_BYTES):
                digest.update(data)
    except OSError:
        return ""
    return digest.hexdigest()


def _replace(path: Path, record: object) -> None:
    """Leave it to the file system when the record reaches the disk.

    A journalling one keeps the order of names that change. After a power cut the record is the old
    one, the new one, or unreadable: then all files count as there before, and nothing is lost.
    """
    ensure(path.parent)
    write_json(path, record, sync=False)


def _file(project: str) -> Path:
    return STATE / "push" / f"{project}.json"


def _next_file(project: str) -> Path:
    return STATE / "push" / f"{project}.next.json"
