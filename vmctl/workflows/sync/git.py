"""The one place that starts git, and starts it so that no folder can tell it what to run.

A repository's configuration names programs (file system monitors, filters, ssh commands, hooks,
credential helpers …), and a folder that came from elsewhere brings its configuration along. So git
never runs by the configuration of the folder that it is asked about:

- a folder is a repository only by its `.git`; git itself is not left to look for one, and would
  take any folder for it that looks like the inside of a repository,
- what is tracked is read from the repository's index by a git whose own repository is an empty
  folder that vmctl made: no configuration, no objects, no hooks, no references,
- the repository's configuration is read by `git config --get-regexp` alone, which prints values.

An answer that does not come is `Unanswered`, never an empty answer.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from vmctl.domain.search_path import without_relative
from vmctl.files import atomic_write, find_program
from vmctl.folders import cache_dir

LIMIT_S = 10.0
NOT_SET = 1  # how `git config --get-regexp` ends where nothing has a value
LONGEST_LINK = 4096  # bytes of a `.git` file or a `commondir`
LARGEST_CONFIG = 1 << 20
SHARED_INDEX = re.compile(r"sharedindex\.[0-9a-f]{40,64}")
# belt and braces: what is read has none of these, and a git that reads more obeys them first
GUARDS = (
    "safe.bareRepository=explicit",
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.sshCommand=false",
    "core.pager=cat",
    "core.attributesFile=/dev/null",
    "core.untrackedCache=false",
    "credential.helper=",
    "submodule.recurse=false",
    "protocol.allow=never",
)


class Unanswered(Exception):
    """git gave no answer; the text says why, for the middle of a sentence."""


@dataclass(frozen=True, slots=True)
class Repository:
    """A working tree and where its `.git` leads."""

    top: Path  # of the working tree
    folder: Path  # what is this working tree's alone: the index
    common: Path  # what linked working trees share: the configuration, info/exclude

    @property
    def index(self) -> Path:
        """The list of what is tracked; it is absent before the first `git add`."""
        return self.folder / "index"

    @property
    def exclude(self) -> Path:
        """The repository's unshared ignore rules."""
        return self.common / "info" / "exclude"


def find_repository(root: Path) -> Repository | None:
    """The repository that holds a folder: the nearest `.git`, here or above."""
    found = map(repository_at, (root, *root.parents))
    return next((repository for repository in found if repository), None)


def repository_at(top: Path) -> Repository | None:
    """The repository whose working tree begins in this very folder."""
    place = top / ".git"
    if not place.exists():
        return None
    folder = place
    line = _line_of(place)  # in a linked working tree, and in a submodule
    if line.startswith("gitdir: "):
        folder = top / line.removeprefix("gitdir: ")
    common = folder / (_line_of(folder / "commondir") or ".")
    return Repository(top, folder, common)


class Question:
    """What git is asked about a repository; it works on the answer meanwhile."""

    def __init__(self, repository: Repository, folder: Path, *words: str) -> None:
        """`words` are git's command and its options, in a folder of the working tree.

        git sees the index and the working tree, and nothing else of the repository.
        """
        self._process: subprocess.Popen[bytes] | None = None
        self._trouble = ""
        try:
            ours = _empty_repository(repository)
            self._process = _start(
                [f"--git-dir={ours}", f"--work-tree={repository.top}", *words],
                folder,
                {
                    "GIT_INDEX_FILE": str(repository.index.absolute()),
                    "GIT_CONFIG_NOSYSTEM": "1",
                    "GIT_CONFIG_SYSTEM": os.devnull,
                    "GIT_CONFIG_GLOBAL": os.devnull,
                    "HOME": str(ours),  # a git that does not know GIT_CONFIG_GLOBAL finds nothing
                    "XDG_CONFIG_HOME": str(ours),
                },
            )
        except Unanswered as error:
            self._trouble = str(error)

    def answer(self) -> bytes:
        """What git prints; raises Unanswered."""
        if self._process is None:
            raise Unanswered(self._trouble)
        code, out, err = _end(self._process)
        if code != 0:
            raise Unanswered(f"git failed: {_last_line(err)}")
        return out


class Tracked:
    """What git tracks in a folder, asked while the folder is being read."""

    def __init__(self, repository: Repository, root: Path) -> None:
        self._question: Question | None = None
        self._trouble = ""
        if is_file(repository.index):
            self._question = Question(repository, root, "ls-files", "-z", "--cached")
        elif os.path.lexists(repository.index):
            self._trouble = "git's index is not a file"
        elif not os.path.lexists(repository.folder / "HEAD"):  # moved away, or not ours to read
            self._trouble = "the git repository here cannot be read"

    def paths(self) -> list[bytes]:
        """Paths below the folder, in the order of their bytes; raises Unanswered."""
        if self._trouble:
            raise Unanswered(self._trouble)
        if self._question is None:  # without an index nothing is tracked: that is an answer
            return []
        return [path for path in self._question.answer().split(b"\0") if path]


class RuleSettings(NamedTuple):
    """How ignore rules are read in a repository."""

    excludes: Path | None  # the user's rules for all repositories
    any_case: bool = False  # core.ignoreCase


