"""Command lines that nobody means: each is a sentence and an exit code, never a traceback."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from tests.harness.credentials import logged_out
from tests.harness.laptop import BASE, project
from vmctl.__main__ import main
from vmctl.cli.app import app

COUNT = 500
# These look at this computer or start something on it: each has tests of its own.
LEFT_OUT = {"doctor", "selftest", "emulator", "init", "schema"}
# --verbose says on purpose where an error comes from
NEVER = {
    "--verbose", "--local", "--install-completion", "--show-completion", "--open", "--supervise",
}  # fmt: skip
WORDS = [
    "", " ", "-", "--", "---", "-1", "0", "1e999", "nan", "inf", "99999999999999999999", "1_0",
    "０",
    "train", "t4", "t4:2", "a100:99", "4h", "-4h", "0s", "1w", "europe-west1", "europe-west1-b",
    ".", "..", "/", "/etc/passwd", "../../x", "a/../../b", ":", "::", ":~", "a:b", "vm:", "~root",
    "8888", "8888:1", "0:0", "65536", "auto", "all", "*", "[", "{a,b}", "$(touch x)", "`touch x`",
    "; touch x", "\n", "a\nb", "\t", "\x1b]0;x\x07", "\x7f", "\u202e", "é" * 300, "💥", "\udcff",
    "x" * 5000, "%s%n", "{0}", "\\", "'", '"', "=", "a=b", "--=", "--name=", "-n", "-h", "--help",
]  # fmt: skip


@pytest.fixture(autouse=True)
def nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a job, and nobody's login: what can be read ends at the credentials."""
    for name, value in logged_out(tmp_path).items():
        monkeypatch.setenv(name, value)
    # a login that is broken is found at once, one that is missing is looked for on the network
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "none.json"))
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path / "kept"))
    monkeypatch.setenv("VMCTL_OWNER", "tester")
    here = project(tmp_path / "work", BASE + '[jobs.train]\ncommand = "true"\n')
    monkeypatch.chdir(here)
    yield here
    assert sorted(path.name for path in here.iterdir()) == ["vmctl.toml"]


def options_of(command: Any) -> list[str]:
    return [
        word
        for part in command.params
        for word in (*part.opts, *part.secondary_opts)
        if word.startswith("-") and word not in NEVER
    ]


def test_hundreds_of_command_lines_end_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    names = sorted(set(commands) - LEFT_OUT)
    dice = random.Random(0)
    codes: dict[int, int] = {}
    for _ in range(COUNT):
        name = dice.choice(names)
        known = options_of(commands[name])
        words = [name]
        for _ in range(dice.randrange(5)):
            words.append(dice.choice(known if dice.random() < 0.5 else WORDS))
        if dice.random() < 0.1:
            words[0] = dice.choice(WORDS)
        code = main(words)
        told = capsys.readouterr()
        said = f"{words!r}\n{told.out}{told.err}"
        assert code != 1, said
        assert "Unexpected" not in told.err and "Traceback" not in told.err, said
        assert all(char.isprintable() or char in "\n" for char in told.err), said
        assert code == 0 or told.err, said
        codes[code] = codes.get(code, 0) + 1
    assert codes[2] > COUNT / 10 and codes[5] > COUNT / 20, codes
