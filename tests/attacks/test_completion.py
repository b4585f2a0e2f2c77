"""Tab runs nothing: not what a cloned vmctl.toml says, not what a file on the VM is called."""

from __future__ import annotations

import os
import pty
import random
import select
import shutil
import signal
import string
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.laptop import PROGRAM, Laptop, project
from vmctl.cli.completion import is_safe
from vmctl.config import load_project
from vmctl.domain.errors import InvalidInput

EVIL = [
    r"m$(touch it-ran)x", r"m\$(touch it-ran)x", r"m\\\$(touch it-ran)x", "m`touch it-ran`",
    r"m\`touch it-ran\`", "m;touch it-ran", "m'$(touch it-ran)'", 'm"$(touch it-ran)"',
    "m&touch it-ran&", "m|touch it-ran", "m>it-ran", "m*", "m?", "m[a-z]", "m{a,b}", "m x", "m!1",
    "m#x", "m^x", "m(N)", "m(e:touch it-ran:)", "m=~root", "m:~root", "m==ls", "m%s$IFS",
    "mé", "m))'", "--m", "-m", "~m", "=ls", "$HOME",
]  # fmt: skip
GOOD = ["model.pt", "more/runs-1/x_2.pth", "m@2,x=1:2+3%~"]


def toml_text(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cloned folder whose settings name what a shell would run."""
    outputs = ", ".join(map(toml_text, [*EVIL, *GOOD]))
    toml = f'[vm]\n[jobs.train]\ncommand = "true"\noutputs = [{outputs}]\n'
    return project(tmp_path_factory.mktemp("tab") / "cloned", toml)


# -- the filter ------------------------------------------------------------------------------


def test_only_plain_words_are_offered() -> None:
    assert [word for word in EVIL if is_safe(word)] == []
    assert [word for word in GOOD if not is_safe(word)] == []
    for word in ("", "a\n", "a\nb", "\x1b]0;x\x07", "a\u202eb", "x" * 256):
        assert not is_safe(word), word


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_what_passes_is_the_same_word_in_a_shell(shell: str, tmp_path: Path) -> None:
    """Thousands of words, each left unquoted on a line, as at Enter, and evaluated, as at Tab."""
    chance = random.Random(7)
    signs = string.printable + "é\u200b"
    likely = string.ascii_letters + "._/@%+=:,~-"
    words = ["".join(chance.choices(likely, k=chance.randrange(1, 9))) for _ in range(4000)]
    words += ["".join(chance.choices(signs, k=chance.randrange(1, 6))) for _ in range(4000)]
    passed = [word for word in words if is_safe(word)]
    assert len(passed) > 2000
    lines = "".join(f"say {word}\neval 'say \"{word}\"'\n" for word in passed)
    start = {
        "bash": ["bash", "--norc", "-O", "extglob", "-O", "failglob"],
        "zsh": ["zsh", "-f", "-o", "extendedglob", "-o", "magicequalsubst", "-o", "kshglob"],
    }[shell]
    script = f"say() {{ printf '%s\\n' \"$*\"; }}\n{lines}"
    done = subprocess.run(
        start, input=script.encode(), cwd=tmp_path, capture_output=True, check=True
    )
    assert done.stderr == b""
    assert done.stdout.decode().splitlines() == [word for word in passed for _ in range(2)]


# -- the shells themselves -------------------------------------------------------------------


def environ(laptop: Laptop, home: Path) -> dict[str, str]:
    path = f"{PROGRAM.parent}:{laptop.environ['PATH']}"
    return laptop.environ | {"PATH": path, "HOME": str(home), "TERM": "dumb"}


def test_bash_is_offered_no_more_than_words(laptop: Laptop, cloned: Path, tmp_path: Path) -> None:
    script = (
        'eval "$(_VMCTL_COMPLETE=source_bash vmctl)"\n'
        "COMP_WORDS=(vmctl fetch m) COMP_CWORD=2\n"
        '_vmctl_completion vmctl && printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", script],
        cwd=cloned, env=environ(laptop, tmp_path), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split("\n")[:-1] == GOOD
    assert not (cloned / "it-ran").exists()


class Zsh:
    """An interactive zsh at a terminal, with vmctl's completion loaded."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        program = shutil.which("zsh")
        assert program, "zsh is not installed: scripts/test installs it"
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(folder)
            os.execve(program, ["zsh", "-f", "-i"], environ)
        self.seen = b""
        # Tab, then the line as it is now between two marks
        self.type(
            "unsetopt zle_bracketed_paste; PS1=; autoload -Uz compinit && compinit -u -D\n"
            'eval "$(_VMCTL_COMPLETE=source_zsh vmctl)"\n'
            'tabbed() { zle complete-word; print -rn -- "<<${BUFFER}>>"; zle kill-whole-line }\n'
            "zle -N tabbed; bindkey '^T' tabbed; zstyle ':completion:*' menu no\n"
            "print -r -- rea''dy\n"
        )
        self.until(b"ready")

    def type(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def until(self, sign: bytes) -> bytes:
        """What is seen until then."""
        while sign not in self.seen:
            readable, _, _ = select.select([self.terminal], [], [], 60)
            assert readable, self.seen
            self.seen += os.read(self.terminal, 65536)
        found, _, self.seen = self.seen.partition(sign)
        return found

    def tab(self, line: str) -> str:
        """The line after Tab."""
        self.type(f"{line}\x14")
        self.until(b"<<")
        return self.until(b">>").decode()

    def close(self) -> None:
        os.close(self.terminal)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.fixture
def zsh(laptop: Laptop, cloned: Path, tmp_path: Path) -> Iterator[Zsh]:
    made = Zsh(cloned, environ(laptop, tmp_path))
    yield made
    made.close()


def test_tab_in_zsh_runs_nothing_of_a_cloned_folder(zsh: Zsh, cloned: Path) -> None:
    assert zsh.tab("vmctl fetch mod") == "vmctl fetch model.pt "
    assert zsh.tab("vmctl fetch m") == "vmctl fetch m"  # three begin so
    assert zsh.tab("vmctl fetch more") == "vmctl fetch more/runs-1/x_2.pth "
    assert zsh.tab("vmctl doc") == "vmctl doctor "  # with the help texts of all commands
    assert not (cloned / "it-ran").exists()


# -- names in the settings -------------------------------------------------------------------


NAMES = [r"t\$(touch X)", "a b", "-x", "ä", "x" * 41, "", "a.b", "a\u200b"]


@pytest.mark.parametrize("table", ["jobs", "services"])
@pytest.mark.parametrize("name", NAMES)
def test_jobs_and_services_have_plain_names(tmp_path: Path, table: str, name: str) -> None:
    port = "port = 1\n" if table == "services" else ""
    project(tmp_path, f'[{table}.{toml_text(name)}]\ncommand = "true"\n{port}')
    with pytest.raises(InvalidInput, match=r"letters, digits|control character") as refused:
        load_project(tmp_path, environ={})
    assert str(tmp_path) in refused.value.message


CONTROLS = [*"\x00\x07\x7f\x85\u202e\u200b\ufeff\u2028", "\x1b[2J", "\x9b31m"]
PLACES = [
    "name = {}", "project = {}", "{} = 1", "[vm]\ngpu = {}", "[vm]\nzone = {}", "[vm]\n{} = 1",
    "[push]\nexclude = [{}]", "[jobs.j]\ncommand = {}", "[jobs.j]\ncommand = 'x'\nsetup = [{}]",
    "[jobs.j]\ncommand = 'x'\noutputs = ['a', {}]", "[jobs.j]\ncommand = 'x'\nenv = [{}]",
    "[jobs.j]\ncommand = 'x'\ndirectory = {}", "[jobs.{}]\ncommand = 'x'",
    "[services.s]\nport = 1\ncommand = {}", "[services.{}]\nport = 1\ncommand = 'x'",
    "unknown = [[{{ a = {} }}]]",
]  # fmt: skip


@pytest.mark.parametrize("file", ["vmctl.toml", "pyproject.toml"])
def test_no_setting_holds_a_control_character(tmp_path: Path, file: str) -> None:
    for place in PLACES:
        for control in CONTROLS:
            text = '"a' + "".join(f"\\U{ord(sign):08X}" for sign in control) + 'b"'
            body = place.format(text)
            if file == "pyproject.toml":
                body = "[tool.vmctl]\n" + body.replace("\n[", "\n[tool.vmctl.", 1)
                body = body.replace("[tool.vmctl]\n[", "[tool.vmctl.")
            (tmp_path / file).write_text(body, encoding="utf-8")
            with pytest.raises(InvalidInput, match="control character") as refused:
                load_project(tmp_path, environ={})
            said = refused.value.message
            assert str(tmp_path / file) in said
            assert said.isprintable(), said


def test_no_variable_or_flag_holds_one_either(laptop: Laptop, folder: Path) -> None:
    for words, variables in (
        (["status"], {"VMCTL_ZONE": "a\x1b]0;x\x07"}),
        (["status"], {"VMCTL_NAME": "a\u202eb"}),
        (["--name", "a\x1bb", "status"], {}),
        (["up", "--zone", "a\x9b"], {}),
        (["init", "--command", "python a.py\x1b[2J"], {}),
    ):
        told = laptop(*words, cwd=folder, code=2, environ=variables)
        assert "control character" in told.stderr
        assert told.stderr.replace("\n", "").isprintable()


def test_a_commands_script_may_have_lines_and_a_path_any_letters(tmp_path: Path) -> None:
    toml = (
        "[jobs.j]\ncommand = '''\nset -e\n\tpython a.py\n'''\nsetup = ['a\\nb']\n"
        "outputs = ['Übung (1) $x é 漢 👩\u200d💻.pt', 'نامه\u200cها']\n"
    )
    made = load_project(project(tmp_path, toml), environ={})
    assert made.jobs["j"].command == "set -e\n\tpython a.py\n"
    assert len(made.jobs["j"].outputs) == 2
