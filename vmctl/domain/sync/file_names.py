"""Names of files that come from a VM: which no file here may have, and which are obeyed here."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Sequence

# HFS+ leaves these signs out of a name when it looks for it (git's utf8.c has the same list)
_UNSEEN = "[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]"
# NTFS drops dots and spaces at the end, and reads what follows a colon as a stream of the file
_NTFS_GIT = r"(?s:(?:\.git|git~1)[ .]*(?::.*)?)"

# obeyed without being asked: by Python's site, by file managers, by Windows
_OBEYED = (
    "*.pth", "sitecustomize*", "usercustomize*", "desktop.ini", "autorun.inf",
    "*.desktop", "*.lnk", "*.url", "*.webloc", "*.scf",
)  # fmt: skip
_HOOKS = (
    r"(?:pre|post|prepare|commit|applypatch|fsmonitor|push|sendemail|reference|proc|update)"
    r"(?:-[a-z0-9-]+)?"
)


def plain(name: str) -> str:
    """A name as file systems that fold case take it."""
    return (name if name.isascii() else re.sub(_UNSEEN, "", name)).lower()


def is_git(name: str) -> bool:
    """Whether some file system takes a name for `.git`, whose configuration git obeys."""
    return any(re.fullmatch(_NTFS_GIT, plain(part)) for part in name.split("\\"))


def has_git(path: str) -> bool:
    """Whether a path leads into what git takes for its own folder, or names that."""
    return any(map(is_git, path.split("/")))


def is_obeyed(path: str) -> bool:
    """Whether a program of this computer may obey a file of this path without being asked to.

    Shells, editors, git, direnv and many others look for hidden names, so all of them count.
    """
    parts = list(map(plain, path.split("/")))
    if any(part.startswith(".") for part in parts):
        return True
    name = parts[-1]
    if any(fnmatch.fnmatchcase(name, pattern) for pattern in _OBEYED):
        return True
    return "hooks" in parts[:-1] and bool(re.fullmatch(_HOOKS, name))


def bare_repositories(paths: Iterable[str]) -> set[str]:
    """Folders that git takes for repositories by what they hold, without any name of its own."""
    held: dict[str, set[str]] = {}
    seen: set[str] = set()
    for path in paths:
        while path and path not in seen:  # a folder may be there for what it holds alone
            seen.add(path)
            folder, _, name = path.rpartition("/")
            if plain(name) in ("head", "objects", "refs", "commondir"):
                held.setdefault(folder, set()).add(plain(name))
            path = folder
    return {
        folder
        for folder, names in held.items()
        if "head" in names and ("commondir" in names or {"objects", "refs"} <= names)
    }


def fits(path: str, pattern: str) -> bool:
    """Whether a path is one that a pattern means, `**` included; `*` means no hidden name."""
    parts, places = path.split("/"), {0}
    for glob in pattern.split("/"):
        following: set[int] = set()
        for place in sorted(places):
            if glob == "**":
                end = place
                while end < len(parts) and not parts[end].startswith("."):
                    end += 1
                following |= set(range(place, end + 1))
            elif place < len(parts) and _fits_one(parts[place], glob):
                following.add(place + 1)
        places = following
    return len(parts) in places


def _fits_one(name: str, glob: str) -> bool:
    if name == glob:
        return True
    return fnmatch.fnmatchcase(name, glob) and (name[:1] != "." or glob[:1] == ".")


def is_pattern(path: str) -> bool:
    """Whether a path may stand for several."""
    return any(sign in path for sign in "*?[")


def ends_with(path: str, end: str) -> bool:
    """Whether a path's last parts are these."""
    return path == end or path.endswith(f"/{end}")


def covers(tops: Sequence[str], path: str) -> bool:
    """Whether one of the paths is this one, or a folder above it; "" is the top of all."""
    return any(top in ("", path) or path.startswith(f"{top}/") for top in tops)
