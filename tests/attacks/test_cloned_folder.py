"""A folder that came from elsewhere: nothing in it runs a program here or takes what is private."""

from __future__ import annotations

import hashlib
import os
import pwd
import random
import shlex
import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.credentials import logged_out
from tests.harness.laptop import BASE, Laptop, project
from tests.harness.terminal import at_terminal
from vmctl.__main__ import main
from vmctl.config import Project, load_project
from vmctl.domain.errors import InvalidInput
from vmctl.domain.gcloud import commands
from vmctl.domain.gcloud.steps import Place, Step
from vmctl.workflows.base.agreements import Agreements
from vmctl.workflows.sync import git, hash_cache
from vmctl.workflows.sync.push import _conflict
from vmctl.workflows.sync.scan import Scan, SecretsFound
from vmctl.workflows.sync.selection import Selection, select

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


def test_git_obeys_nothing_of_the_environment(
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


@pytest.mark.parametrize(
    "trouble", ["no git", "git hangs", "broken index", "pipe", "moved away", "tomorrow's"]
)
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
    elif trouble == "moved away":  # as a linked working tree whose repository is elsewhere now
        (here / ".git").rename(tmp_path / "elsewhere")
        (here / ".git").write_text(f"gitdir: {tmp_path / 'train.git'}\n")
    else:
        index.write_bytes(b"DIRC" + struct.pack(">II", 99, 0) + b"\0" * 20)
    selection = select(here, pushed=lambda: ["kept.csv", "gone.csv", "b"])
    assert "kept.csv" in taken(selection)
    assert "new.csv" not in taken(selection)
    assert "git" in selection.unanswered
    project(here, "", {".gitignore": ""})
    assert not select(here).unanswered, "nothing is ignored: the answer does not matter"


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives files away")
def test_a_folder_of_another_user_is_asked_about_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """git calls its ownership dubious, and the user's variables lead elsewhere: neither counts."""
    here = project(tmp_path / "train", "", {"kept.csv": "", "new.csv": "", ".gitignore": "*.csv"})
    run_git(here, "init", "-q")
    run_git(here, "add", "-f", "kept.csv")
    run_git(tmp_path, "init", "-q", "other")
    for place in (here, *here.rglob("*")):
        os.chown(place, 12345, 12345, follow_symlinks=False)
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.setenv(name, str(tmp_path / "other"))
    selection = select(here)
    assert taken(selection) == {"kept.csv", ".gitignore", "vmctl.toml"}
    assert not selection.unanswered


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


def test_a_submodule_has_its_own_index(tmp_path: Path) -> None:
    inner = project(tmp_path / "inner", "", {"a.csv": "", "b.csv": "", ".gitignore": "*.csv\n"})
    outer = project(tmp_path / "outer", "")
    identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "protocol.file.allow=always"]
    for folder in (inner, outer):
        run_git(folder, "init", "-q")
    run_git(inner, "add", "-f", "a.csv", ".gitignore", "vmctl.toml")
    run_git(inner, *identity, "commit", "-q", "-m", "a")
    run_git(outer, *identity, "submodule", "--quiet", "add", str(inner), "part")
    (outer / "part" / "b.csv").write_text("")
    assert (outer / "part" / ".git").is_file()
    selection = select(outer / "part")
    assert taken(selection) == {"a.csv", ".gitignore", "vmctl.toml"}
    assert not selection.unanswered


def test_the_users_rules_for_some_repositories_count_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an honest configuration says goes on working, conditions included."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    (home / ".gitconfig").write_text(f'[includeIf "gitdir:{tmp_path}/mine/"]\n\tpath = work\n')
    (home / "work").write_text("[core]\n\texcludesFile = ~/private\n")
    (home / "private").write_text("*.me\n")
    here = project(tmp_path / "mine" / "train", "", {"a.me": "", "b": ""})
    run_git(here, "init", "-q")
    assert taken(select(here)) == {"b", "vmctl.toml"}


def taken(selection: Selection) -> set[str]:
    return {entry.path for entry in selection.entries}


