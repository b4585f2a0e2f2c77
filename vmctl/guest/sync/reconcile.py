"""Decide what a push does here: what it puts, touches, deletes, and what it must not touch."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..protocol import DELTA_BYTES, GuestError
from .record import find_as_pushed, find_same_content, has_metadata, lstat

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from collections.abc import Iterable

    from ..messages import TreeEntry
    from .record import PushRecord

    Fingerprint = tuple[int, int, int, int]

SHRINK = 10  # a push of less than a tenth of the last one is taken for a mistake


class PushPlan:
    """What a push does to the workspace; paths are relative to it."""

    def __init__(self) -> None:
        self.put: dict[str, TreeEntry] = {}  # files, links, empty folders to come
        self.touch: dict[str, TreeEntry] = {}  # right content, other times or mode
        self.preexisting: set[str] = set()  # the same is here, and no push put it here
        self.type_conflicts: list[str] = []  # of another kind: they go first
        self.conflicts: list[list[str]] = []  # [path, "changed" or "made"]
        self.delete: list[str] = []
        self.keep: list[str] = []  # no longer pushed, but changed here
        self.older: dict[str, str] = {}  # sha256: path of an older version
        self.seen: dict[str, Fingerprint | None] = {}  # what stood there when asked
        self.wanted_folders: set[str] = set()  # stay when deletions empty them


def refuse_wrong_folder(
    known: PushRecord, wanted: dict[str, TreeEntry], origin: str, place: str
) -> None:
    """Refuse what looks like the wrong folder."""
    refuse_other_origin(known, origin, place)
    if len(wanted) * SHRINK < len(known.files):
        raise GuestError(
            "conflict",
            f"Only {len(wanted)} files are here, but the last push had {len(known.files)}: "
            "the rest would be deleted on the VM.",
            "Check with vmctl push --dry-run --force, and if that is right: vmctl push --force",
        )


def refuse_other_origin(known: PushRecord, origin: str, place: str) -> None:
    """Refuse another folder, another computer, or another key of the same folder at `place`."""
    if (known.files or known.pending) and known.origin != origin:
        if known.place == place:
            raise GuestError(
                "conflict",
                "The VM holds a push from this folder with another vmctl key: VMCTL_HOME was "
                "reset or names another folder since.",
                "Set VMCTL_HOME as it was, "
                "or replace what is there with this folder: vmctl push --force",
            )
        raise GuestError(
            "conflict",
            f"The VM already holds a push from {known.place}.",
            "Give this folder's VM another name (vmctl --name NAME up), "
            "or replace what is there: vmctl push --force",
        )


def compare(root: str, wanted: dict[str, TreeEntry], known: PushRecord, force: bool) -> PushPlan:
    """Look at everything once; raises GuestError if a path is blocked."""
    plan = PushPlan()
    folders = folders_of(wanted)
    blocked = _blocked(root, folders, known, force, plan)
    for path, entry in wanted.items():
        if blocked and any(path.startswith(f"{top}/") for top in blocked):
            plan.put[path] = entry
            plan.seen[path] = None
            continue
        place = f"{root}/{path}"
        now = lstat(place)
        if now is None:
            plan.put[path] = entry
            plan.seen[path] = None
        elif known.files.get(path) != entry or not has_metadata(entry, now, place):
            _compare_one(path, entry, place, now, known, force, plan)
        elif path in known.preexisting:
            plan.preexisting.add(path)
    _leftovers(root, folders, wanted, known, plan)
    return plan


def _compare_one(
    path: str,
    entry: TreeEntry,
    place: str,
    now: os.stat_result,
    known: PushRecord,
    force: bool,
    plan: PushPlan,
) -> None:
    """Something stands there that is not known to be exactly what is wanted."""
    versions = known.versions(path)
    is_folder = stat.S_ISDIR(now.st_mode)
    plan.seen[path] = fingerprint(now)
    if is_folder and entry[0] != "d":
        if any(not _is_pushed(root_of(place, path), leaf, known) for leaf in _leaves(place, path)):
            raise _in_the_way(path, "a file")
        plan.type_conflicts.append(path)
        plan.put[path] = entry
        return
    here = next((one for one in versions if has_metadata(one, now, place)), None)
    if here is None:
        here = find_same_content(place, now, [entry, *versions])
    if here is None and not force:
        why = "changed" if versions and path not in known.preexisting else "made"
        plan.conflicts.append([path, why])
    if here is not None and here[:2] == entry[:2]:
        # a folder that held what was pushed before is ours, although it was no entry itself
        held = entry[0] == "d" and not versions and path in folders_of(known.paths())
        if path in known.preexisting or not (versions or held):
            plan.preexisting.add(path)
        if not has_metadata(entry, now, place):
            plan.touch[path] = entry
        return
    if entry[0] == "d":
        plan.type_conflicts.append(path)
    plan.put[path] = entry
    is_file = entry[0] == "f" and stat.S_ISREG(now.st_mode)
    if is_file and min(entry[2], now.st_size) >= DELTA_BYTES:
        plan.older[entry[1]] = path


def folders_of(paths: Iterable[str]) -> set[str]:
    """Every folder above any of the paths, the workspace itself left out."""
    folders: set[str] = set()
    for path in paths:
        end = path.rfind("/")
        while end > 0:
            folder = path[:end]
            if folder in folders:
                break
            folders.add(folder)
            end = path.rfind("/", 0, end)
    return folders


def fingerprint(now: os.stat_result | None) -> Fingerprint | None:
    """What tells that something was replaced or changed in between."""
    if now is None:
        return None
    return (now.st_mode, now.st_ino, now.st_size, now.st_mtime_ns)


def root_of(place: str, path: str) -> str:
    """The workspace, from a full path and the path below it."""
    return place[: -len(path) - 1]


def _blocked(
    root: str, folders: set[str], known: PushRecord, force: bool, plan: PushPlan
) -> list[str]:
    """What stands where a folder must come, and may go: ours, or anything under force."""
    found: list[str] = []
    for folder in sorted(folders):
        if any(folder.startswith(f"{top}/") for top in found):
            continue
        place = f"{root}/{folder}"
        now = lstat(place)
        if now is None or stat.S_ISDIR(now.st_mode):
            continue
        if not force and find_same_content(place, now, known.versions(folder)) is None:
            raise _in_the_way(folder, "a folder")
        found.append(folder)
        plan.seen[folder] = fingerprint(now)
    plan.type_conflicts += found
    return found


def _leftovers(
    root: str, folders: set[str], wanted: dict[str, TreeEntry], known: PushRecord, plan: PushPlan
) -> None:
    """Of what was pushed and is no longer wanted: what is as pushed, and what changed since."""
    real: dict[str, bool] = {"": True}
    for path in sorted(known.paths() - wanted.keys(), reverse=True):
        if path in folders or not _is_inside(root, path.rpartition("/")[0], real):
            continue
        place = f"{root}/{path}"
        now = lstat(place)
        if now is None or (path in known.preexisting and path not in known.pending):
            continue
        plan.seen[path] = fingerprint(now)
        if stat.S_ISDIR(now.st_mode):
            if ["d"] in known.versions(path) and not any(os.scandir(place)):
                plan.delete.append(path)
        elif _is_pushed(root, path, known):
            plan.delete.append(path)
        else:
            plan.keep.append(path)


def _is_pushed(root: str, path: str, known: PushRecord) -> bool:
    place, versions = f"{root}/{path}", known.versions(path)
    if path in known.preexisting and path not in known.pending:
        return False
    if find_as_pushed(place, versions) is not None:
        return True
    now = lstat(place)
    return now is not None and find_same_content(place, now, versions) is not None


def _is_inside(root: str, folder: str, real: dict[str, bool]) -> bool:
    """Whether every folder above is a real one: nothing is deleted through a link."""
    if folder not in real:
        above = _is_inside(root, folder.rpartition("/")[0], real)
        now = lstat(f"{root}/{folder}") if above else None
        real[folder] = now is not None and stat.S_ISDIR(now.st_mode)
    return real[folder]


def _leaves(place: str, path: str) -> list[str]:
    """Everything below a folder but folders, as paths below the workspace."""
    found = []
    for folder, folders, names in os.walk(place):
        inner = path + folder[len(place) :]
        links = [name for name in folders if Path(folder, name).is_symlink()]
        found += [f"{inner}/{name}" for name in [*names, *links]]
    return found


def _in_the_way(path: str, wanted: str) -> GuestError:
    return GuestError(
        "conflict",
        f"On the VM '{path}' is in the place of {wanted} and was not pushed.",
        "Move it away with vmctl ssh, then push again.",
    )
