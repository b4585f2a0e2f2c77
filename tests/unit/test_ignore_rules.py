"""What is ignored is what git ignores: git itself is the judge."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from vmctl.workflows.sync.gitignore import Rules, bytewise, ignored_by
from vmctl.workflows.sync.selection import VENV_RULE, Selection, select

PIECES = st.sampled_from(
    ["*", "*", "**", "?", "/", "/", "**/", "/**", "a", "b", "B", "é", ".", " ", "-", "!", "\\",
     "[ab]", "[!a]", "[^b]", "[a-c]", "[c-a]", "[]a]", "[a\\-c]", "[\\]]", "[A-Z]", "[", "]",
     "[[:digit:]]", "[[:upper:]]", "[![:alpha:]]", "[[:none:]]", "[[:a]", "[a-", "\\a", "\\B",
     "\\*", "1", "#", "\t"]
)  # fmt: skip
PATTERN = st.lists(PIECES, min_size=1, max_size=7).map("".join)
LINE = st.tuples(st.sampled_from(["", "", "", "!", "\\"]), PATTERN).map("".join)
NAME = st.text("abBcé1.-*[] ", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
PATH = st.lists(NAME, min_size=1, max_size=4).map("/".join)  # of a file; folders are above it
# git up to 2.51 forgets what stands before such stars, later ones do not
UNSETTLED = re.compile(r"[^*/]\*\*+\\?/|[^*/]\*\*+$")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working tree, for questions about paths that need not exist."""
    folder = tmp_path_factory.mktemp("judge")
    run_git(folder, "init", "-q")
    return folder