@pytest.mark.parametrize(
    "places", ["{bin}:", ":{bin}", "{bin}::/nowhere", ".:{bin}", "bin/../.:{bin}"]
)
def test_no_program_of_the_current_folder_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: str
) -> None:
    """gcloud is often not installed, and a PATH that ends in a colon is a common slip."""
    for name in ("gcloud", "git", "ssh", "rsync", "ssh-keygen"):
        (tmp_path / name).write_text(f"#!/bin/sh\ntouch {tmp_path / 'it-ran'}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    for name, value in logged_out(tmp_path / "home").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "x").mkdir()
    monkeypatch.setenv("PATH", places)
    assert main(["--cloud", "push", "--dry-run"]) != 0
    assert main(["--cloud", "doctor"]) != 0
    assert not (tmp_path / "it-ran").exists()


# -- settings that are another user's -------------------------------------------------------

ANOTHER = 54321  # a user's number that nobody here has


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], str]:
    """Makes a file another user's, and says whose it is then."""

    def give(path: Path) -> str:
        if os.geteuid() == 0:
            os.chown(path, ANOTHER, ANOTHER, follow_symlinks=False)
            return f"user {ANOTHER}"
        monkeypatch.setattr(os, "geteuid", lambda: ANOTHER)
        return pwd.getpwuid(os.getuid()).pw_name

    return give


@pytest.mark.parametrize("name", ["vmctl.toml", "pyproject.toml"])
@pytest.mark.parametrize("below", ["", "mine/deep"])
def test_settings_of_another_user_do_not_count(
    tmp_path: Path, give_away: Callable[[Path], str], name: str, below: str
) -> None:
    table = "vm" if name == "vmctl.toml" else "tool.vmctl.vm"
    (tmp_path / name).write_text(f'[{table}]\ngpu = "l4"\n')
    (tmp_path / below).mkdir(parents=True, exist_ok=True)
    owner = give_away(tmp_path / name)
    with pytest.raises(InvalidInput) as refused:
        load_project(tmp_path / below, environ={})
    assert f"{name} belongs to {owner}" in refused.value.message
    # the hint, typed as it stands, is a way on for those who want it
    assignment = refused.value.hint.splitlines()[0].rpartition("export ")[2]
    variable, _, place = assignment.partition("=")
    assert load_project(tmp_path / below, environ={variable: place}).vm.gpu == "l4"
    assert load_project(tmp_path / below, environ={variable: "*"}).vm.gpu == "l4"
    elsewhere = f"/nowhere:{tmp_path.parent}"
    with pytest.raises(InvalidInput):
        load_project(tmp_path / below, environ={variable: elsewhere})
    # and so are settings of one's own
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "vmctl.toml").write_text("")
    if os.geteuid() != ANOTHER:
        assert load_project(tmp_path / "own", environ={}).vm.gpu == "t4"


def test_a_link_of_another_user_is_no_way_around(
    tmp_path: Path, give_away: Callable[[Path], str]
) -> None:
    (tmp_path / "real").write_text("")
    (tmp_path / "vmctl.toml").symlink_to("real")
    give_away(tmp_path / "vmctl.toml")
    with pytest.raises(InvalidInput, match="belongs to"):
        load_project(tmp_path, environ={})


@pytest.mark.parametrize("text", ["[tool.other]\n", "[[[ no TOML", "x = 1\0"])
def test_a_file_of_another_user_that_has_no_settings_is_nobodys_trouble(
    tmp_path: Path, give_away: Callable[[Path], str], text: str
) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    (tmp_path / "mine").mkdir()
    give_away(tmp_path / "pyproject.toml")
    assert load_project(tmp_path / "mine", environ={}).file is None


