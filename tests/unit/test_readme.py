"""What the README writes about commands is what the program has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer

from vmctl.cli.app import app

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ROWS = [
    line.split("|")[1].replace("\\", "")
    for line in re.sub(r"\\\|", "/", README.split("## Commands")[1].split("## ")[0]).splitlines()
    if line.startswith("| `")
]


def options(name: str) -> set[str]:
    """Every option of a command, of its parts where it has some."""
    command = COMMANDS[name]
    parts = getattr(command, "commands", {}).values()
    return {
        word
        for part in (command, *parts)
        for parameter in part.params
        for word in (*parameter.opts, *parameter.secondary_opts)
    }


def test_every_command_is_in_the_table_and_no_other() -> None:
    named = {word for row in ROWS for word in re.findall(r"`([a-z][a-z-]*)", row)}
    assert named == set(COMMANDS)


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_options_that_are_there(row: str) -> None:
    for code in re.findall(r"`([^`]+)`", row):
        name = code.split()[0]
        assert set(re.findall(r"--[a-z-]+", code)) <= options(name), code


@pytest.mark.parametrize("line", sorted(set(re.findall(r"vmctl ((?:[a-z]+ ?)[^`\n#]*)", README))))
def test_a_command_line_names_a_command(line: str) -> None:
    first = line.split("&&")[0]
    words = [word for word in first.split() if not word.startswith("-")]
    if words[:1] == ["run"] and len(words) > 1:
        first = first.partition(words[1])[0]  # what follows the job's name is the job's
    if words and words[0] in COMMANDS:
        assert set(re.findall(r"(?<!\S)--[a-z-]+", first)) <= options(words[0]) | {
            "--local", "--name", "--yes", "--json", "--quiet", "--verbose"
        }  # fmt: skip
