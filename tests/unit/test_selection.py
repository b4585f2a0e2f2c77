"""What a push takes of a folder: the same as git would, less what never travels."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmctl.domain.errors import InvalidInput
from vmctl.folders import data_dir
from vmctl.workflows.sync.selection import Selection, select


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def names(selection: Selection) -> set[str]:
    return {entry.path for entry in selection.entries if entry.kind != "dir"}


def test_nested_rules_the_deepest_decides(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".gitignore": "*.bin\n/only-here\ndata/*\n!data/keep\n",
            "a.bin": "",
            "only-here": "",
            "sub/only-here": "",
            "sub/.gitignore": "!a.bin\n",
            "sub/a.bin": "",
            "data/x": "",
            "data/keep": "",
        },
    )
    assert names(select(tmp_path)) == {
        ".gitignore",
        "sub/only-here",
        "sub/.gitignore",
        "sub/a.bin",
        "data/keep",
    }


def test_nothing_comes_back_from_inside_an_ignored_folder(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "data/\n!data/keep\n", "data/keep": "", "b": ""})
    assert names(select(tmp_path)) == {".gitignore", "b"}


def test_vmctls_own_keys_never_travel_wherever_they_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, home = tmp_path / "p", tmp_path / "home"
    home.mkdir()
    write(root, dict.fromkeys(("a", "keep/data/id_ed25519", "keep/b", "emu/ca/key"), ""))
    write(root, {"~/x/data/id_ed25519": "", "~/x/c": ""})
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(root)
    monkeypatch.setenv("VMCTL_EMULATOR_HOME", "emu")
    monkeypatch.setenv("VMCTL_HOME", "keep")
    mine = {"a", "keep/b", "~/x/c", "~/x/data/id_ed25519"}
    assert names(select(root, ("!id_ed25519", "!/keep/", "!/emu/"))) == mine
    subprocess.run(["git", "init", "-q", "."], cwd=root, check=True)
    write(root, {".gitignore": "*\n"})
    subprocess.run(["git", "add", "-f", "a", "keep/data/id_ed25519"], cwd=root, check=True)
    assert names(select(root)) == {"a"}, "nor when git tracks them"
    (root / ".gitignore").unlink()
    monkeypatch.setenv("VMCTL_HOME", "~/x")
    assert data_dir() == home / "x" / "data", "a quoted ~ is the home folder"
    left = names(select(root))
    assert "~/x/c" in left
    assert "~/x/data/id_ed25519" not in left, "a key of when ~ was taken literally"


def test_a_home_of_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMCTL_HOME", "~no-such-user/x")
    with pytest.raises(InvalidInput, match="VMCTL_HOME names the home folder"):
        data_dir()


def test_exclude_decides_last(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*.csv\n", "a.csv": "", "small.csv": "", "x.pth": "", "b": ""})
    assert names(select(tmp_path, ("*.pth", "!small.csv"))) == {".gitignore", "small.csv", "b"}


def test_repository_around_the_project_has_its_say(tmp_path: Path) -> None:
    root = tmp_path / "part" / "project"
    write(tmp_path, {".gitignore": "*.tmp\n/part/project/top\n", ".git/info/exclude": "*.me\n"})
    write(tmp_path / "part", {".gitignore": "!b.tmp\n"})
    write(root, {"a.tmp": "", "b.tmp": "", "top": "", "deep/top": "", "x.me": "", "y": ""})
    assert names(select(root)) == {"b.tmp", "deep/top", "y"}


def test_ignored_project_is_pushed_all_the_same(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "scratch/\n", ".git/HEAD": ""})
    write(tmp_path / "scratch", {"a": "", "b.log": "", ".gitignore": "*.log\n"})
    assert names(select(tmp_path / "scratch")) == {"a", ".gitignore"}


def test_what_never_travels(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            ".git/config": "",
            "sub/.git": "gitdir: elsewhere",
            "env/pyvenv.cfg": "",
            "env/lib/x.py": "",
            ".model.bin.vmctl-part": "",
            "a": "",
        },
    )
    os.mkfifo(tmp_path / "pipe")
    selection = select(tmp_path, ("!.git", "!env"))
    assert names(selection) == {"a"}
    assert dict(selection.left_out) == {
        ".git": "sub/.git",
        "virtual environment": "env/",
        "unfinished fetch": ".model.bin.vmctl-part",
        "neither file, folder nor link": "pipe",
    }
    assert (".git", ".git/") in selection.left_out


def test_links_are_kept_as_links_and_never_entered(tmp_path: Path) -> None:
    write(tmp_path, {"real/file": "x"})
    (tmp_path / "to-folder").symlink_to("real")
    (tmp_path / "dangling").symlink_to("nowhere")
    found = {entry.path: (entry.kind, entry.link) for entry in select(tmp_path).entries}
    assert found == {
        "real/file": ("file", ""),
        "to-folder": ("link", "real"),
        "dangling": ("link", "nowhere"),
    }


def test_empty_folders_are_kept(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    assert [(entry.path, entry.kind) for entry in select(tmp_path).entries] == [("a/b", "dir")]


def test_pattern_without_meaning_matches_nothing(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "!\n# a comment\n\\#real\nx \n", "a": "", "#real": "", "x": ""})
    assert names(select(tmp_path)) == {".gitignore", "a"}


@pytest.mark.skipif(shutil.which("git") is None, reason="git knows what it tracks")
def test_what_git_tracks_comes_along_although_a_rule_ignores_it(tmp_path: Path) -> None:
    root = tmp_path / "top" / "project"
    write(
        root,
        {
            ".gitignore": "*.csv\nout/\n",
            "kept.csv": "",
            "other.csv": "",
            "out/kept": "",
            "out/other": "",
            "out/gone": "",
            "big.csv": "",
        },
    )
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "HOME": str(tmp_path)}
    for words in (
        ["init", "-q"],
        ["add", "-f", "project/kept.csv", "project/out/kept", "project/out/gone"],
        ["add", "-f", "project/big.csv"],
    ):
        subprocess.run(["git", *words], cwd=root.parent, check=True, env=environment)
    (root / "out/gone").unlink()
    selection = select(root, ("big.csv",))
    assert names(selection) == {".gitignore", "kept.csv", "out/kept"}
    assert sorted(path for _, path in selection.left_out) == ["big.csv", "other.csv", "out/"]


@pytest.fixture
def users_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose git configuration is the only one."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    for name in ("GIT_CONFIG_GLOBAL", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
@pytest.mark.parametrize("rules", [".config/git/ignore", "mine"], ids=["default", "configured"])
def test_the_users_own_rules_for_all_repositories(
    users_home: Path, tmp_path: Path, rules: str
) -> None:
    write(users_home, {rules: ".env\n*.swp\n"})
    if rules == "mine":
        write(users_home, {".gitconfig": "[core]\n\texcludesFile = ~/mine\n"})
    root = tmp_path / "project"
    write(root, {".env": "", "deep/.env": "", "a.swp": "", "kept.swp": "", "b": "", "t.swp": ""})
    write(root, {".gitignore": "!kept.swp\n"})
    assert ".env" in names(select(root)), "no repository: git's rules do not speak"
    for words in (["init", "-q"], ["add", "-f", "t.swp"]):
        subprocess.run(["git", *words], cwd=root, check=True)
    selection = select(root)
    assert names(selection) == {".gitignore", "kept.swp", "b", "t.swp"} == git_takes(root)
    assert ("git's core.excludesFile", ".env") in selection.left_out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
def test_the_users_own_rules_can_be_switched_off(users_home: Path, tmp_path: Path) -> None:
    write(users_home, {".config/git/ignore": "*\n", ".gitconfig": "[core]\n\texcludesFile =\n"})
    root = tmp_path / "project"
    write(root, {"a": ""})
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    assert names(select(root)) == {"a"} == git_takes(root)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
@pytest.mark.usefixtures("users_home")
def test_a_linked_worktree_has_the_unshared_rules_of_its_repository(tmp_path: Path) -> None:
    main, linked = tmp_path / "main", tmp_path / "linked"
    write(main, {"a": ""})
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (
        ["init", "-q"],
        ["add", "a"],
        [*identity, "commit", "-q", "-m", "a"],
        ["worktree", "add", "-q", str(linked)],
    ):
        subprocess.run(["git", *words], cwd=main, check=True)
    write(main, {".git/info/exclude": "*.me\n"})
    write(linked, {"x.me": "", "y": ""})
    assert names(select(linked)) == {"a", "y"} == git_takes(linked)


def git_takes(root: Path) -> set[str]:
    words = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    told = subprocess.run(words, cwd=root, check=True, capture_output=True).stdout
    return {os.fsdecode(name) for name in told.split(b"\0") if name}


# -- property: git itself is the judge -------------------------------------------------------

WORDS = st.sampled_from(["a", "b", "ab", "a.txt", "b.txt", "c d", "é", ".x"])
PATHS = st.lists(WORDS, min_size=1, max_size=3).map("/".join)
PATTERN = st.one_of(
    WORDS,
    PATHS,
    st.sampled_from(
        ["*", "*.txt", "a*", "**/b", "a/**", "a/**/b", "?", "[ab]", "[!a]", "/*", "/a"]
    ),
)
RULES = st.lists(
    st.tuples(st.sampled_from(["", "!"]), PATTERN, st.sampled_from(["", "/"])).map("".join),
    max_size=4,
)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    paths=st.sets(PATHS, min_size=1, max_size=10),
    rules=st.dictionaries(st.sampled_from(["", "a/", "a/b/", "ab/"]), RULES, max_size=3),
)
def test_the_same_as_git_says(
    tmp_path_factory: pytest.TempPathFactory, paths: set[str], rules: dict[str, list[str]]
) -> None:
    root = tmp_path_factory.mktemp("tree")
    for path in sorted(paths):
        place = root / path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("")
        except OSError:  # a file stands where this one wants a folder
            continue
    for folder, lines in rules.items():
        if (root / folder).is_dir():
            (root / folder / ".gitignore").write_text("\n".join(lines))
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(root)}
    environment = {**os.environ, **quiet}
    subprocess.run(["git", "init", "-q", str(root)], check=True, env=environment)
    told = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        env=environment,
        check=True,
        capture_output=True,
    ).stdout
    expected = {os.fsdecode(name) for name in told.split(b"\0") if name}
    assert names(select(root)) == expected
    shutil.rmtree(root)
