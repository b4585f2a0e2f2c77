"""Keep a run's tree and its workspace one in all but the code.

About once a second, and when the run has ended: a name that the run made, replaced or removed is
made, replaced or removed in the workspace, and the other way round. Never the pushed files: the
workspace's belong to pushes, the tree's to the run, and what the run wrote into its own goes home
only where the workspace's is still the one that the run started with. What both sides changed
stays as it is on both.
"""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

from ..paths import STATE
from ..records import locked
from ..sync.record import lstat
from .run_tree import (
    COARSE_NS,
    COPY,
    FOLDER,
    OWN,
    PART,
    SHARED,
    NameRecord,
    RunTree,
    identity,
    join,
)

SETTLED_NS = 1_000_000_000  # a folder's time of change is coarse: younger ones are looked at again
Found = os.stat_result | None


class Mirror:
    """What one carrier of a run remembers between two looks."""

    def __init__(self, tree: RunTree) -> None:
        self.tree = tree
        self.conflicts: set[str] = set()  # what both sides changed
        self.unlinked: set[str] = set()  # whole folders that the run let go of
        self.errors: dict[str, str] = {}  # what could not be shared, and why
        self._missed: set[str] = set()  # removed by the run, as seen the last time
        self._missing: set[str] = set()
        self._seen: dict[str, list[int]] = {}
        self._looked_ns = int(tree.about["started"] * 1e9)
        self._last = self._removes = self._refresh = self._after_setup = False
        self._whole: bool | None = None
        self._stands: bool | None = None

    def sync(self, *, last: bool = False, removes: bool = True, after_setup: bool = False) -> None:
        """Make both sides one; `last`: all of it, now. Without `removes` nothing is removed in
        the workspace. `after_setup`: what set-up wrote into pushed files is the run's, too."""
        tree = self.tree
        with locked(STATE / "trees" / f"{tree.about['project']}.lock"):
            self._last, self._removes, self._whole = last, removes, None
            self._stands = None
            began_ns = time.time_ns()
            tree.pushed.refresh()
            self._after_setup = after_setup
            self._refresh = after_setup and tree.pushed.stamp == tree.about["record"]
            self._missing = set()
            self.errors = {}
            if Path(tree.root).is_dir() and Path(tree.top).is_dir():
                self._sync_folder("", FOLDER)
            self._missed = self._missing
            self._looked_ns = began_ns - COARSE_NS

    def _may_delete_there(self) -> bool:
        """Whether what was removed in the tree may be removed in the workspace.

        A tree that somebody takes away, which takes its pushed files too, removes nothing.
        """
        if self._removes and self._whole is None:
            self._whole = (self.tree.run / "spec.json").exists() and all(
                os.path.lexists(self.tree.in_tree(join(folder, name)))
                for folder, names in self.tree.known.items()
                for name, what in names.items()
                if what[0] == COPY
            )
        return self._removes and bool(self._whole)

    def _may_delete_here(self) -> bool:
        """Whether what was removed in the workspace may be removed in the tree: not all of it."""
        if self._stands is None:
            self._stands = all(
                os.path.lexists(self.tree.in_workspace(join(folder, name)))
                for folder, names in self.tree.known.items()
                for name, what in names.items()
                if what[0] == COPY and join(folder, name) in self.tree.pushed.paths
            )
        return self._stands

    # -- one folder ----------------------------------------------------------------------------

    def _sync_folder(self, folder: str, kind: str) -> None:
        tree = self.tree
        here, there = tree.in_tree(folder), tree.in_workspace(folder)
        known = tree.known.setdefault(folder, {})
        stamp = [*_stamp(here), *_stamp(there)]
        unchanged = self._seen.get(folder) == stamp and not (self._last or self._refresh)
        if unchanged and not any(self._is_written_into(folder, *item) for item in known.items()):
            for name, what in list(known.items()):
                if what[0] in (FOLDER, OWN):
                    self._sync_folder(join(folder, name), what[0])
            return
        began, missing = time.time_ns(), len(self._missing)
        in_tree, in_workspace = _list(here), _list(there)
        for name in sorted({*in_tree, *in_workspace, *known}):
            path = join(folder, name)
            if name.startswith(PART):  # of a carrier that was killed: nobody else is at it now
                for place in (tree.in_tree(path), tree.in_workspace(path)):
                    Path(place).unlink(missing_ok=True)
                continue
            if tree.is_private(folder, name):
                continue
            self.conflicts.discard(path)
            try:
                self._sync_name(folder, name, in_tree.get(name), in_workspace.get(name), kind)
            except (FileNotFoundError, FileExistsError) as error:  # created or removed meanwhile
                self.errors[path] = str(error.strerror)
            except OSError as error:
                self.errors[path] = str(error.strerror)
        quiet = max(_stamp(here)[1], _stamp(there)[1]) < began - SETTLED_NS
        if quiet and len(self._missing) == missing:
            self._seen[folder] = stamp
        else:
            self._seen.pop(folder, None)

    def _is_written_into(self, folder: str, name: str, what: NameRecord) -> bool:
        """Whether the run wrote into a pushed file of its own."""
        if what[0] != COPY:
            return False
        found = lstat(self.tree.in_tree(join(folder, name)))
        return found is None or identity(found, True) != what[1]

    # -- one name ------------------------------------------------------------------------------

    def _sync_name(self, folder: str, name: str, here: Found, there: Found, kind: str) -> None:
        """What is to be done about one name, by what changed on which side."""
        tree = self.tree
        what = tree.known[folder].get(name)
        if here and there and os.path.samestat(here, there):
            if what is None or (what[0] != COPY and identity(here, False) != what[1]):
                tree.record(folder, name, SHARED)
            return
        if _is_folder(here) and (there is None or _is_folder(there)):
            self._real_folder(folder, name, here, there, what)
            return
        if here is None and _is_folder(there):
            if what is None:
                if kind != OWN and Path(tree.in_tree(folder)).is_dir():
                    self._add_folder(folder, name)
                return
            if what[0] in (FOLDER, OWN):
                self._deleted_folder(folder, name)
                return
        whole = what is not None and what[0] == COPY
        here_changed = (identity(here, whole) if here else None) != (what[1] if what else None)
        there_changed = (identity(there, whole) if there else None) != (what[2] if what else None)
        if there_changed and not whole and here and stat.S_ISREG(here.st_mode):
            # the run may have written into it after the workspace let go of it
            here_changed = here_changed or here.st_mtime_ns >= self._looked_ns
        if here_changed and not there_changed:
            self._changed_here(folder, name, here, there, what)
        elif there_changed and not here_changed:
            self._changed_there(folder, name, here, there, what, kind)
        elif here_changed and there_changed:
            self._changed_both(folder, name, here, there, what)

    def _real_folder(
        self, folder: str, name: str, here: Found, there: Found, what: NameRecord | None
    ) -> None:
        """A folder of the run's: the workspace has it, too, unless somebody removed it there."""
        tree, path = self.tree, join(folder, name)
        kind = what[0] if what else FOLDER
        if what is None or kind in (COPY, SHARED):
            kind = OWN if what is not None and there is not None else FOLDER
            if there is None:
                assert here is not None
                place = Path(tree.in_workspace(path))
                place.parent.mkdir(parents=True, exist_ok=True)
                place.mkdir(mode=stat.S_IMODE(here.st_mode), exist_ok=True)
            tree.record(folder, name, kind)
        self._sync_folder(path, kind)

    def _deleted_folder(self, folder: str, name: str) -> None:
        """The run removed a folder: what it knew of it goes, what others put there stays."""
        tree, path = self.tree, join(folder, name)
        self._sync_folder(path, OWN)
        if not tree.known.get(path) and not tree.pushed.has(path) and self._may_delete_there():
            try:
                Path(tree.in_workspace(path)).rmdir()
            except OSError:
                return  # not empty
            tree.known.pop(path, None)
            tree.drop(folder, name)

    def _add_folder(self, folder: str, name: str) -> None:
        """A folder that is new in the workspace; one that a push made is none of this run's."""
        tree, path = self.tree, join(folder, name)
        if tree.pushed.has(path) or (tree.is_output(path) and not self._after_setup):
            return
        if tree.is_linked_whole(path):
            tree.link_in(folder, name)
            return
        Path(tree.in_tree(path)).mkdir(mode=stat.S_IMODE(os.lstat(tree.in_workspace(path)).st_mode))
        tree.record(folder, name, FOLDER)
        self._sync_folder(path, FOLDER)

    def _changed_here(
        self, folder: str, name: str, here: Found, there: Found, what: NameRecord | None
    ) -> None:
        tree, path = self.tree, join(folder, name)
        if here is None:
            self._removed_here(folder, name, there, what)
        elif _is_folder(there):
            self.conflicts.add(path)  # a file where the workspace has a folder
        elif _is_folder(here):
            if what is not None and what[0] == COPY:
                self.conflicts.add(path)
                return
            Path(tree.in_workspace(path)).unlink(missing_ok=True)
            tree.drop(folder, name)
            self._real_folder(folder, name, here, None, None)
        elif what is not None and what[0] == COPY and self._has_same_bytes(path):
            tree.record(folder, name, COPY)
        else:
            self._link_out(folder, name, fresh=there is None)

    def _removed_here(self, folder: str, name: str, there: Found, what: NameRecord | None) -> None:
        """The run removed a file: it goes in the workspace, too, once that is sure."""
        path = join(folder, name)
        if what is None or what[0] == COPY or there is None:
            return
        if stat.S_IFMT(there.st_mode) != what[1][0]:
            self.unlinked.add(path)  # only a link to it was removed
        elif (self._last or path in self._missed) and self._may_delete_there():
            Path(self.tree.in_workspace(path)).unlink(missing_ok=True)
            self.tree.drop(folder, name)
        else:
            self._missing.add(path)

    def _changed_there(
        self, folder: str, name: str, here: Found, there: Found, what: NameRecord | None, kind: str
    ) -> None:
        tree, path = self.tree, join(folder, name)
        if what is not None and what[0] == COPY:
            if self._refresh and there is not None and not _is_folder(there):
                Path(tree.in_tree(path)).unlink()
                tree.copy(folder, name, there)
            return
        if tree.pushed.has(path) or (what is None and kind == OWN):
            return
        if not self._after_setup and tree.is_output(path):
            return
        if not Path(tree.in_tree(folder)).is_dir():
            return
        if there is None:
            if self._may_delete_here():
                Path(tree.in_tree(path)).unlink(missing_ok=True)
                tree.drop(folder, name)
            elif self._last and what is not None and what[1] == what[2]:
                self._link_out(folder, name, fresh=True)
        elif _is_folder(there):
            assert here is not None
            link = os.readlink(tree.in_tree(path)) if stat.S_ISLNK(here.st_mode) else ""  # noqa: PTH115
            if link == tree.in_workspace(path):
                tree.record(folder, name, SHARED)
                return
            Path(tree.in_tree(path)).unlink()
            tree.drop(folder, name)
            self._add_folder(folder, name)
        else:
            tree.link_in(folder, name, fresh=here is None)

    def _changed_both(
        self, folder: str, name: str, here: Found, there: Found, what: NameRecord | None
    ) -> None:
        tree, path = self.tree, join(folder, name)
        if here is None:
            if what is not None and what[0] != COPY:
                tree.drop(folder, name)  # the run removed it: another program owns it now
        elif there is None and not _is_folder(here) and (what is None or what[0] != COPY):
            self._link_out(folder, name, fresh=True)
        elif (
            what is None
            and there is not None
            and not _is_folder(here)
            and not _is_folder(there)
            and there.st_ctime < tree.about["started"]
        ):
            self._link_out(folder, name, fresh=False)  # older than the run: the run replaced it
        else:
            self.conflicts.add(path)

    def _has_same_bytes(self, path: str) -> bool:
        one, other = Path(self.tree.in_tree(path)), Path(self.tree.in_workspace(path))
        if one.is_symlink() or other.is_symlink() or one.stat().st_size != other.stat().st_size:
            return False
        return one.read_bytes() == other.read_bytes()

    def _link_out(self, folder: str, name: str, *, fresh: bool) -> None:
        tree, path = self.tree, join(folder, name)
        try:
            tree.link_out(folder, name, fresh=fresh)
        except PermissionError:  # somebody else's file, as a container's: it can only be moved
            if not self._last:
                raise
            os.replace(tree.in_tree(path), tree.in_workspace(path))  # noqa: PTH105
            tree.drop(folder, name)


def _stamp(place: str) -> list[int]:
    found = lstat(place)
    return [found.st_ino, found.st_mtime_ns] if found else [0, 0]


def _list(place: str) -> dict[str, os.stat_result]:
    """What a folder holds; nothing where it is none, or a link to one."""
    found: dict[str, os.stat_result] = {}
    if not _is_folder(lstat(place)):
        return found
    with os.scandir(place) as entries:
        for entry in entries:
            try:
                # not entry.stat(): some file systems list other numbers than they tell
                found[entry.name] = os.lstat(entry.path)
            except FileNotFoundError:
                continue
    return found


def _is_folder(found: Found) -> bool:
    return found is not None and stat.S_ISDIR(found.st_mode)
