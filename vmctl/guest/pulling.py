"""Tell what changed here since it was pushed, and send what the other side wants of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from .layout import Refusal, workspace
from .pushing import changed, look, pushed, sha256_of
from .sending import send
from .writing import unfinished


def pull(request: dict[str, Any]) -> None:
    """The listing of a fetch, and beside it:

    `before` is path: what a push put there, or null for what no push put there; `sums` is path:
    SHA-256 of what is there now; `deleted` are pushed paths that are gone; `same` are named ones
    that are as they were pushed. Without paths it is about everything that was pushed.
    """
    project = request["project"]
    root = workspace(project)
    wanted: list[str] = request["paths"]
    before = pushed(project)
    found: dict[str, str] = {}
    for path, what in changed(project):
        if not wanted or any(_covers(top, path) for top in wanted):
            found[path] = what
    same, missing = _named(root, wanted, before, found)
    left_out: list[str] = []
    items = []
    for path, what in sorted(found.items()):
        if what != "deleted":
            items += _item(root, path, left_out)
    listing = {
        "found": items,
        "missing": missing,
        "left_out": left_out,
        "going": True,  # whoever writes them is none of the runs we know
        "ended_at": None,
        "before": {path: before.get(path) for path in found},
        "sums": {item["inside"]: sha256_of(item["path"]) for item in items},
        "deleted": [path for path, what in found.items() if what == "deleted"],
        "same": same,
    }
    why = unfinished(listing)
    if why:
        raise Refusal("conflict", f"{why}.", "When it is done: vmctl pull")
    send(listing, True)


def _covers(top: str, path: str) -> bool:
    return top in ("", ".", path) or path.startswith(f"{top}/")


def _named(
    root: Path, wanted: list[str], before: dict[str, Any], found: dict[str, str]
) -> tuple[list[str], list[str]]:
    """Adds files that were named and that no push put here; returns what is the same or missing."""
    same, missing = [], []
    for path in wanted:
        if any(_covers(path, name) for name in found):
            continue
        if any(_covers(path, name) for name in before):
            same.append(path)
        elif (now := look(f"{root}/{path}")) is None:
            missing.append(path)
        elif stat.S_ISDIR(now.st_mode):
            raise Refusal(
                "conflict", f"No push put the folder {path} there.", f"vmctl fetch '{path}'"
            )
        else:
            found[path] = "made"
    return same, missing


def _item(root: Path, path: str, left_out: list[str]) -> list[dict[str, Any]]:
    place = f"{root}/{path}"
    now = look(place)
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