def run_git(folder: Path, *words: str, given: bytes = b"") -> bytes:
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    done = subprocess.run(
        ["git", *words], cwd=folder, env=os.environ | quiet, input=given, capture_output=True,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    return done.stdout


def by_git(judge: Path, lines: bytes, paths: list[str], any_case: bool) -> set[str]:
    """Those that git ignores; a folder is asked about with a slash at its end."""
    (judge / ".gitignore").write_bytes(lines)
    asked = b"".join(os.fsencode(path) + b"\0" for path in paths)
    case = f"core.ignoreCase={any_case}".lower()
    words = ("-c", case, "check-ignore", "--no-index", "-z", "--stdin")
    return {os.fsdecode(name) for name in run_git(judge, *words, given=asked).split(b"\0") if name}


def by_vmctl(lines: bytes, paths: Iterable[str], any_case: bool) -> set[str]:
    text = lines.decode("ascii", "surrogateescape").split("\n")
    rules = [Rules("x", "", [line.removesuffix("\r") for line in text], any_case=any_case)]

    def is_ignored(path: str) -> bool:
        bare = path.rstrip("/")
        parts = bare.split("/")
        tops = ["/".join(parts[:end]) for end in range(1, len(parts) + 1)]
        return any(
            ignored_by(rules, bytewise(top), bytewise(top).rpartition("/")[2],
                       top != bare or path.endswith("/"))
            for top in tops
        )  # fmt: skip

    return {path for path in paths if is_ignored(path)}


@pytest.mark.parametrize("examples", [200, pytest.param(5000, marks=pytest.mark.exhaustive)])
def test_any_pattern_is_read_as_git_reads_it(judge: Path, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(st.lists(LINE, min_size=1, max_size=3), st.lists(PATH, min_size=8, max_size=20),
           st.booleans())  # fmt: skip
    def agree(lines: list[str], paths: list[str], any_case: bool) -> None:
        assume(not any(UNSETTLED.search(line) for line in lines))
        data = os.fsencode("\n".join(lines))
        assert by_vmctl(data, paths, any_case) == by_git(judge, data, paths, any_case)

    agree()


@pytest.mark.parametrize(
    ("line", "ignored", "taken"),
    [
        ("build-[z-a]/", [], ["build-a/", "build-m/"]),
        ("*.[[:digit:]]", ["x.1"], ["x.a", "x.d", "x.:"]),
        ("[\\]]", ["]"], ["\\", "[", "\\]"]),
        ("[a\\-c]", ["a", "-", "c"], ["b", "\\"]),
        ("***/foo", ["foo", "a/b/foo"], ["afoo"]),
        ("foo /", ["foo /"], ["foo/", "foo"]),
        ("trail\t", ["trail\t"], ["trail"]),
        ("[[:nothing:]]", [], ["n", ":"]),
        ("open[", [], ["open[", "open"]),
        ("[[a]b&&c--d||e]~~f", [], ["a", "ab"]),
        ("a\\", [], ["a", "a\\"]),
    ],
)
@pytest.mark.filterwarnings("error")
def test_odd_patterns_match_what_git_says(
    judge: Path, line: str, ignored: list[str], taken: list[str]
) -> None:
    paths = [*ignored, *taken]
    assert by_vmctl(line.encode(), paths, False) == set(ignored)
    assert by_git(judge, line.encode(), paths, False) == set(ignored)


@pytest.mark.parametrize(
    "pattern",
    ["*a" * 30 + "*b", "*" * 60 + "b", "x/" + "*a" * 20 + "*b/y", "**/a/" * 40 + "b",
     "?*" * 30 + "b", "[a]*" * 30 + "b", "**/*a*a*a*a/" * 12 + "b", "*[!b]" * 30 + "*b"],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_a_pattern_that_fits_nowhere_is_done_at_once(tmp_path: Path, pattern: str) -> None:
    """Told by its work, not by the clock: any of these took longer than the sun has left."""
    (tmp_path / ".gitignore").write_text(pattern)
    deep = tmp_path / "x" / "/".join(["a"] * 60)
    deep.mkdir(parents=True)
    (deep / ("a" * 200)).write_text("")
    (tmp_path / ("a" * 250)).write_text("")
    assert len(select(tmp_path).entries) == 3


# -- whole folders -------------------------------------------------------------------------------


def build(folder: Path, files: dict[str, str]) -> Path:
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def taken(selection: Selection) -> set[str]:
    assert not selection.unanswered
    return {entry.path for entry in selection.entries if not entry.path.endswith(".gitignore")}


def test_case_counts_as_the_repository_says(tmp_path: Path) -> None:
    here = build(tmp_path, {".gitignore": "*.LOG\nData/\n", "a.log": "", "data/x": "", "b": ""})
    run_git(here, "init", "-q")
    run_git(here, "config", "core.ignorecase", "false")
    assert taken(select(here)) == {"a.log", "b", "data/x"}
    run_git(here, "config", "core.ignorecase", "true")
    assert taken(select(here)) == {"b"}


@pytest.mark.parametrize("top", ["part", "vendor/part"], ids=["seen", "in an ignored folder"])
@pytest.mark.parametrize("listed", [True, False], ids=["submodule", "nested"])
def test_tracked_files_of_a_repository_inside_go_along(
    tmp_path: Path, top: str, listed: bool
) -> None:
    here = build(tmp_path / "outer", {".gitignore": "*.csv\nvendor/\n", "a.csv": "", "b": ""})
    files = {"kept.csv": "", "new.csv": "", "c": "", "mine": ""}
    inner = build(here / top, files)
    for folder in (here, inner):
        run_git(folder, "init", "-q")
    (inner / ".git" / "info" / "exclude").write_text("mine\n")
    run_git(inner, "add", "-f", "kept.csv", "c")
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    run_git(inner, *identity, "commit", "-q", "-m", "a")
    if listed:
        run_git(here, "add", "-f", top)
    if top == "part" or listed:
        assert taken(select(here)) == {"b", f"{top}/c", f"{top}/kept.csv"}
    else:
        assert taken(select(here)) == {"b"}


@pytest.mark.parametrize(
    ("mark", "left_out"),
    [
        ("env/pyvenv.cfg", "env/"),
        ("env/conda-meta/history", "env/"),
        (".pixi/envs/default/bin/python", ".pixi/envs/"),
        ("sub/.pixi/envs/default/bin/python", "sub/.pixi/envs/"),
    ],
)
def test_a_virtual_environment_stays(tmp_path: Path, mark: str, left_out: str) -> None:
    selection = select(build(tmp_path, {mark: "", "envs/data/x": "", "conda-meta/notes": ""}))
    assert taken(selection) == {"envs/data/x", "conda-meta/notes"}
    assert selection.left_out == ((VENV_RULE, left_out),)
