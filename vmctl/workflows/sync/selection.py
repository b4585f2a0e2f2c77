"""What of a folder a push takes: git's ignore rules, vmctl.toml's, and what never travels."""

from __future__ import annotations

import os
import stat
from bisect import bisect_left
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

from vmctl.domain.errors import InvalidInput
from vmctl.folders import list_own
from vmctl.guest.protocol import PART_SUFFIX
from vmctl.workflows.sync.git import (
    Repository,
    Tracked,
    Unanswered,
    find_repository,
    repository_at,
    rule_settings,
)
from vmctl.workflows.sync.gitignore import (
    USERS_RULE,
    Rules,
    bytewise,
    ignored_by,
    ignored_from_above,
    rules_above,
    rules_in,
    rules_of_nested,
)

GIT_RULE = ".git"
VENV_RULE = "virtual environment"
SPECIAL_RULE = "neither file, folder nor link"
PART_RULE = "unfinished fetch"
OWN_RULE = "vmctl's own keys and data"
EXCLUDE_RULE = "exclude in vmctl.toml"


class LocalEntry(NamedTuple):
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


class Selection(NamedTuple):
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
    own = Rules(EXCLUDE_RULE, "", map(bytewise, exclude))
    tracked = Tracked(repository, root) if repository else None
    walk = _Walk(root, repository, own)
    try:
        walk.run()
    finally:
        answer = _answer(tracked)
    ignored = [path for rule, path in walk.left_out if _is_gits(rule)]
    paths, unanswered = _tracked_paths(walk, answer, ignored, pushed) if ignored else ([], "")
    back = {path for path in _within(paths, ignored) if _may_come(root, path, own, walk.kept)}
    entries = [*walk.entries, *(_entry_at(root, path) for path in back)]
    left_out = [found for found in walk.left_out if found[1] not in back]
    return Selection(tuple(sorted(entries, key=attrgetter("path"))), tuple(left_out), unanswered)


def _answer(tracked: Tracked | None) -> Sequence[bytes] | Unanswered:
    try:
        return tracked.paths() if tracked else []
    except Unanswered as error:
        return error


def _tracked_paths(
    walk: _Walk,
    answer: Sequence[bytes] | Unanswered,
    ignored: Sequence[str],
    pushed: Callable[[], Iterable[str]],
) -> tuple[list[bytes], str]:
    """What git tracks among what is ignored, sorted, submodules' files included.

    Where a repository gives no answer, what was pushed of it; and why it gave none.
    """
    paths: list[bytes] = []
    unanswered = ""
    # a repository inside the project is only asked where something of it is ignored
    nested = [one for one in walk.nested if any(path.startswith(one) for path in ignored)]
    answers = [("", answer)]
    while answers or nested:
        if answers:
            prefix, answer = answers.pop()
        else:
            prefix = nested.pop()
            repository = repository_at(walk.root / prefix)
            answer = _answer(Tracked(repository, repository.top) if repository else None)
        if isinstance(answer, Unanswered):
            unanswered = str(answer)
            answer = [os.fsencode(path) for path in pushed() if path.startswith(prefix)]
        else:
            answer = [os.fsencode(prefix) + path for path in answer]
        paths += answer
        nested += [f"{path}/" for path in _within(answer, ignored) if _is_submodule(walk, path)]
    return sorted(paths), unanswered


