"""A snapshot per run: the code it started with, whatever is pushed while it goes on.

The job runs in ~/.vmctl/runs/ID/tree. There the pushed files are its own; everything else is the
workspace's under a second name (run_tree.py), kept in step while the run goes on (mirror.py). When
the run and all of its processes have ended, what the workspace has too is removed from the tree,
and the rest stays there.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from pathlib import Path

from ..paths import RUNS, STATE, ensure, workspace
from ..records import locked
from ..sync import record
from ..sync.pushed_index import parents
from .mirror import Mirror
from .run_tree import (
    CACHE,
    COPY,
    FOLDER,
    HIDDEN,
    PART,
    RunTree,
    identity,
    join,
    run_directories,
    short,
)

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from ..messages import StartRequest

# names next to data that are not code: a very full folder with only these pushed is linked whole
PLACEHOLDERS = ("README", "LICENSE", ".")


def take(run: Path, request: StartRequest) -> None:
    """Make a run's tree, as the workspace is between two pushes."""
    root = workspace(request["project"])
    about = {
        "root": str(root.resolve()),
        "project": request["project"],
        "started": time.time(),
        "device": root.stat().st_dev,
        "outputs": [
            os.path.normpath(join(request["directory"], output))
            for output in request["outputs"]
            if not output.startswith(("/", "~"))
        ],
    }
    # no push puts files in place meanwhile; one that died has left what there is
    with record.hold_tree(request["project"]):
        _place(run, request["project"], root)
        tree = RunTree(run, about)
        tree.pushed.refresh()
        about["record"] = tree.pushed.stamp
        _fill(tree, request["directory"])
        tree.save()
        tree.tidy_code()


def _place(run: Path, project: str, root: Path) -> None:
    """Make the empty tree, and `tree` in the run's directory lead to it.

    It is on the workspace's own disk: elsewhere nothing could be shared. Its path is the same
    for one run after the other: environments and builds remember where they were made. The
    caller holds the lock of the runs.
    """
    real, state = root.resolve(), ensure(STATE / "trees")
    device = real.stat().st_dev
    if state.stat().st_dev == device:
        above = state / project
    elif real.parent.stat().st_dev == device and os.access(real.parent, os.W_OK):
        above = real.parent / HIDDEN / project
    else:
        above = real / HIDDEN / project
    ensure(above / "code")
    number = 1
    while os.path.lexists(above / str(number)):
        number += 1
    (above / str(number)).mkdir(mode=0o700)
    (run / "tree").symlink_to(above / str(number))


def discard(run: Path) -> None:
    """Remove a tree that nothing ran in."""
    top = run / "tree"
    shutil.rmtree(top.resolve(), ignore_errors=True)
    if top.is_symlink():
        top.unlink()


