"""Carry out a plan: everything that comes is here and proven, so only names change now.

What is about to come is on record before the first change and the whole tree after the last:
a push that dies in between is completed by the next one. Deletions come last.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from itertools import islice
from pathlib import Path

from ..protocol import PART_SUFFIX, GuestError
from .reconcile import fingerprint, folders_of
from .record import lstat

TYPE_CHECKING = False  # see record.py
if TYPE_CHECKING:
    from ..messages import TreeEntry
    from .reconcile import PushPlan
    from .record import PushRecord
    from .staging import Staging

HELD = 64  # large files that are replaced


def is_unchanged(root: str, plan: PushPlan) -> bool:
    """Whether what the plan changes still stands as it was when the plan was made."""
    return all(fingerprint(lstat(f"{root}/{path}")) == was for path, was in plan.seen.items())


def refuse_locked(root: str, plan: PushPlan) -> None:
    """Refuse before anything changes where a folder on this machine cannot be written to."""
    touched = [*plan.put, *plan.delete, *plan.type_conflicts]
    for folder in sorted({"", *folders_of(touched)}) if touched else ():
        place = f"{root}/{folder}" if folder else root
        if Path(place).is_dir() and not os.access(place, os.W_OK | os.X_OK):
            raise GuestError(
                "conflict",
                f"On the VM '{folder or root}' is not writable for the login user.",
                "Check it: vmctl exec ls -la",
            )


def apply(root: str, plan: PushPlan, known: PushRecord, staging: Staging) -> list[str]:
    """Put, touch and delete; returns the paths that were deleted."""
    try:  # from here on only names change: nothing that a full disk could stop half-way
        sources = _sources(plan.put, staging)
    except OSError:
        staging.remove()
        raise
    # also before mere deletions: it tells others here that the tree is being changed
    known.begin({**plan.put, **plan.touch})
    Path(root).mkdir(parents=True, exist_ok=True)
    _hold_large(root, plan)
    for path in plan.type_conflicts:
        _clear(f"{root}/{path}")
    _put_all(root, plan.put, sources, staging)
    for path, entry in plan.touch.items():
        if entry[0] == "f":
            _touch(f"{root}/{path}", entry, staging)
    return _delete(root, plan)


def _hold_large(root: str, plan: PushPlan) -> None:
    """Keep the large files that are replaced until this process ends, which nobody waits for.

    The file system takes a while to free what they occupied.
    """
    large = (path for path in plan.older.values() if path in plan.put)
    for path in islice(large, HELD):
        with contextlib.suppress(OSError):
            os.open(f"{root}/{path}", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _sources(put: dict[str, TreeEntry], staging: Staging) -> dict[str, str]:
    """Where each file that comes may be renamed away from."""
    uses: dict[str, int] = {}
    for entry in put.values():
        if entry[0] == "f":
            uses[entry[1]] = uses.get(entry[1], 0) + 1
    found = {}
    for number, (path, entry) in enumerate(put.items()):
        if entry[0] == "f":
            uses[entry[1]] -= 1
            found[path] = _content(entry, uses[entry[1]] == 0, number, staging)
    return found


def _put_all(
    root: str, put: dict[str, TreeEntry], sources: dict[str, str], staging: Staging
) -> None:
    for folder in sorted(folders_of(put)):
        _folder(f"{root}/{folder}")
    for number, (path, entry) in enumerate(put.items()):
        place = f"{root}/{path}"
        if entry[0] == "d":
            _folder(place)
            continue
        if entry[0] == "l":
            source = staging.temporary(number)
            Path(source).unlink(missing_ok=True)
            Path(source).symlink_to(entry[1])
        else:
            source = sources[path]
            _set_metadata(source, entry)
        _rename(source, place)


def _content(entry: TreeEntry, is_last: bool, number: int, staging: Staging) -> str:
    """A file that may be renamed away: the staged one, or a copy while others want it too."""
    if entry[2] and is_last:
        return staging.path(entry[1])
    copy = staging.temporary(number)
    if entry[2]:
        import shutil

        shutil.copyfile(staging.path(entry[1]), copy)
    else:
        Path(copy).write_bytes(b"")
    return copy


def _touch(place: str, entry: TreeEntry, staging: Staging) -> None:
    try:
        _set_metadata(place, entry)
    except PermissionError:  # another user's, such as a container's: replace it by a copy
        import shutil

        copy = staging.temporary(-1)
        shutil.copyfile(place, copy)
        _set_metadata(copy, entry)
        _rename(copy, place)


def _set_metadata(place: str, entry: TreeEntry) -> None:
    os.chmod(place, entry[4])  # noqa: PTH101 - 2,000 times in a push
    os.utime(place, ns=(entry[3], entry[3]))


def _rename(source: str, place: str) -> None:
    try:
        os.rename(source, place)  # noqa: PTH104
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        import shutil

        # a disk of its own is mounted below the workspace
        part = Path(place).with_name(f".{Path(place).name[:200]}{PART_SUFFIX}")
        shutil.copy2(source, part, follow_symlinks=False)
        part.replace(place)
        Path(source).unlink()


def _folder(place: str) -> None:
    try:
        os.mkdir(place)  # noqa: PTH102
    except FileExistsError:
        if not Path(place).is_dir():
            raise


def _clear(place: str) -> None:
    """Remove what the plan found to be ours, or nothing but empty folders."""
    now = lstat(place)
    if now is None:
        return
    if not stat.S_ISDIR(now.st_mode):
        Path(place).unlink()
        return
    for folder, folders, names in os.walk(place, topdown=False):
        for name in names:
            (Path(folder) / name).unlink()
        for name in folders:
            inner = Path(folder) / name
            inner.unlink() if inner.is_symlink() else inner.rmdir()
    Path(place).rmdir()


def _delete(root: str, plan: PushPlan) -> list[str]:
    """Delete what a push put here; folders that are empty then go too, unless they are wanted."""
    deleted = []
    for path in plan.delete:
        place = Path(f"{root}/{path}")
        if fingerprint(lstat(str(place))) != plan.seen[path]:
            continue  # a run has just written it
        try:
            if place.is_dir() and not place.is_symlink():
                place.rmdir()
            else:
                place.unlink()
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.ENOENT):
                continue
            raise
        deleted.append(path)
        folder = path.rpartition("/")[0]
        while folder and folder not in plan.wanted_folders:
            try:
                os.rmdir(f"{root}/{folder}")  # noqa: PTH106
            except OSError:
                break
            folder = folder.rpartition("/")[0]
    return deleted
