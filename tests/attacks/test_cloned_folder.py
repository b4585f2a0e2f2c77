"""A folder that came from elsewhere: nothing in it runs a program here or takes what is private."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from tests.harness.laptop import BASE, Laptop, project
from vmctl.workflows.syncing import git
from vmctl.workflows.syncing.selection import Selection, select

# -- git's configuration names programs -------------------------------------------------------

# {trap} is a program that leaves a mark; {here} is the folder
TRAPS = {
    "file system monitor": """
[core]
 fsmonitor = {trap}
""",
    "file system monitor, second version": """
[core]
 fsmonitor = {trap}
 fsmonitorHookVersion = 2
 untrackedCache = true
[feature]
 manyFiles = true
[index]
 threads = 1
""",
    "ssh command of a lazy fetch": """
[core]
 sshCommand = {trap}
[remote "origin"]
 url = ssh://x/y
""",
    "upload-pack of a lazy fetch": """
[remote "origin"]
 url = {here}
 uploadpack = {trap}
""",
    "remote helper of a lazy fetch": """
[remote "origin"]
 url = "ext::{trap}"
[protocol "ext"]
 allow = always
""",
    "remote.vcs of a lazy fetch": """
[remote "origin"]
 url = x
 vcs = ext
[protocol]
 allow = always
""",
    "proxy of a lazy fetch": """
[core]
 gitProxy = {trap}
[remote "origin"]
 url = git://x/y
""",
    "credential helper of a lazy fetch": """
[credential]
 helper = "!{trap}"
[core]
 askPass = {trap}
[remote "origin"]
 url = http://user@127.0.0.1:9/
""",
    "url rewritten": """
[url "ext::{trap} "]
 insteadOf = https://
[remote "origin"]
 url = https://x
[protocol]
 allow = always
""",
    "alternate references": """
[core]
 alternateRefsCommand = {trap}
""",
    "filters": """
[filter "f"]
 clean = {trap}
 smudge = {trap}
 process = {trap}
 required = true
""",
    "diff and merge drivers": """
[diff]
 external = {trap}
[diff "f"]
 textconv = {trap}
 command = {trap}
[merge "f"]
 driver = {trap}
[interactive]
 diffFilter = {trap}
""",
    "attributes file": """
[core]
 attributesFile = {here}/attributes
[filter "f"]
 clean = {trap}
""",
    "aliases": """
[alias]
 ls-files = "!{trap}"
 config = "!{trap}"
 rev-parse = "!{trap}"
""",
    "pagers": """
[core]
 pager = {trap}
[pager]
 ls-files = {trap}
 config = {trap}
""",
    "editors": """
[core]
 editor = {trap}
[sequence]
 editor = {trap}
""",
    "hooks": """
[core]
 hooksPath = {here}/hooks
""",
    "signatures": """
[gpg]
 program = {trap}
[commit]
 gpgSign = true
[gpg "ssh"]
 defaultKeyCommand = {trap}
""",
    "include": """
[include]
 path = {here}/included
""",
    "conditional include": """
[includeIf "gitdir:**"]
 path = {here}/included
[includeIf "onbranch:**"]
 path = {here}/included
""",
    "configuration of a working tree": """
[extensions]
 worktreeConfig = true
""",
    "working tree elsewhere": """
[core]
 worktree = {here}
 fsmonitor = {trap}
""",
    "submodules": """
[submodule]
 recurse = true
[submodule "nested"]
 update = "!{trap}"
""",
    "pack objects": """
[uploadpack]
 packObjectsHook = {trap}
""",
    "traces": """
[trace2]
 eventTarget = {mark}
 normalTarget = {mark}
""",
    "background work": """
[maintenance]
 auto = true
[gc]
 auto = 1
 recentObjectsHook = {trap}