def test_under_sudo_the_callers_own_settings_count(
    tmp_path: Path, give_away: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmctl.toml").write_text("")
    give_away(tmp_path / "vmctl.toml")
    owner = (tmp_path / "vmctl.toml").stat().st_uid
    monkeypatch.setenv("SUDO_UID", str(owner))
    if os.geteuid() == 0:
        assert load_project(tmp_path, environ={}).file
    else:  # only root is called by sudo: anybody can set a variable
        with pytest.raises(InvalidInput):
            load_project(tmp_path, environ={})


# -- settings that are made to harm ---------------------------------------------------------

# fmt: off
LINES = [
    "x\ntouch MARK", "x\r\ntouch MARK", "$(touch MARK)", "`touch MARK`", "';touch MARK;'",
    '";touch MARK;"', "x\\\ntouch MARK", "\x1b]0;x\x07\ntouch MARK", "&touch MARK&",
    "-e touch", "x\u2028touch MARK", "# x\n touch MARK #", "\ntouch MARK\n",
]
# fmt: on
PLACE = Place("ada-train", "europe-west1-b", "p-1", "ada", "~/Workspace/train")


def test_printed_lines_run_nothing_of_the_settings(tmp_path: Path) -> None:
    """`--print-gcloud | sh`: what a name holds is a word or a comment, never a line."""
    steps: list[Step] = []
    for evil in LINES:
        steps += commands.push(PLACE, [evil])
        steps += commands.fetch(PLACE, [evil, f"{evil}/x"], evil)
        steps += commands.run(
            PLACE, job=evil, line=evil, directory=evil, setup=[evil], passed_on=[evil]
        )
        steps += commands.tunnel(
            PLACE, service=evil, line=evil, directory=evil, local_port=1, remote_port=2
        )
        steps += commands.login(
            Place(evil, evil, evil, evil, evil, through_iap=True, instance_id=evil), evil
        )
    script = "\n\n".join(step.text for step in steps)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("gcloud", "ssh", "rsync", "sha256sum"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh"], input=script.replace("touch MARK", f"/bin/touch {tmp_path}/it-ran").encode(),
        cwd=tmp_path, env={"PATH": str(programs)}, capture_output=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "it-ran").exists()
    for step in steps:
        comment, _, line = step.text.partition("\n")
        assert comment.startswith("# ")
        assert not any(ord(sign) < 32 for sign in comment)
        assert not line.startswith("#")


@pytest.mark.parametrize(
    "name", ["", "A B", "A=B", "A\nB", "1A", "Ä", "$(A)", "A-B", "A\0", "A" * 200]
)
def test_a_variable_has_a_name_that_a_shell_can_say(tmp_path: Path, name: str) -> None:
    project(tmp_path, f"[jobs.j]\ncommand = 'true'\nenv = [{text_of(name)}]\n")
    with pytest.raises(InvalidInput, match=r"variable|control"):
        load_project(tmp_path, environ={})


@pytest.mark.parametrize("key", ["machine", "zone", "region", "image", "network", "subnetwork"])
@pytest.mark.parametrize("evil", ["x; touch y", "$(touch y)", "a b", "-x", "x'y", "x\ny", "`x`"])
def test_a_name_of_googles_is_no_line_of_a_shell(tmp_path: Path, key: str, evil: str) -> None:
    """They stand in lines that a user is shown to paste."""
    project(tmp_path, f"[vm]\n{key} = {text_of(evil)}\n")
    with pytest.raises(InvalidInput):
        load_project(tmp_path, environ={})


@pytest.mark.parametrize("path", ["a'$(touch y)'", "-x;y", "a\nb", "a b"])
def test_a_file_name_in_a_hint_is_one_word(path: str) -> None:
    hint = _conflict([[path, "changed"]]).hint
    words = shlex.split(hint.partition("Pull it: ")[2].partition(", or overwrite")[0])
    assert words == ["vmctl", "pull", path.replace("\n", "\\n")]


def text_of(value: str) -> str:
    """A TOML string."""
    return '"' + "".join(f"\\U{ord(sign):08X}" for sign in value) + '"'


# fmt: off
KEYS = {
    "": ["name", "project", "local", "vm", "push", "jobs", "services", "x"],
    "vm": [
        "gpu", "machine", "zone", "region", "image", "disk_gb", "max_hours", "key_hours", "idle",
        "budget", "spot", "restrict_ssh", "external_address", "network", "subnetwork", "y",
    ],
    "push": ["exclude", "z"],
    "jobs.j": ["command", "directory", "setup", "env", "outputs", "w"],
    "services.s": ["port", "command", "directory", "token", "v"],
}
FITTING = {
    "local": "true", "disk_gb": "50", "max_hours": "3.5", "key_hours": "2", "idle": '"off"',
    "budget": "5", "spot": "true", "restrict_ssh": "false", "external_address": "false",
    "exclude": '["*.x"]', "setup": '["a"]', "env": '["A_1"]', "outputs": '["-x", "a b"]',
    "port": "1", "token": "true", "vm": "{}", "push": "{}", "jobs": "{}", "services": "{}",
}
WHOLE = ["0", "-1", "8898", "99999999999999999999999", "0x" + "f" * 4000, "9" * 4400, "-0"]
PARTS = [
    "1.5", "nan", "inf", "-inf", "1e308", "1e999", "true", "false", "1979-05-27",
    "1979-05-27T07:32:00Z", "07:32:00", "{}", "[]", "[[]]", "{a = 1}", "[" * 40 + "]" * 40,
]
TEXTS = [
    "", " ", "x", "t4", "t4:2", "none", "../..", "/etc", "a/../../b", "~", "-x", "\0", "\n",
    "\x1b[2J", "1h", "off", "europe-west1-b", "$(x)", "'", '"', "\\", "é" * 50, "\U0010ffff",
    "x" * 300, "*",
]
# fmt: on


def hostile_settings(chance: random.Random) -> str:
    """A file that is nearly right in most places, wrong in a few, or no TOML at all."""

    def value() -> str:
        kind = chance.randrange(10)
        if kind < 2:
            return chance.choice(WHOLE)
        if kind < 4:
            return chance.choice(PARTS)
        if kind < 7:
            return text_of(chance.choice(TEXTS + LINES))
        return "[" + ", ".join(value() for _ in range(chance.randrange(3))) + "]"

    lines = []
    for table, keys in KEYS.items():
        if table and chance.random() < 0.6:
            continue
        name = table if chance.random() < 0.9 else f"jobs.{text_of(chance.choice(TEXTS + LINES))}"
        lines.append(f"[{name}]" if table else "")
        if table.startswith(("jobs", "services")):
            lines.append("command = 'true'\n" + "port = 1" * table.startswith("services"))
        for key in chance.sample(keys, chance.randrange(3) and 1):
            fits = chance.random() < 0.5
            lines.append(f"{key} = {FITTING.get(key, text_of('x')) if fits else value()}")
    text = "\n".join(lines)
    if chance.random() < 0.1:  # cut or turned around somewhere
        at = chance.randrange(len(text) + 1)
        text = text[:at] + chance.choice(["", "\0", "]", '"', "=", "\ud7ff", "[["]) + text[at + 1 :]
    return text


def test_hostile_settings_are_a_sentence_and_never_a_traceback(tmp_path: Path) -> None:
    """5,000 files: each is read, or refused with one sentence and a hint (exit code 2)."""
    chance = random.Random(11)
    file, refused, read = tmp_path / "vmctl.toml", 0, 0
    for _ in range(5000):
        text = hostile_settings(chance)
        file.unlink(missing_ok=True)  # to write over a file takes longer
        file.write_bytes(text.encode())
        try:
            found = load_project(tmp_path, environ={})
        except InvalidInput as error:
            refused += 1
            assert error.message, repr(text)[:500]
            assert error.hint, repr(text)[:500]
        else:
            read += 1
            unharmful(found)
    assert refused > 2000
    assert read > 200


@pytest.mark.parametrize("words", [["run", "nope"], ["tunnel", "nope"]], ids=lambda words: words[0])
def test_with_hostile_settings_a_command_ends_as_it_should(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    words: list[str],
) -> None:  # fmt: skip
    """40 files each, through the whole program: 2 where they are wrong, 3 where nothing is so."""
    chance, codes = random.Random(words[0]), set()
    monkeypatch.chdir(tmp_path)
    for _ in range(40):
        (tmp_path / "vmctl.toml").unlink(missing_ok=True)
        (tmp_path / "vmctl.toml").write_bytes(hostile_settings(chance).encode())
        codes.add(main(["--cloud", "--name", "x", *words]))
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert "Unexpected" not in told
        assert told.startswith("error: ")
    assert codes == {2, 3}


def unharmful(found: Project) -> None:
    """What of the settings goes into other programs' lines is what it must be."""
    assert found.workspace.startswith("~/Workspace/")
    for job in found.jobs.values():
        assert job.name.replace("-", "").replace("_", "").isalnum()
        assert all(name.replace("_", "").isalnum() and name.isascii() for name in job.env)
        for step in commands.run(
            PLACE, job=job.name, line=job.command, directory=job.directory, setup=job.setup,
            passed_on=job.env,
        ):  # fmt: skip
            assert step.text.startswith("# ")


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 100_000, "x = 0x" + "f" * 9000, "x = " + "9" * 9000, "# " + "x" * (1 << 20),
     "a." * 2_000 + "b = 1", "\ufeff\ufeffx = 1", "\0", "x = 1\n" * 2,
     "[vm]\ndisk_gb = 0x" + "f" * 300, "[vm]\nmax_hours = nan", "[vm]\nbudget = -inf"],
    ids=lambda text: f"{text[:12]!r}…{len(text)}",
)  # fmt: skip
def test_files_that_no_parser_likes_end_with_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    (tmp_path / "vmctl.toml").write_bytes(text.encode())
    monkeypatch.chdir(tmp_path)
    assert main(["run", "nope"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert "hint:" in told
    assert "Unexpected" not in told


# -- what is private and lies in the folder -------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's home, which is no other test's."""
    made = tmp_path / "home" / "me"
    made.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(made))
    return made


@pytest.mark.parametrize(
    "command", ["push", "push --dry-run", "pull", "init", "up --push", "push --print-gcloud"]
)
@pytest.mark.parametrize("below", ["", "..", ".ssh", ".ssh/keys", "/", "/etc", "link"])
def test_a_home_a_system_folder_and_what_is_above_is_no_project(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    command: str, below: str,
) -> None:  # fmt: skip
    (home / ".ssh" / "keys").mkdir(parents=True)
    (home / "link").symlink_to(home)
    monkeypatch.chdir(home / below)
    assert main(["--yes", "--name", "x", *command.split()]) == 2
    told = capsys.readouterr().err
    assert "all of it would be pushed" in told
    assert "hint:" in told
    assert not (home / "vmctl.toml").exists()


def test_settings_in_the_home_do_not_make_it_the_project(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "vmctl.toml").write_text("")
    (home / "work").mkdir()
    monkeypatch.chdir(home / "work")
    assert main(["push"]) == 2
    told = capsys.readouterr().err
    assert f"because of {home}/vmctl.toml" in told
    assert "vmctl init" in told


@pytest.fixture
def machine(laptop: Laptop, shared_machine: Path) -> Iterator[str]:
    """The shared machine's name, for another folder; afterwards it is the shared folder's again."""
    yield shared_machine.name
    laptop("push", "--force", cwd=shared_machine)


KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAA\n"


def test_secrets_are_named_and_asked_about_before_they_travel(
    laptop: Laptop, machine: str, tmp_path: Path
) -> None:
    files = {"train.py": "", ".env": "TOKEN=1", "notes": KEY, ".env.example": "TOKEN="}
    here = project(tmp_path / "train", BASE, files)

    def push(*words: str, code: int = 0) -> str:
        done = laptop(*words, cwd=here, code=code, environ={"VMCTL_NAME": machine})
        return done.stdout + done.stderr

    told = push("push", "--dry-run")
    assert "A push would ask first, because these look like secrets: .env, notes" in told
    told = push("push", code=2)
    assert ".env, notes look like secrets" in told
    assert "vmctl push --yes" in told
    line = 'exclude = ["/.env", "/notes"]'
    assert line in told
    # the line that it names keeps them here
    (here / "vmctl.toml").write_text(f"{BASE}[push]\n{line}\n")
    push("push", "--force")  # other tests have pushed there before
    listed = laptop("exec", "ls", "-A", cwd=here, environ={"VMCTL_NAME": machine})
    assert sorted(listed.stdout.split()) == [".env.example", "train.py", "vmctl.toml"]
    # the flag sends what was named, and is remembered for these and for no others
    (here / "vmctl.toml").write_text(BASE)
    assert ".env, notes look like secrets" in push("push", "--yes")
    (here / ".env").write_text("TOKEN=2")
    assert "secret" not in push("push")
    (here / "train.py.txt").write_text(KEY)
    assert "train.py.txt looks like a secret" in push("push", code=2)
    (here / "train.py.txt").unlink()
    assert not [path for path in here.rglob("*") if path.name == "agreed"]
    # on a terminal it is a question, and Enter alone means no
    (here / "id_rsa").write_text("x")
    environ = {"VMCTL_NAME": machine}
    told = at_terminal(laptop, here, "push", typed="\n", **environ)
    assert "id_rsa looks like a secret" in told
    assert "Send it? [y/N]" in told
    assert "Nothing was pushed" in told
    assert "moved" in at_terminal(laptop, here, "push", typed="y\n", **environ)
    assert "secret" not in push("push")
    # what was harmless when it was pushed, and is not any more
    (here / "train.py.txt").write_text("harmless")
    push("push")
    (here / "train.py.txt").write_text(KEY * 2)
    assert "train.py.txt looks like a secret" in push("push", code=2)


def test_a_dry_run_is_no_agreement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a look into a file has found is found again, although its sum is known by then."""
    monkeypatch.setattr(hash_cache, "RACY_NS", -1)  # as if all of it had lain there for long
    here = project(tmp_path / "train", "", {"notes": KEY, "x": "harmless"})
    found = load_project(here, environ={})
    dry = Scan(found, "pair", may_send=False)
    dry.wait_hashed()
    assert dry.unagreed == ["notes"]
    dry.save()
    again = Scan(found, "pair")
    with pytest.raises(SecretsFound):
        again.wait_listed()
    assert [entry.path for entry in again.unhashed] == ["notes"]
    Agreements(found.root).add(["file notes"])
    Scan(found, "pair").wait_hashed()


def test_up_asks_before_there_is_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here = project(tmp_path / "train", BASE, {".env": "x"})
    monkeypatch.chdir(here)
    monkeypatch.setenv("VMCTL_EMULATOR_HOME", str(tmp_path / "emulator"))
    assert main(["--local", "up", "--push"]) == 2
    told = capsys.readouterr().err
    assert "Nothing was pushed: .env looks like a secret" in told
    assert 'vmctl.toml: [push] exclude = ["/.env"]' in told
    (here / "vmctl.toml").unlink()
    (here / "pyproject.toml").write_text("[tool.vmctl]\n")
    assert main(["--local", "up", "--push"]) == 2
    assert 'pyproject.toml: [tool.vmctl.push] exclude = ["/.env"]' in capsys.readouterr().err
    assert not (tmp_path / "emulator").exists()


@pytest.mark.parametrize("name", [".gitignore", "deep/.gitignore", ".git/info/exclude", ".git"])
def test_a_pipe_in_the_place_of_a_file_of_gits_keeps_nobody_waiting(
    tmp_path: Path, name: str
) -> None:
    here = project(tmp_path / "train", "", {"deep/a.csv": ""})
    if name != ".git":
        run_git(here, "init", "-q")
    (here / name).unlink(missing_ok=True)
    os.mkfifo(here / name)
    assert "deep/a.csv" in taken(select(here))


# -- what the settings want of the user's environment ---------------------------------------


def test_secrets_of_the_shell_are_asked_about_and_stay_on_no_disk(
    laptop: Laptop, machine: str, tmp_path: Path
) -> None:
    wants = """
[jobs.train]
command = "echo url $LANDSCAPES_URL, token ${#GITHUB_TOKEN}"
env = ["LANDSCAPES_URL", "GITHUB_TOKEN", "UNSET"]
"""
    here = project(tmp_path / "train", BASE + wants, {"x": ""})
    token = "ghp_0123456789abcdefABCDEF0123456789abcd"
    environ = {"LANDSCAPES_URL": "http://127.0.0.1:1/landscapes.zip"}
    environ["VMCTL_NAME"] = machine

    def run(*words: str, code: int = 0) -> str:
        done = laptop(*words, cwd=here, code=code, environ=environ)
        return done.stdout + done.stderr

    laptop("push", "--force", cwd=here, environ=environ)
    told = run("run", "train")  # nothing is asked where nothing is secret
    assert "url http://127.0.0.1:1/landscapes.zip, token 0" in told
    assert "Passing LANDSCAPES_URL on from your shell" in told
    environ["GITHUB_TOKEN"] = token
    told = run("run", "train", code=2)
    assert "GITHUB_TOKEN, which looks like a secret" in told
    assert "vmctl run --yes train" in told
    assert token not in told
    told = run("run", "--yes", "train")
    assert "wants LANDSCAPES_URL, GITHUB_TOKEN from your shell" in told
    assert "token 40" in told
    assert "token 40" in run("run", "train"), "asked once"
    # another command is another question
    (here / "vmctl.toml").write_text(BASE + wants.replace("echo url", "echo the url"))
    run("run", "train", code=2)
    # nothing of it is left there: not in the run's records, not anywhere in the home
    there = laptop("exec", "--", "grep", "-rl", token, "..", "../../.vmctl", cwd=here, code=None,
                   environ=environ)  # fmt: skip
    assert there.stdout == ""
    assert "No such file" not in there.stderr
    assert not [
        p for p in laptop.home.rglob("*") if p.is_file() and token.encode() in p.read_bytes()
    ]
