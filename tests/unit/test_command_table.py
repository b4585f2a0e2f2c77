"""The commands of `vmctl --help`, each in the module that the table names."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from vmctl.__main__ import main
from vmctl.cli.app import COMMANDS, command_tree


def test_every_command_is_imported_from_the_module_that_has_it() -> None:
    panels: dict[str, list[str]] = {}
    for name, home in COMMANDS.items():
        panels.setdefault(home, []).append(name)
    for home, names in panels.items():
        module = import_module(f"vmctl.cli.commands.{home}")
        assert names == (["emulator"] if home == "emulator" else list(module.PANEL.commands)), home
    assert [command.name for command in command_tree().commands.values()] == list(COMMANDS)


def walk(command: Any, path: str = "vmctl") -> Iterator[tuple[str, Any]]:
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from walk(inner, f"{path} {name}")


def test_help_names_what_every_option_takes_not_its_type() -> None:
    """ZONE or a list of choices, never <str>, TEXT or INTEGER."""
    for path, command in walk(command_tree()):
        for option in command.params:
            takes_value = option.param_type_name == "option" and not option.is_flag
            if takes_value and not hasattr(option.type, "choices"):
                assert option.metavar, f"{path} {option.opts[0]} needs a metavar"
        context = command.make_context(path, [], resilient_parsing=True)
        assert "<" not in command.get_usage(context)
        for argument in command.params:
            if argument.param_type_name == "argument" and not hasattr(argument.type, "choices"):
                assert argument.type.get_metavar(param=argument, ctx=context) == "", path


@pytest.mark.parametrize("where", ["root", "broken"])
def test_the_emulator_can_be_stopped_where_there_is_no_project(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "vmctl.toml").write_text("name = [", encoding="utf-8")
    monkeypatch.setenv("VMCTL_EMULATOR_HOME", str(tmp_path / "emulator"))
    monkeypatch.chdir("/" if where == "root" else tmp_path)
    for command in ("status", "stop"):
        assert main(["emulator", command]) == 0
