"""Tell what changed here since it was pushed, and send what the other side wants of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .. import heartbeat
from ..paths import workspace
from ..protocol import PART_SUFFIX, GuestError
from ..sync.pushed_index import parents
from ..sync.record import changed, lstat, pushed, sha256_of
from .lookup import PART_PREFIX
from .open_files import unfinished
from .sender import send

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from ..messages import ListedItem, PullRequest, RemoteListing

MADE = 1000  # new files that are named at most


def pull(request: PullRequest) -> None:
    """The listing of a fetch, and in addition:

    `sums` is path: SHA-256 of what is there now; `deleted` are pushed paths that no longer exist;
    `same` are named ones that are as they were pushed; `made` are files that no push put here, in
    folders that one did. Without paths it is about everything that was pushed. The other side has
    its own record of what it pushed.
    """
    heartbeat.begin()
    project = request["project"]
    root = workspace(project)
    wanted: list[str] = request["paths"]
    before = pushed(project)
    found: dict[str, str] = {}
    for path, what in changed(project):
        if not wanted or any(_covers(top, path) for top in wanted):
            found[path] = what
    made = _made(root, before)
    same, missing = _named(root, wanted, before, found, made)
    left_out: list[str] = []
    items = []
    for path, what in sorted(found.items()):
        if what != "deleted":
            items += _item(root, path, left_out)
    listing: RemoteListing = {
        "found": items,
        "missing": missing,
        "left_out": left_out,
        "going": True,  # they may be written at any time
        "ended_at": None,
        "sums": {item["inside"]: sha256_of(item["path"]) for item in items},
        "deleted": [path for path, what in found.items() if what == "deleted"],
        "same": same,
        "made": [path for path in made if path not in found][:MADE],
    }
    why = unfinished(listing)
    if why:
        raise GuestError("conflict", f"{why}.", "Once it is finished: vmctl pull")
    send(listing, True)


def _covers(top: str, path: str) -> bool:
    return top in ("", ".", path) or path.startswith(f"{top}/")


def _made(root: Path, before: dict[str, Any]) -> list[str]:
    """Files that no push put here, in the folders that one put here or filled."""
    found = []
    for folder in sorted(["", *parents(list(before))]):
        try:
            with os.scandir(f"{root}/{folder}") as entries:
                names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except OSError:  # removed, or not a folder now: its files are reported
            continue
        for name in sorted(names):
            path = f"{folder}/{name}" if folder else name
            if path in before or name.endswith(PART_SUFFIX) or name.startswith(PART_PREFIX):
                continue
            found.append(path)
    return found


def _named(
    root: Path,
    wanted: list[str],
    before: dict[str, Any],
    found: dict[str, str],
    made: list[str],
) -> tuple[list[str], list[str]]:
    """Adds files that were named, or whose folder was, and that no push put here.

    Returns what is the same or missing.
    """
    same, missing = [], []
    for path in wanted:
        if path not in ("", "."):
            new = [name for name in made if name != path and _covers(path, name)]
            found.update(dict.fromkeys(new, "made"))
        if any(_covers(path, name) for name in found):
            continue
        if any(_covers(path, name) for name in before):
            same.append(path)
        elif (now := lstat(f"{root}/{path}")) is None:
            missing.append(path)
        elif stat.S_ISDIR(now.st_mode):
            from shlex import quote  # only for this word

            raise GuestError(
                "conflict", f"The folder {path} was not pushed.", f"vmctl fetch {quote(path)}"
            )
        else:
            found[path] = "made"
    return same, missing


def _item(root: Path, path: str, left_out: list[str]) -> list[ListedItem]:
    place = f"{root}/{path}"
    now = lstat(place)
    if now is None:
        return []
    kind = "file" if stat.S_ISREG(now.st_mode) else "link" if stat.S_ISLNK(now.st_mode) else ""
    if not kind:
        left_out.append(path)
        return []
    link = os.readlink(place) if kind == "link" else ""  # noqa: PTH115  (would tidy it up)
    size = now.st_size if kind == "file" else 0
    entry = [kind, "", size, now.st_mtime_ns, stat.S_IMODE(now.st_mode), link]
    name = path.rpartition("/")[2]
    return [
        {
            "wanted": path,
            "base": name,
            "inside": path,
            "path": place,
            "kind": kind,
            "files": [entry],
        }
    ]