""",
}
PROMISOR = (
    "[core]\n\trepositoryformatversion = 1\n\tbare = false\n"
    '[extensions]\n\tpartialClone = origin\n[remote "origin"]\n\tpromisor = true\n'
)
FORMS = ("ordinary", "bare", "bare in a clone", "above", "linked")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The inside of a repository whose index names objects that are not there."""
    made = tmp_path_factory.mktemp("template")
    missing = "1234567890123456789012345678901234567890"
    run_git(made, "init", "-q", "-b", "main")
    names = (
        ".gitignore",
        "train.py",
        "ignored.csv",
        ".gitattributes",
        "deep/.gitignore",
        "train/.gitignore",
    )
    for name in names:
        run_git(made, "update-index", "--add", "--cacheinfo", f"100644,{missing},{name}")
        if name.endswith(".gitignore"):
            run_git(made, "update-index", "--skip-worktree", name)
    run_git(made, "update-index", "--add", "--cacheinfo", f"160000,{missing},nested")
    return made / ".git"


def run_git(folder: Path, *words: str) -> None:
    environ = {"HOME": str(folder), "PATH": os.environ["PATH"], "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(["git", *words], cwd=folder, env=environ, check=True)


def fill(place: Path, template: Path, config: str, here: Path, mark: Path) -> None:
    """The inside of a hostile repository in a folder, whose programs leave a mark."""
    shutil.copytree(template, place, dirs_exist_ok=True)
    trap = here.parent / "trap"
    trap.write_text(f"#!/bin/sh\ntouch '{mark}'\n")
    trap.chmod(0o755)
    said = {"trap": trap, "here": here, "mark": mark}
    # of a folder that is a repository by itself, the working tree is said to be this very folder
    itself = "[core]\n\tworktree = .\n" if place == here else ""
    (place / "config").write_text(PROMISOR + itself + config.format(**said))
    (place / "config.worktree").write_text(f"[core]\n\tfsmonitor = {trap}\n\tsshCommand = {trap}\n")
    for folder in (place / "hooks", here / "hooks"):
        folder.mkdir(exist_ok=True)
        for hook in ("post-index-change", "fsmonitor-watchman", "query-watchman", "post-checkout"):
            shutil.copy(trap, folder / hook)
    (here / "included").write_text(f"[core]\n\tfsmonitor = {trap}\n\tsshCommand = {trap}\n")
    (here / "attributes").write_text("* filter=f diff=f merge=f\n")


def hostile(base: Path, template: Path, form: str, config: str) -> tuple[Path, Path]:
    """A project folder in one of the forms, and the mark that a program would leave."""
    here, mark = base / "train", base / "it-ran"
    files = {"train.py": "", "ignored.csv": "", "nested/x": "", "deep/y.csv": "", "kept.txt": ""}
    project(here, "", files)
    (here / ".gitattributes").write_text("* filter=f diff=f merge=f\n")
    (here / ".git").mkdir() if form == "ordinary" else None
    place = {
        "ordinary": here / ".git",
        "bare": here,
        "bare in a clone": here,
        "above": base / ".git",
        "linked": here / "hidden",
    }[form]
    fill(place, template, config, here, mark)
    if form == "linked":
        (here / ".git").write_text("gitdir: hidden\n")
    if form == "bare in a clone":
        run_git(base, "init", "-q")
    fill(here / "nested" / ".git", template, config, here, mark)
    # where a folder has none of its own, git looks into the index, and fetches what that names
    ((base if form == "above" else here) / ".gitignore").write_text("*.csv\n")
    return here, mark


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("trap", TRAPS)
def test_no_program_of_a_repository_runs(
    tmp_path: Path, template: Path, trap: str, form: str
) -> None:
    here, mark = hostile(tmp_path, template, form, TRAPS[trap])
    selection = select(here)
    assert not mark.exists()
    assert not selection.unanswered
    tracked = "ignored.csv" in {entry.path for entry in selection.entries}
    assert tracked == (form in ("ordinary", "linked")), "only its own index is git's"


@pytest.mark.parametrize("form", ["ordinary", "bare", "above"])
def test_the_traps_are_real(tmp_path: Path, template: Path, form: str) -> None:
    """git left to itself, as anybody starts it in that folder, runs such a program."""
    here, mark = hostile(tmp_path, template, form, TRAPS["ssh command of a lazy fetch"])
    words = ["git", "ls-files", "--cached", "--ignored", "--exclude-standard"]
    if form == "bare":
        (here / ".gitignore").unlink()
    environ = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
    subprocess.run(words, cwd=here, env=environ, capture_output=True, check=False)
    assert mark.exists()


def test_no_program_of_a_repository_runs_at_push_dry_run(
    laptop: Laptop, shared_machine: Path, tmp_path: Path, template: Path
) -> None:
    merged = "".join(TRAPS.values())
    for form in FORMS:
        here, mark = hostile(tmp_path / form, template, form, merged)
        (here / "vmctl.toml").write_text(BASE)
        laptop("--name", shared_machine.name, "push", "--dry-run", cwd=here)
        laptop("--name", "not-there", "push", "--dry-run", cwd=here, code=3)
        assert not mark.exists(), form


def test_git_is_told_nothing_by_the_environment_and_all_by_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path / "train", "", {"a.csv": "", ".gitignore": "*.csv\n"})
    run_git(tmp_path / "train", "init", "-q")
    run_git(tmp_path / "train", "add", "-f", "a.csv")
    log = tmp_path / "log"
    real = shutil.which("git")
    spy = tmp_path / "bin" / "git"
    spy.parent.mkdir()
    spy.write_text(f'#!/bin/sh\necho "$@" >>{log}\nenv >>{log}\nexec {real} "$@"\n')
    spy.chmod(0o755)
    monkeypatch.setenv("PATH", f"{spy.parent}:{os.environ['PATH']}")
    for name, value in {
        "GIT_DIR": "/nowhere", "GIT_WORK_TREE": "/", "GIT_INDEX_FILE": "/nowhere/index",
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": "/nowhere/hostile", "GIT_CONFIG_PARAMETERS": "'core.pager=hostile'",
        "GIT_SSH_COMMAND": "hostile", "GIT_EXEC_PATH": "/nowhere/hostile",
        "GIT_TRACE2_EVENT": str(tmp_path / "trace"), "LD_PRELOAD": "",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert "a.csv" in taken(select(tmp_path / "train"))
    lines = log.read_text().splitlines()
    assert "hostile" not in log.read_text()
    assert not (tmp_path / "trace").exists()
    calls = [line for line in lines if line.startswith("--no-pager ")]
    assert len(calls) == 2
    for call in calls:
        assert " --git-dir=" in call
        assert f" --work-tree={tmp_path / 'train'} " in call
        for guard in git.GUARDS:
            assert f"-c {guard} " in call
    for name in ("GIT_NO_LAZY_FETCH=1", "GIT_ALLOW_PROTOCOL=none", "GIT_TERMINAL_PROMPT=0",
                 "GIT_OPTIONAL_LOCKS=0"):  # fmt: skip
        assert lines.count(name) == 2


def test_a_program_called_git_in_the_folder_is_not_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = project(tmp_path / "train", "", {"a.csv": "", ".gitignore": "*.csv\n"})
    run_git(here, "init", "-q")
    run_git(here, "add", "-f", "a.csv")
    (here / "git").write_text(f"#!/bin/sh\ntouch {tmp_path / 'it-ran'}\n")
    (here / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f".::{os.environ['PATH']}")
    monkeypatch.chdir(here)
    assert "a.csv" in taken(select(here))
    assert not (tmp_path / "it-ran").exists()


def test_an_index_names_nothing_outside_the_folder(tmp_path: Path) -> None:
    here = project(tmp_path / "train", "", {"data/x": "", ".gitignore": "data/\n"})
    (tmp_path / "private").write_text("key")
    run_git(here, "init", "-q")
    names = ["data/../../private", "data/./x", "data//x", "data/x"]
    body = b"DIRC" + struct.pack(">II", 2, len(names))
    for name in sorted(names):
        entry = struct.pack(">10I20sH", *[0] * 6, 0o100644, 0, 0, 0, b"\1" * 20, len(name))
        entry += name.encode()
        body += entry + b"\0" * (8 - len(entry) % 8)
    (here / ".git" / "index").write_bytes(body + hashlib.sha1(body).digest())
    selection = select(here)
    assert taken(selection) == {".gitignore", "vmctl.toml", "data/x"}
    assert not selection.unanswered


# -- an answer that does not come is no empty answer ----------------------------------------


@pytest.mark.parametrize("trouble", ["no git", "git hangs", "broken index", "pipe", "tomorrow's"])
def test_what_git_does_not_say_is_kept_as_it_was_pushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    files = {"kept.csv": "", "new.csv": "", "b": "", ".gitignore": "*.csv\n"}
    here = project(tmp_path / "train", "", files)
    run_git(here, "init", "-q")
    run_git(here, "add", "-f", "kept.csv")
    index = here / ".git" / "index"
    if trouble == "no git":
        monkeypatch.setenv("PATH", "/nowhere")
    elif trouble == "git hangs":
        (tmp_path / "git").write_text("#!/bin/sh\nexec sleep 60\n")
        (tmp_path / "git").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        monkeypatch.setattr(git, "LIMIT_S", 0.1)
    elif trouble == "broken index":
        index.write_bytes(b"DIRC broken")
    elif trouble == "pipe":
        index.unlink()
        os.mkfifo(index)
    else:
        index.write_bytes(b"DIRC" + struct.pack(">II", 99, 0) + b"\0" * 20)
    selection = select(here, pushed=lambda: ["kept.csv", "gone.csv", "b"])
    assert "kept.csv" in taken(selection)
    assert "new.csv" not in taken(selection)
    assert "git" in selection.unanswered
    project(here, "", {".gitignore": ""})
    assert not select(here).unanswered, "nothing is ignored: the answer does not matter"


def test_without_an_index_nothing_is_tracked(tmp_path: Path) -> None:
    here = project(tmp_path / "train", "", {"a.csv": "", ".gitignore": "*.csv\n"})
    run_git(here, "init", "-q")
    selection = select(here, pushed=lambda: ["a.csv"])
    assert taken(selection) == {".gitignore", "vmctl.toml"}
    assert not selection.unanswered


@pytest.mark.parametrize(
    "more",
    [["--object-format=sha256"], ["-b", "main"]],
    ids=["long hashes", "an index in two files"],
)
def test_every_kind_of_index_is_read(tmp_path: Path, more: list[str]) -> None:
    files = {"a.csv": "1", "b.csv": "2", "c.csv": "", ".gitignore": "*.csv\n"}
    here = project(tmp_path / "train", "", files)
    run_git(here, "init", "-q", *more)
    run_git(here, "add", "-f", "a.csv")
    if "-b" in more:
        run_git(here, "update-index", "--split-index")
        assert list((here / ".git").glob("sharedindex.*"))
    run_git(here, "add", "-f", "b.csv")
    selection = select(here)
    assert not selection.unanswered
    assert taken(selection) == {"a.csv", "b.csv", ".gitignore", "vmctl.toml"}


def test_the_users_rules_for_some_repositories_count_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an honest configuration says goes on working, conditions included."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (home / ".gitconfig").write_text(f'[includeIf "gitdir:{tmp_path}/work/"]\n\tpath = work\n')
    (home / "work").write_text("[core]\n\texcludesFile = ~/private\n")
    (home / "private").write_text("*.me\n")
    here = project(tmp_path / "work" / "train", "", {"a.me": "", "b": ""})
    run_git(here, "init", "-q")
    assert taken(select(here)) == {"b", "vmctl.toml"}


def taken(selection: Selection) -> set[str]:
    return {entry.path for entry in selection.entries}
