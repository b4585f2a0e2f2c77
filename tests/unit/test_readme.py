"""What the README and CONTRIBUTING.md say of commands, files and checks is what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer

from vmctl.cli.app import app

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
SCRIPTS = ["bench", "demo", "download_landscapes.sh", "refresh_gpu_catalog", "test"]
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


def test_every_path_that_contributing_names_exists() -> None:
    named = set(re.findall(r"`((?:vmctl|tests|scripts|workload)/[\w./-]+)`", CONTRIBUTING))
    named |= set(re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", CONTRIBUTING + README))
    named |= set(re.findall(r"pytest (tests/[\w./-]+)", CONTRIBUTING))
    assert len(named) > 50
    assert sorted(name for name in named if not (ROOT / name).exists()) == []


def test_every_folder_is_in_the_house() -> None:
    house = CONTRIBUTING.partition("```\nvmctl/")[2].partition("```")[0]
    for room in ("vmctl", "vmctl/workflows", "vmctl/ssh", "vmctl/guest", "vmctl/domain"):
        for folder in (ROOT / room).iterdir():
            if (folder / "__init__.py").is_file():
                assert f"{folder.name}/" in house, folder


def test_the_checks_before_a_commit_are_those_of_the_script() -> None:
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"entry: (\.venv/.*)", hooks)
    script = (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    style = script.partition('say "Style and types"\n')[2].partition("\n\n")[0]
    assert entries == style.splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_of_a_script_answers_before_anything_is_installed(name: str, tmp_path: Path) -> None:
    """From its own first comment: there is no environment here, and none is made."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    done = subprocess.run(
        [tmp_path / "scripts" / name, "--help"],
        env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"scripts/{name}" in done.stdout
    assert not re.search(r"^(#|source|case)", done.stdout, re.MULTILINE)
    assert [path.name for path in tmp_path.iterdir()] == ["scripts"]
