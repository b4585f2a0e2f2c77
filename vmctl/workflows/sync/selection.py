"""What of a folder a push takes: git's ignore rules, vmctl.toml's, and what never travels."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from vmctl.domain.errors import InvalidInput
from vmctl.folders import list_own
from vmctl.guest.protocol import PART_SUFFIX
from vmctl.workflows.sync.git import Repository, Tracked, Unanswered, find_repository
from vmctl.workflows.sync.gitignore import (
    USERS_RULE,
    Rules,
    bytewise,
    ignored_by,
    ignored_from_above,
    rules_above,
    rules_in,
)

GIT_RULE = ".git"
VENV_RULE = "virtual environment"
SPECIAL_RULE = "neither file, folder nor link"
PART_RULE = "unfinished fetch"
OWN_RULE = "vmctl's own keys and data"
EXCLUDE_RULE = "exclude in vmctl.toml"


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """One thing to push; `kind` is file, link or dir (an empty folder); sizes in bytes."""

    path: str
    kind: str
    size: int = 0
    mtime_ns: int = 0
    mode: int = 0
    ctime_ns: int = 0
    inode: int = 0
    link: str = ""

    @property
    def stamp(self) -> list[int]:
        """What changes when the content does."""
        return [self.size, self.mtime_ns, self.ctime_ns, self.inode]


@dataclass(frozen=True, slots=True)
class Selection:
    """What is taken, and (rule, path) for what is left out; a folder stands for all it holds."""

    entries: tuple[LocalEntry, ...]
    left_out: tuple[tuple[str, str], ...]
    unanswered: str = ""  # why it is not known which of what is left out git tracks


def select(
    root: Path,
    exclude: Sequence[str] = (),
    *,
    pushed: Callable[[], Iterable[str]] = tuple,
) -> Selection:
    """Walk a project folder; raises InvalidInput for a folder that cannot be read.

    A pattern of `exclude` decides last: `!name` takes along what .gitignore leaves out. Where git
    does not say what it tracks, what was `pushed` before counts as tracked.
    """
    repository = find_repository(root)
    kept = _own_folders(root)
    own = Rules(EXCLUDE_RULE, "", map(bytewise, exclude))
    tracked = Tracked(repository, root) if repository else None
    unanswered = ""
    paths: Sequence[bytes] = []
    try:
        entries, left_out = _walk(root, repository, own, kept)
    finally:
        try:
            paths = tracked.paths() if tracked else []
        except Unanswered as error:
            unanswered = str(error)
    ignored = [path for rule, path in left_out if _is_gits(rule)]
    if unanswered and ignored:
        paths = sorted(map(os.fsencode, pushed()))
    for path in _within(paths, ignored):
        if _may_come(root, path, own, kept):
            entries.append(entry_of(path, f"{root}/{path}", os.lstat(f"{root}/{path}")))
            left_out = [found for found in left_out if found[1] != path]
    return Selection(
        tuple(sorted(entries, key=attrgetter("path"))),
        tuple(left_out),
        unanswered if ignored else "",
    )


def _is_gits(rule: str) -> bool:
    """Whether a rule is git's: it is about what git does not track."""
    return rule.endswith((".gitignore", "/info/exclude", USERS_RULE))


def _within(paths: Sequence[bytes], ignored: Sequence[str]) -> list[str]:
    """Those of the sorted paths that were left out, or lie in a folder that was."""
    found: set[bytes] = set()
    files = {os.fsencode(path) for path in ignored if not path.endswith("/")}
    if files:
        found |= files.intersection(paths)
    for folder in ignored:
        if folder.endswith("/"):
            name = os.fsencode(folder)
            found.update(paths[bisect_left(paths, name) : bisect_left(paths, name[:-1] + b"0")])
    return sorted(map(os.fsdecode, found))


