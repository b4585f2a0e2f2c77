"""What of a folder a push takes: git's ignore rules, vmctl.toml's, and what never travels."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vmctl.domain.errors import InvalidInput

GIT_RULE = ".git"
VENV_RULE = "virtual environment"
SPECIAL_RULE = "neither file, folder nor link"
ABOVE = "ps_d"  # pathspec's name for a match of a folder above the path
# git matches bytes, not letters: "?" is half of an "é"
BYTES = ("ascii", "surrogateescape")
PART_RULE = "unfinished fetch"
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


@dataclass(frozen=True, slots=True)
class _Pattern:
    """One line of a file of patterns."""

    regex: re.Pattern[str]
    ignores: bool  # False for a line that begins with "!"
    folders_only: bool

    def matches(self, path: str, is_folder: bool) -> bool:
        """Whether it is about this very path; what lies above was asked on the way down."""
        if self.folders_only and not is_folder:
            return False
        found = self.regex.search(path)
        return found is not None and found.groupdict().get(ABOVE) is None


@dataclass(frozen=True, slots=True)
class _Rules:
    """One file of patterns: they are matched against paths below `prefix`."""

    name: str
    prefix: str  # relative to the top of the repository, "" or ending in "/"
    patterns: tuple[_Pattern, ...]

    def decide(self, path: str, is_folder: bool) -> bool | None:
        """True leaves the path out, False takes it along; the last matching line decides."""
        if not path.startswith(self.prefix):
            return None
        relative = _bytewise(path[len(self.prefix) :])
        for pattern in reversed(self.patterns):
            if pattern.matches(relative, is_folder):
                return pattern.ignores
        return None


def select(root: Path, exclude: Sequence[str] = ()) -> Selection:
    """Walk a project folder; raises InvalidInput for a folder that cannot be read.

    A pattern of `exclude` decides last: `!name` takes along what .gitignore leaves out.
    """
    top, above = _repository(root)
    prefix = "" if top == root else f"{root.relative_to(top).as_posix()}/"
    rules = _rules_above(top, root, above)
    if prefix and _ignored_by(rules, prefix.rstrip("/"), True) is not None:
        rules = []  # the project itself is ignored there: those rules are not about its files
    own = _Rules(EXCLUDE_RULE, "", _patterns(map(_bytewise, exclude)))
    entries: list[LocalEntry] = []
    left_out: list[tuple[str, str]] = []
    pending = [("", rules)]
    while pending:
        folder, rules = pending.pop()
        rules = [*rules, *_rules_in(root / folder, f"{prefix}{folder}")]
        children = _scan(root / folder)
        for child in children:
            path = folder + child.name
            rule = _never(child)
            is_dir = child.is_dir(follow_symlinks=False)
            if rule is None:
                decided = own.decide(path, is_dir)
                rule = EXCLUDE_RULE if decided else None
                if decided is None:
                    rule = _ignored_by(rules, f"{prefix}{path}", is_dir)
            if rule is not None:
                left_out.append((rule, f"{path}/" if is_dir else path))
            elif is_dir:
                pending.append((f"{path}/", rules))
            else:
                entries.append(_entry(child, path))
        if not children and folder:
            entries.append(LocalEntry(folder.rstrip("/"), "dir"))
    return Selection(tuple(sorted(entries, key=lambda entry: entry.path)), tuple(left_out))


def _never(child: os.DirEntry[str]) -> str | None:
    """What no setting takes along."""
    if child.name == ".git":
        return GIT_RULE
    if child.name.startswith(".") and child.name.endswith(".vmctl-part"):
        return PART_RULE
    if child.is_dir(follow_symlinks=False):
        return VENV_RULE if Path(child.path, "pyvenv.cfg").is_file() else None
    if child.is_symlink() or child.is_file(follow_symlinks=False):
        return None
    return SPECIAL_RULE


def _entry(child: os.DirEntry[str], path: str) -> LocalEntry:
    return entry_of(path, child.path, child.stat(follow_symlinks=False))


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


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda child: child.name)
    except OSError as error:
        raise InvalidInput(
            f"{folder} cannot be read: {error.strerror}.",
            hint="Make it readable, or leave it out: [push] exclude in vmctl.toml",
        ) from error


# -- rules -----------------------------------------------------------------------------------


def _repository(root: Path) -> tuple[Path, bool]:
    """The top of the git repository that holds the folder, or the folder itself."""
    for folder in (root, *root.parents):
        if (folder / ".git").exists():
            return folder, True
    return root, False


def _rules_above(top: Path, root: Path, is_repository: bool) -> list[_Rules]:
    """The rules that reach the project from outside it, the weakest first."""
    rules = []
    exclude = top / ".git" / "info" / "exclude"
    if is_repository and exclude.is_file():
        rules += _rules_of(exclude, ".git/info/exclude", "")
    folder = top
    for part in root.relative_to(top).parts:
        relative = folder.relative_to(top).as_posix()
        rules += _rules_in(folder, "" if relative == "." else f"{relative}/")
        folder = folder / part
    return rules


def _rules_in(folder: Path, prefix: str) -> list[_Rules]:
    file = folder / ".gitignore"
    # git reads no .gitignore through a link
    if not file.is_file() or file.is_symlink():
        return []
    return _rules_of(file, f"{prefix}.gitignore", prefix)


def _rules_of(file: Path, name: str, prefix: str) -> list[_Rules]:
    try:
        text = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(*BYTES)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [_Rules(name, prefix, _patterns(lines))]


def _patterns(lines: Iterable[str]) -> tuple[_Pattern, ...]:
    from pathspec import GitIgnoreSpec

    patterns: list[_Pattern] = []
    for line in lines:
        plain = _trimmed(line)
        bare = plain.removesuffix("/")
        try:
            compiled = list(GitIgnoreSpec.from_lines([bare]).patterns)
        except ValueError:  # like git: a pattern that means nothing matches nothing
            continue
        patterns += [
            _Pattern(found.regex, bool(found.include), bare != plain)
            for found in compiled
            if found.include is not None and found.regex is not None
        ]
    return tuple(patterns)


def _trimmed(line: str) -> str:
    """Without the spaces at its end that no backslash holds."""
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return f"{bare} " if backslashes % 2 and bare != line else bare


def _bytewise(text: str) -> str:
    return os.fsencode(text).decode(*BYTES)


def _ignored_by(rules: Sequence[_Rules], path: str, is_folder: bool) -> str | None:
    """The file whose rule leaves a path out; the deepest file that says anything decides."""
    for rule in reversed(rules):
        decided = rule.decide(path, is_folder)
        if decided is not None:
            return rule.name if decided else None
    return None