def _is_submodule(walk: _Walk, path: str) -> bool:
    """Whether a tracked path is a repository of its own, in an ignored folder."""
    return (
        (walk.root / path / ".git").exists()
        and not (walk.root / path).is_symlink()
        and _is_reachable(walk.root, path, walk.own, walk.kept, is_folder=True)
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


class _Walk:
    """What the rules take along, and (rule, path) of what they leave out."""

    def __init__(self, root: Path, repository: Repository | None, own: Rules) -> None:
        self.root = root
        self.own = own
        self.entries: list[LocalEntry] = []
        self.left_out: list[tuple[str, str]] = []
        self.kept = _own_folders(root)
        self.nested: list[str] = []  # folders that are repositories of their own, ending in "/"
        self._repository = repository
        self._any_case = False

    def run(self) -> None:
        """Read the folder; raises InvalidInput where something cannot be read."""
        root, rules, prefix = self.root, list[Rules](), ""
        if self._repository is not None:
            settings = rule_settings(self._repository)
            self._any_case = settings.any_case
            rules = rules_above(self._repository, root, settings)
            if root != self._repository.top:
                prefix = f"{root.relative_to(self._repository.top).as_posix()}/"
        if prefix and ignored_from_above(rules, prefix.rstrip("/")):
            rules = []  # the project itself is ignored there: those rules are not about its files
        pending = [("", rules)]
        while pending:
            folder, rules = pending.pop()
            children = _scan(f"{root}/{folder}")
            names = {child.name for child in children}
            if folder and _may_be_environment(folder, names) and _is_environment(root / folder):
                self.left_out.append((VENV_RULE, folder))
                continue
            if ".git" in names and folder:
                rules = [*rules, *self._nested_rules(folder, prefix)]
            if ".gitignore" in names:
                rules = [*rules, *rules_in(root / folder, prefix + folder, self._any_case)]
            if not children and folder:
                self.entries.append(LocalEntry(folder.rstrip("/"), "dir"))
            inner = self._take(children, folder, bytewise(prefix), rules[::-1])
            pending += [(path, rules) for path in inner]

    def _take(
        self,
        children: Iterable[os.DirEntry[str]],
        folder: str,
        before: str,
        deepest_first: Sequence[Rules],
    ) -> list[str]:
        """Take what a folder holds, or leave it out; returns the folders to go on with."""
        inner = []
        for child in children:
            name = child.name
            path = folder + name
            is_dir = child.is_dir(follow_symlinks=False)
            rule = OWN_RULE if path in self.kept else _never(child, is_dir)
            if rule is None:
                plain, last = bytewise(path), bytewise(name)
                decided = self.own.decide(plain, last, is_dir)
                rule = EXCLUDE_RULE if decided else None
                if decided is None:
                    rule = ignored_by(deepest_first, before + plain, last, is_dir)
            if rule is not None:
                if is_dir and rule != GIT_RULE and _is_environment(Path(child.path)):
                    rule = VENV_RULE
                self.left_out.append((rule, f"{path}/" if is_dir else path))
            elif is_dir:
                inner.append(f"{path}/")
            else:
                found = child.stat(follow_symlinks=False)
                self.entries.append(entry_of(path, child.path, found))
        return inner

    def _nested_rules(self, folder: str, prefix: str) -> list[Rules]:
        repository = repository_at(self.root / folder)
        if repository is None:
            return []
        self.nested.append(folder)
        return rules_of_nested(repository, prefix + folder, self._any_case)


def _own_folders(root: Path) -> set[str]:
    """vmctl's own folders where they lie in the project: their paths below its top."""
    top = root.resolve()
    places = {folder.resolve() for folder in list_own()}
    return {place.relative_to(top).as_posix() for place in places if place.is_relative_to(top)}


def _may_be_environment(folder: str, names: Container[str]) -> bool:
    """Whether it is worth a look: most folders hold nothing that says so."""
    return "pyvenv.cfg" in names or "conda-meta" in names or folder.endswith("/envs/")


def _is_environment(folder: Path) -> bool:
    """Whether a folder is a virtual environment, of venv's or conda's, or holds those of pixi."""
    return (
        (folder / "pyvenv.cfg").is_file()
        or (folder / "conda-meta" / "history").is_file()
        or folder.parts[-2:] == (".pixi", "envs")
    )


def _may_come(root: Path, path: str, own: Rules, kept: Collection[str]) -> bool:
    """Whether a tracked file that a rule of git's leaves out is there, and nothing else does."""
    place = root / path
    return _is_reachable(root, path, own, kept) and (place.is_symlink() or place.is_file())


def _is_reachable(
    root: Path, path: str, own: Rules, kept: Collection[str], *, is_folder: bool = False
) -> bool:
    """Whether a path of git's index leads through folders that may be pushed."""
    if not {"", ".", ".."}.isdisjoint(path.split("/")):
        return False  # git wrote no such path into the index: somebody else did
    above = path
    while above:
        name = above.rpartition("/")[2]
        if own.decide(bytewise(above), bytewise(name), is_folder) or name == ".git":
            return False
        if above in kept:
            return False
        if is_folder and ((root / above).is_symlink() or _is_environment(root / above)):
            return False
        above, is_folder = above.rpartition("/")[0], True
    return True


def _entry_at(root: Path, path: str) -> LocalEntry:
    place = f"{root}/{path}"
    return entry_of(path, place, os.lstat(place))


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
