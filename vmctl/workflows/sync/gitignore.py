"""Git's ignore rules: which of them reach a folder, and what they say of a path."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from vmctl.domain.errors import InvalidInput
from vmctl.domain.sync import wildcards
from vmctl.workflows.sync.git import Repository, RuleSettings, is_file

# git matches bytes, not letters: "?" is half of an "é"
BYTES = ("ascii", "surrogateescape")
SIMPLE = re.compile(r"(!?)(\*?)([A-Za-z0-9_.-]+)(/?)", re.ASCII)
USERS_RULE = "git's core.excludesFile"


class _Pattern(NamedTuple):
    """One line of a file of patterns: a plain name, `*` and a suffix, or anything else."""

    ignores: bool  # False for a line that begins with "!"
    folders_only: bool
    name: str = ""
    suffix: str = ""
    regex: re.Pattern[str] | None = None
    anywhere: bool = True  # no slash in it: about a name, in whatever folder

    def matches(self, path: str, name: str, is_folder: bool) -> bool:
        """Whether it is about this very path; the folders above were asked before."""
        if self.folders_only and not is_folder:
            return False
        if self.regex is None:
            return name == self.name if self.name else name.endswith(self.suffix)
        return self.regex.match(name if self.anywhere else path) is not None


class Rules:
    """The lines of one file, as `bytewise` writes them, about the paths below `prefix`."""

    def __init__(
        self, name: str, prefix: str, lines: Iterable[str], *, any_case: bool = False
    ) -> None:
        read = (_read(_trimmed(line), any_case) for line in lines)
        patterns = [pattern for pattern in read if pattern is not None]
        self.name = name
        self.prefix = bytewise(prefix)  # relative to the repository's top, "" or ending in "/"
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

        `path` is below the prefix, `name` its last part, both as `bytewise` writes them.
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
    """One regular expression that matches what any of them does."""
    sources = [pattern.regex.pattern for pattern in patterns if pattern.regex is not None]
    return re.compile("|".join(sources), re.DOTALL) if sources else None


def rules_above(repository: Repository, root: Path, settings: RuleSettings) -> list[Rules]:
    """The rules that reach the project from outside it, the weakest first."""
    rules = []
    any_case = settings.any_case
    for file, name in (
        (settings.excludes, USERS_RULE),
        (repository.exclude, ".git/info/exclude"),
    ):
        if file is not None and is_file(file):
            rules += _rules_of(file, name, "", any_case)
    folder = top = repository.top
    for part in root.relative_to(top).parts:
        relative = folder.relative_to(top).as_posix()
        rules += rules_in(folder, "" if relative == "." else f"{relative}/", any_case)
        folder = folder / part
    return rules


def rules_of_nested(repository: Repository, prefix: str, any_case: bool) -> list[Rules]:
    """The unshared rules of a repository inside the project."""
    if not is_file(repository.exclude):
        return []
    return _rules_of(repository.exclude, f"{prefix}.git/info/exclude", prefix, any_case)


def rules_in(folder: Path, prefix: str, any_case: bool) -> list[Rules]:
    """What the folder's own .gitignore says; `prefix` is the folder's path below the top."""
    file = folder / ".gitignore"
    # git reads no .gitignore through a link
    if not file.is_file() or file.is_symlink():
        return []
    return _rules_of(file, f"{prefix}.gitignore", prefix, any_case)


def _rules_of(file: Path, name: str, prefix: str, any_case: bool) -> list[Rules]:
    try:
        text = file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(*BYTES)
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}.") from error
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    return [Rules(name, prefix, lines, any_case=any_case)]


def _read(line: str, any_case: bool) -> _Pattern | None:
    """The pattern of a line; none for an empty one, a comment, and what matches nothing."""
    if not line or line.startswith("#"):
        return None
    simple = SIMPLE.fullmatch(line)
    if simple is not None and not any_case:  # nearly every line
        negated, star, name, slash = simple.groups()
        return _Pattern(
            not negated, bool(slash), name="" if star else name, suffix=name if star else ""
        )
    pattern = line.removeprefix("!")
    bare = pattern.removesuffix("/")
    anywhere = "/" not in bare
    if anywhere:
        regex = wildcards.compile_name(bare, any_case=any_case)
    else:
        regex = wildcards.compile_path(bare.removeprefix("/"), any_case=any_case)
    if regex is None:
        return None
    return _Pattern(pattern == line, bare != pattern, regex=regex, anywhere=anywhere)


def _trimmed(line: str) -> str:
    """Without the spaces at its end that no backslash holds."""
    bare = line.rstrip(" ")
    backslashes = len(bare) - len(bare.rstrip("\\"))
    return f"{bare} " if backslashes % 2 and bare != line else bare


def bytewise(text: str) -> str:
    """A path or a pattern with one letter for each of its bytes."""
    return text if text.isascii() else os.fsencode(text).decode(*BYTES)


def ignored_by(deepest_first: Sequence[Rules], path: str, name: str, is_folder: bool) -> str | None:
    """The file whose rule leaves a path out; the deepest file that says anything decides."""
    for rules in deepest_first:
        decided = rules.decide(path, name, is_folder)
        if decided is not None:
            return rules.name if decided else None
    return None


def ignored_from_above(rules: Sequence[Rules], path: str) -> bool:
    """Whether a folder is left out by the rules of the folders that hold it."""
    plain = bytewise(path)
    above = [one for one in rules if plain.startswith(one.prefix)]
    return ignored_by(above[::-1], plain, plain.rpartition("/")[2], True) is not None