def _fill(tree: RunTree, job: str) -> None:
    pushes = tree.pushed
    code = parents([path for path in pushes.paths if not _is_placeholder(path)])
    real = {job, *parents([job])} if job else set()
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(tree.in_workspace(folder)) as entries:
            names = [entry.name for entry in entries]
        for name in names:
            path = join(folder, name)
            if tree.is_private(folder, name):
                continue
            try:
                found = os.lstat(tree.in_workspace(path))
                if not stat.S_ISDIR(found.st_mode):
                    if path in pushes.paths:
                        tree.copy(folder, name, found)
                    else:
                        tree.link_in(folder, name)
                elif path in code or path in real or not tree.is_linked_whole(path):
                    Path(tree.in_tree(path)).mkdir(mode=stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
                    tree.record(folder, name, FOLDER)
                    folders.append(path)
                else:
                    tree.link_in(folder, name)
            except FileNotFoundError:
                continue  # removed meanwhile


def _is_placeholder(path: str) -> bool:
    name = path[path.rfind("/") + 1 :]
    return name.startswith(PLACEHOLDERS) or name.endswith(".md")


# -- the end ---------------------------------------------------------------------------------


def sync_back(mirror: Mirror, *, removes: bool = True) -> list[str]:
    """The last look at a run's tree; what there is to tell about it, in lines."""
    mirror.sync(last=True, removes=removes)
    lines = []
    here = short(mirror.tree.run / "tree")
    if mirror.conflicts:
        names = _names(mirror.conflicts)
        lines.append(f"kept in {here}, because the workspace has its own version: {names}")
    if mirror.unlinked:
        lines.append(
            f"the run removed its link, but the workspace still has: {_names(mirror.unlinked)}"
        )
    for path, why in sorted(mirror.errors.items())[:5]:
        if os.path.lexists(mirror.tree.in_tree(path)):
            lines.append(
                f"kept in {here}, because it cannot be put into the workspace: "
                f"{_plain(path)} ({why})"
            )
    return lines


def dismantle(tree: RunTree) -> None:
    """Remove from a tree what the workspace has, or nobody needs.

    The rest stays for fetch, in the run's directory. A tree that processes of the run still use
    is left as it is.
    """
    if is_used(tree.run.name):
        return
    _clear(tree, "")
    top, link = Path(tree.top), tree.run / "tree"
    if top.is_dir() and not any(top.iterdir()):
        top.rmdir()
        link.unlink(missing_ok=True)
    elif top.is_dir() and link.is_symlink():
        _keep(top, link)
    (tree.run / "tree.jsonl").unlink(missing_ok=True)


def _keep(top: Path, link: Path) -> None:
    """Free the place of the next run's tree."""
    kept = link.with_name("kept")
    if top.stat().st_dev != link.parent.stat().st_dev:
        kept = top.with_name(link.parent.name)
    top.rename(kept)
    link.unlink()
    if kept.parent == link.parent:
        kept.rename(link)
    else:
        link.symlink_to(kept)


def _clear(tree: RunTree, folder: str) -> None:
    known = tree.known.get(folder, {})
    try:
        with os.scandir(tree.in_tree(folder)) as entries:
            names = [entry.name for entry in entries]
    except OSError:
        return
    for name in names:
        path = join(folder, name)
        here = tree.in_tree(path)
        found = os.lstat(here)
        what = known.get(name)
        try:
            if stat.S_ISDIR(found.st_mode):
                if name == CACHE and what is None:
                    shutil.rmtree(here, ignore_errors=True)
                    continue
                _clear(tree, path)
                Path(here).rmdir()
            elif name.startswith(PART) or _is_accounted_for(tree, path, found, what):
                Path(here).unlink()
        except OSError:
            continue  # not empty: something in it stays


def _is_accounted_for(tree: RunTree, path: str, found: os.stat_result, what: Any) -> bool:
    """Whether nothing is lost with a name: a copy as it was, or what the workspace has too."""
    if what is None:
        return False
    if what[0] == COPY:
        return identity(found, True) == what[1] or _is_same(found, tree.in_workspace(path))
    if identity(found, False) != what[1]:
        return False
    return what[1] != what[2] or _is_same(found, tree.in_workspace(path))


def _is_same(found: os.stat_result, other: str) -> bool:
    try:
        return os.path.samestat(found, os.lstat(other))
    except OSError:
        return False


def is_used(run_id: str) -> bool:
    """Whether a process of the run is alive: each has its id in VMCTL_RUN."""
    wanted = b"VMCTL_RUN=" + run_id.encode()
    for process in os.scandir("/proc"):
        if not process.name.isdigit():
            continue
        try:
            words = Path(process.path, "environ").read_bytes()
        except OSError:  # somebody else's, or ended
            continue
        if wanted in words.split(b"\0"):
            return True
    return False


def sweep(alive: set[str]) -> None:
    """Bring home what runs left whose carrier was killed, or whose processes outlived it.

    `alive` are those that go on, or wait in a cluster's queue. The caller holds the lock of the
    runs: one that is being started has no session yet.
    """
    waiting = [run for run in run_directories() if (run / "tree.jsonl").exists()]
    for run in waiting:
        if run.name in alive:
            continue
        try:
            lines = _sweep_one(run)
        except OSError as error:  # a full disk, perhaps: the next sweep tries again
            lines = [f"the run's files are in {short(run / 'tree')}: {error}"]
        with (run / "log").open("a", errors="surrogateescape") as log:
            log.writelines(f"[vmctl] {line}\n" for line in lines)


def _sweep_one(run: Path) -> list[str]:
    try:
        tree = RunTree.load(run, wait=False)
    except ValueError as error:
        if is_used(run.name):
            return []
        if (run / "tree").is_symlink() and (run / "tree").exists():
            _keep((run / "tree").resolve(), run / "tree")
        (run / "tree.jsonl").unlink()
        return [f"kept as it was in {short(run / 'tree')}: {error}"]
    if tree is None:
        return []
    try:
        # a tree that was half taken away must remove nothing
        lines = sync_back(Mirror(tree), removes=False)
        dismantle(tree)
    finally:
        tree.close()
    return lines


def sweep_now() -> None:
    """Sweep and take the lock for it; quick when there is nothing to sweep."""
    if any((run / "tree.jsonl").exists() for run in run_directories()):
        from .runs import alive_runs

        with locked(RUNS / ".lock"):
            sweep(alive_runs())


def _names(paths: set[str]) -> str:
    shown = ", ".join(_plain(path) for path in sorted(paths)[:5])
    return f"{shown} and {len(paths) - 5} more" if len(paths) > 5 else shown


def _plain(path: str) -> str:
    """A name that may hold anything, in one line."""
    return "".join(sign if sign.isprintable() else "?" for sign in path)
