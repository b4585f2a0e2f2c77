"""The commands of `vmctl --help`, each in the module that the table names."""

from __future__ import annotations

from importlib import import_module

from vmctl.cli.app import COMMANDS, command_tree


def test_every_command_is_imported_from_the_module_that_has_it() -> None:
    panels: dict[str, list[str]] = {}
    for name, home in COMMANDS.items():
        panels.setdefault(home, []).append(name)
    for home, names in panels.items():
        module = import_module(f"vmctl.cli.commands.{home}")
        assert names == (["emulator"] if home == "emulator" else list(module.PANEL.names)), home
    assert [command.name for command in command_tree().commands.values()] == list(COMMANDS)
