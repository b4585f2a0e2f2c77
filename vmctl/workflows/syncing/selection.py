"""What of a folder a push takes: git's ignore rules, vmctl.toml's, and what never travels."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from vmctl.domain.errors import InvalidInput
from vmctl.workflows.syncing.tracked import Tracked, users_excludes

GIT_RULE = ".git"
VENV_RULE = "virtual environment"
SPECIAL_RULE = "neither file, folder nor link"
ABOVE = "ps_d"  # pathspec's name for a match of a folder above the path
# git matches bytes, not letters: "?" is half of an "é"
BYTES = ("ascii", "surrogateescape")
NAMED = re.compile(r"\(\?P<\w+>")
SIMPLE = re.compile(r"(!?)(\*?)([A-Za-z0-9_.-]+)(/?)", re.ASCII)
PART_RULE = "unfinished fetch"
USERS_RULE = "git's core.excludesFile"
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
    """One line of a file of patterns: a plain name, `*` and a suffix, or what pathspec reads."""

    ignores: bool  # False for a line that begins with "!"
    folders_only: bool
    name: str = ""
    suffix: str = ""
    regex: re.Pattern[str] | None = None
    anywhere: bool = True  # no slash in it: about a name, in whatever folder

    def matches(self, path: str, name: str, is_folder: bool) -> bool:
        """Whether it is about this very path; what lies above was asked on the way down."""
        if self.folders_only and not is_folder:
            return False
        if self.regex is None:
            return name == self.name if self.name else name.endswith(self.suffix)
        found = self.regex.match(path)
        return found is not None and found.groupdict().get(ABOVE) is None


class _Rules:
    """One file of patterns: they are matched against paths below `prefix`."""

    def __init__(self, name: str, prefix: str, patterns: Sequence[_Pattern]) -> None:
        self.name = name
        self.prefix = _bytewise(prefix)  # relative to the repository's top, "" or ending in "/"
        self._skip = len(self.prefix)
        self._patterns = patterns[::-1]
        # most paths match nothing: these questions find that out
        self._names = {pattern.name for pattern in patterns if pattern.name}
        self._suffixes = tuple(pattern.suffix for pattern in patterns if pattern.suffix)
        regexes = [pattern for pattern in patterns if pattern.regex is not None]
        self._by_name = _any_of(pattern for pattern in regexes if pattern.anywhere)
        self._by_path = _any_of(pattern for pattern in regexes if not pattern.anywhere)

    def decide(self, path: str, name: str, is_folder: bool) -> bool | None:
        """True leaves the path out, False takes it along; the last matching line decides.

        `path` is below the prefix, `name` its last part, both as `_bytewise` writes them.
        """
        if (
            name not in self._names
            and not name.endswith(self._suffixes)
            and (self._by_name is None or self._by_name.match(name) is None)
            and (self._by_path is None or self._by_path.match(path, self._skip) is None)
        ):
            return None
        relative = path[self._skip :]
        for pattern in self._patterns:
            if pattern.matches(relative, name, is_folder):
                return pattern.ignores
        return None


def _any_of(patterns: Iterable[_Pattern]) -> re.Pattern[str] | None:
    """One regular expression that matches what any of them does, and perhaps more."""
    sources = [pattern.regex.pattern for pattern in patterns if pattern.regex is not None]
    # a caret would not match where the path begins below the prefix
    parts = [f"(?:{NAMED.sub('(?:', source.removeprefix('^'))})" for source in sources]
    return re.compile("|".join(parts), re.DOTALL) if parts else None


def select(root: Path, exclude: Sequence[str] = ()) -> Selection:
    """Walk a project folder; raises InvalidInput for a folder that cannot be read.

    A pattern of `exclude` decides last: `!name` takes along what .gitignore leaves out.
    """
    top, is_repository = _repository(root)
    own = _Rules(EXCLUDE_RULE, "", _patterns(map(_bytewise, exclude)))
    tracked = Tracked(root) if is_repository else None
    try:
        entries, left_out = _walk(root, top, is_repository, own)
    finally:
        paths = tracked.paths() if tracked else []
    for path in paths if left_out else ():
        if _may_come(root, path, own, left_out):
            entries.append(entry_of(path, f"{root}/{path}", os.lstat(f"{root}/{path}")))
            left_out = [found for found in left_out if found[1] != path]
    return Selection(tuple(sorted(entries, key=attrgetter("path"))), tuple(left_out))


def _walk(
    root: Path, top: Path, is_repository: bool, own: _Rules
) -> tuple[list[LocalEntry], list[tuple[str, str]]]:
    """What the rules take along, and (rule, path) of what they leave out."""
    prefix = "" if top == root else f"{root.relative_to(top).as_posix()}/"
    rules = _rules_above(top, root, is_repository)
    if prefix and _ignored_from_above(rules, prefix.rstrip("/")):
        rules = []  # the project itself is ignored there: those rules are not about its files
    entries: list[LocalEntry] = []
    left_out: list[tuple[str, str]] = []
    base, before = f"{root}/", _bytewise(prefix)
    pending = [("", rules)]
    while pending:
        folder, rules = pending.pop()
        children = _scan(base + folder)
        names = {child.name for child in children}
        if "pyvenv.cfg" in names and folder and Path(base, folder, "pyvenv.cfg").is_file():
            left_out.append((VENV_RULE, folder))
            continue
        if ".gitignore" in names:
            rules = [*rules, *_rules_in(Path(base + folder), prefix + folder)]
        deepest_first = rules[::-1]
        for child in children:
            name = child.name
            path = folder + name
            is_dir = child.is_dir(follow_symlinks=False)
            rule = _never(child, is_dir)
            if rule is None:
                plain, last = _bytewise(path), _bytewise(name)
                decided = own.decide(plain, last, is_dir)
                rule = EXCLUDE_RULE if decided else None
                if decided is None:
                    rule = _ignored_by(deepest_first, before + plain, last, is_dir)
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


def _may_come(root: Path, path: str, own: _Rules, left_out: Sequence[tuple[str, str]]) -> bool:
    """Whether a tracked file was left out by a rule of git's alone, and is there."""
    rules = [rule for rule, found in left_out if found == path or path.startswith(found)]
    if not rules or not rules[0].endswith((".gitignore", "/info/exclude", USERS_RULE)):
        return False
    above = path
    is_folder = False
    while above:
        name = above.rpartition("/")[2]
        if own.decide(_bytewise(above), _bytewise(name), is_folder) or name == ".git":
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
    if name.endswith(".vmctl-part") and name.startswith("."):
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
    if is_repository:
        for file, name in ((_users_file(top), USERS_RULE), (_info(top), ".git/info/exclude")):
            if file is not None and file.is_file():
                rules += _rules_of(file, name, "")
    folder = top
    for part in root.relative_to(top).parts:
        relative = folder.relative_to(top).as_posix()
        rules += _rules_in(folder, "" if relative == "." else f"{relative}/")
        folder = folder / part
    return rules