def rule_settings(repository: Repository) -> RuleSettings:
    """core.excludesFile, or git's default for it, and core.ignoreCase.

    The file is None where it is switched off. The defaults also count where git is not there.
    """
    found: dict[str, str] = {}
    with contextlib.suppress(Unanswered):
        found = _settings(repository, r"^core\.(excludesfile|ignorecase)$", "--type=path")
    any_case = found.get("core.ignorecase", "false").lower() not in ("false", "no", "off", "0", "")
    excludes = found.get("core.excludesfile")
    if excludes is not None:
        return RuleSettings(repository.top / excludes if excludes else None, any_case)
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111
    return RuleSettings(Path(base, "git", "ignore"), any_case)


def _settings(repository: Repository, names: str, kind: str) -> dict[str, str]:
    """Values of the repository's and the user's configuration, the last of each name.

    A repository whose configuration cannot be read has the user's values.
    """
    trouble = Unanswered("git failed")
    for folder in (repository.folder, _empty_repository(repository)):
        words = [f"--git-dir={folder}", f"--work-tree={repository.top}"]
        code, out, err = _end(
            _start([*words, "config", kind, "-z", "--get-regexp", names], repository.top, {})
        )
        if code in (0, NOT_SET):
            lines = (os.fsdecode(line).partition("\n") for line in out.split(b"\0") if line)
            # a name without a value is a switch that is on
            return {name: value if equals else "true" for name, equals, value in lines}
        trouble = Unanswered(f"git failed: {_last_line(err)}")
    raise trouble


# -- starting it -------------------------------------------------------------------------------


def _start(words: list[str], folder: Path, more: dict[str, str]) -> subprocess.Popen[bytes]:
    """git with an environment that holds nothing but what is set here."""
    places = without_relative(os.environ.get("PATH", os.defpath))
    program = find_program("git", places)
    if program is None:
        raise Unanswered("git is not installed")
    kept = ("HOME", "XDG_CONFIG_HOME", "TMPDIR")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {
        "PATH": places,
        "LC_ALL": "C",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "false",
        "GIT_PAGER": "cat",
    }
    guards = [word for guard in GUARDS for word in ("-c", guard)]
    try:
        return subprocess.Popen(
            [program, "--no-pager", *guards, *words],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment | more,
        )
    except OSError as error:
        raise Unanswered(f"git did not start: {error.strerror}") from error


def _end(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """The exit code and both outputs; raises Unanswered where it takes too long."""
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired as error:
        process.kill()
        process.communicate()
        raise Unanswered(f"git took longer than {LIMIT_S:g} s") from error
    return process.returncode, out, err


def _empty_repository(repository: Repository) -> Path:
    """A repository that holds nothing, with hashes as long as the other's."""
    sha256 = _has_long_hashes(repository)
    ours = cache_dir() / ("git-sha256" if sha256 else "git")
    settings = "[core]\n\trepositoryformatversion = 1\n\tbare = false\n"
    settings += "[extensions]\n\tobjectFormat = sha256\n" if sha256 else ""
    try:
        for name in ("objects", "refs"):
            (ours / name).mkdir(parents=True, exist_ok=True)
        for name, text in (("config", settings), ("HEAD", "ref: refs/heads/none\n")):
            if not (ours / name).exists():
                atomic_write(ours / name, text)
    except OSError as error:
        raise Unanswered(f"{error.filename} cannot be used: {error.strerror}") from error
    with contextlib.suppress(OSError):
        # an index that is kept in two files names the other one by its hash
        for name in os.listdir(repository.folder):  # noqa: PTH208
            if SHARED_INDEX.fullmatch(name) and is_file(repository.folder / name):
                unfinished = ours / f".{name}.{os.getpid()}"
                unfinished.symlink_to((repository.folder / name).absolute())
                unfinished.replace(ours / name)
    return ours


def _has_long_hashes(repository: Repository) -> bool:
    """Whether the repository counts in SHA-256; its index cannot be read without knowing."""
    config = repository.common / "config"
    try:
        if not is_file(config) or config.stat().st_size > LARGEST_CONFIG:
            return False
        # a file of a few lines; only one that says so is parsed
        text = config.read_bytes().lower()
    except OSError:
        return False
    return re.search(rb"^\s*objectformat\s*=\s*\"?sha256", text, re.MULTILINE) is not None


def _line_of(file: Path) -> str:
    """The line in a small file; "" where there is none."""
    try:
        if not is_file(file):
            return ""
        with file.open("rb") as opened:
            return os.fsdecode(opened.read(LONGEST_LINK)).strip().partition("\n")[0]
    except (OSError, ValueError):
        return ""


def is_file(path: Path) -> bool:
    """A file, not a pipe or a device that would keep its reader waiting."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def _last_line(text: bytes) -> str:
    """git's last word, on one line, without anything that a terminal would obey."""
    from vmctl.domain.text import last_lines

    return (
        last_lines(text.decode("utf-8", "replace"), 1).removeprefix("fatal: ") or "no reason given"
    )