def _walk(
    root: Path, repository: Repository | None, own: Rules, kept: Collection[str]
) -> tuple[list[LocalEntry], list[tuple[str, str]]]:
    """What the rules take along, and (rule, path) of what they leave out."""
    top = repository.top if repository else root
    prefix = "" if top == root else f"{root.relative_to(top).as_posix()}/"
    rules = rules_above(repository, root)
    if prefix and ignored_from_above(rules, prefix.rstrip("/")):
        rules = []  # the project itself is ignored there: those rules are not about its files
    entries: list[LocalEntry] = []
    left_out: list[tuple[str, str]] = []
    base, before = f"{root}/", bytewise(prefix)
    pending = [("", rules)]
    while pending:
        folder, rules = pending.pop()
        children = _scan(base + folder)
        names = {child.name for child in children}
        if "pyvenv.cfg" in names and folder and Path(base, folder, "pyvenv.cfg").is_file():
            left_out.append((VENV_RULE, folder))
            continue
        if ".gitignore" in names:
            rules = [*rules, *rules_in(Path(base + folder), prefix + folder)]
        deepest_first = rules[::-1]
        for child in children:
            name = child.name
            path = folder + name
            is_dir = child.is_dir(follow_symlinks=False)
            rule = OWN_RULE if path in kept else _never(child, is_dir)
            if rule is None:
                plain, last = bytewise(path), bytewise(name)
                decided = own.decide(plain, last, is_dir)
                rule = EXCLUDE_RULE if decided else None
                if decided is None:
                    rule = ignored_by(deepest_first, before + plain, last, is_dir)
            if rule is not None:
                if is_dir and rule != GIT_RULE and Path(child.path, "pyvenv.cfg").is_file():
                    rule = VENV_RULE
                left_out.append((rule, f"{path}/" if is_dir else path))
            elif is_dir:
                pending.append((f"{path}/", rules))
            else:
                entries.append(entry_of(path, child.path, child.stat(follow_symlinks=False)))
        if not children and folder:
            entries.append(LocalEntry(folder.rstrip("/"), "dir"))
    return entries, left_out


def _own_folders(root: Path) -> set[str]:
    """vmctl's own folders where they lie in the project: their paths below its top."""
    top = root.resolve()
    places = {folder.resolve() for folder in list_own()}
    return {place.relative_to(top).as_posix() for place in places if place.is_relative_to(top)}


def _may_come(root: Path, path: str, own: Rules, kept: Collection[str]) -> bool:
    """Whether a tracked file that a rule of git's leaves out is there, and nothing else does."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        return False  # git wrote no such path into the index: somebody else did
    above = path
    is_folder = False
    while above:
        name = above.rpartition("/")[2]
        if own.decide(bytewise(above), bytewise(name), is_folder) or name == ".git":
            return False
        if above in kept:
            return False
        if is_folder and ((root / above).is_symlink() or (root / above / "pyvenv.cfg").is_file()):
            return False
        above, is_folder = above.rpartition("/")[0], True
    place = root / path
    return place.is_symlink() or place.is_file()


def _never(child: os.DirEntry[str], is_dir: bool) -> str | None:
    """What no setting takes along; virtual environments are seen when they are entered."""
    name = child.name
    if name == ".git":
        return GIT_RULE
    if name.endswith(PART_SUFFIX) and name.startswith("."):
        return PART_RULE
    if is_dir or child.is_file(follow_symlinks=False) or child.is_symlink():
        return None
    return SPECIAL_RULE


def entry_of(path: str, place: str, found: os.stat_result) -> LocalEntry:
    """A file or a link that was found at a place."""
    if stat.S_ISLNK(found.st_mode):
        # Path.readlink would tidy the target up
        return LocalEntry(path, "link", link=os.readlink(place))  # noqa: PTH115
    return LocalEntry(
        path,
        "file",
        found.st_size,
        found.st_mtime_ns,
        found.st_mode & 0o777,
        found.st_ctime_ns,
        found.st_ino,
    )


def _scan(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError as error:
        raise InvalidInput(
            f"{folder.rstrip('/')} cannot be read: {error.strerror}.",
            hint="Make it readable, or exclude it: [push] exclude in vmctl.toml",
        ) from error