def _users_file(top: Path) -> Path | None:
    """The user's own rules for all repositories: core.excludesFile, or git's default for it."""
    found = users_excludes(top)
    if found is not None:
        return Path(found) if found else None
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return Path(base, "git", "ignore")


def _info(top: Path) -> Path | None:
    """A repository's own unshared rules, which a linked worktree has from its main one."""
    git = top / ".git"
    try:
        if git.is_file():
            git = top / git.read_text(errors="surrogateescape").strip().removeprefix("gitdir: ")
            common = git / "commondir"
            if common.is_file():
                git = git / common.read_text(errors="surrogateescape").strip()
    except OSError:
        return None
    return git / "info" / "exclude"


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
    return tuple(pattern for line in lines for pattern in _read(_trimmed(line)))


def _read(line: str) -> Iterator[_Pattern]:
    """The pattern of a line; none for an empty one, a comment, and what means nothing to git."""
    if not line or line.startswith("#"):
        return
    simple = SIMPLE.fullmatch(line)
    if simple is not None:  # nearly every line, and pathspec takes long to load
        negated, star, name, slash = simple.groups()
        yield _Pattern(
            not negated, bool(slash), name="" if star else name, suffix=name if star else ""
        )
        return
    from pathspec import GitIgnoreSpec

    bare = line.removesuffix("/")
    try:
        compiled = list(GitIgnoreSpec.from_lines([bare]).patterns)
    except ValueError:  # like git: a pattern that means nothing matches nothing
        return
    for found in compiled:
        if found.include is not None and found.regex is not None:
            source = found.regex.pattern
            if source.endswith("|$)"):  # a dollar sign lets a line feed follow
                source = source.removesuffix("$)") + r"\Z)"
            yield _Pattern(
                bool(found.include),
                bare != line,
                regex=re.compile(source, re.DOTALL),
                anywhere="/" not in bare,
            )


def _trimmed(line: str) -> str:
    """Without the spaces at its end that no backslash holds."""
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return f"{bare} " if backslashes % 2 and bare != line else bare


def _bytewise(text: str) -> str:
    return text if text.isascii() else os.fsencode(text).decode(*BYTES)


def _ignored_by(
    deepest_first: Sequence[_Rules], path: str, name: str, is_folder: bool
) -> str | None:
    """The file whose rule leaves a path out; the deepest file that says anything decides."""
    for rules in deepest_first:
        decided = rules.decide(path, name, is_folder)
        if decided is not None:
            return rules.name if decided else None
    return None


def _ignored_from_above(rules: Sequence[_Rules], path: str) -> bool:
    plain = _bytewise(path)
    told = [one for one in rules if plain.startswith(one.prefix)]
    return _ignored_by(told[::-1], plain, plain.rpartition("/")[2], True) is not None
