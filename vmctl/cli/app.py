"""The program: its commands in the order in which users meet them."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vmctl.cli.commands import COMMANDS
from vmctl.cli.options import Context, Invocation, common_parameters, make_parameter, sign


class CommandTable(Mapping[str, Any]):
    """The commands by name, each imported and parsed when somebody asks for it.

    All of them together take as long as the rest of a short command's start.
    """

    def __init__(self) -> None:
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._parsed:
            self._parsed[name] = _parsed(name, COMMANDS[name])
        return self._parsed[name]

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


def _parsed(name: str, home: str) -> Any:
    module = import_module(f"vmctl.cli.commands.{home}")
    alone = typer.Typer(rich_markup_mode="rich")
    if name == "emulator":
        module.add_to(alone)
    else:
        module.PANEL.add_to(alone, only=name)
    command = typer.main.get_group(alone).commands[name]
    for inner in (command, *getattr(command, "commands", {}).values()):
        _name_arguments(inner)
    return command


def _name_arguments(command: Any) -> None:
    """--help calls an argument by its name alone: typer would add "<str>" beside it."""
    for parameter in command.params:
        if parameter.param_type_name == "argument" and not hasattr(parameter.type, "choices"):
            parameter.type = copy.copy(parameter.type)
            parameter.type.get_metavar = lambda *_, **__: ""


def _outline() -> dict[str, Any]:
    """The commands without their parameters, for the list of them: half the time to make."""
    together = typer.Typer(rich_markup_mode="rich")
    for home in dict.fromkeys(COMMANDS.values()):
        module = import_module(f"vmctl.cli.commands.{home}")
        add_to = module.add_to if home == "emulator" else module.PANEL.add_to
        add_to(together, outline=True)
    made = typer.main.get_group(together).commands
    return {name: made[name] for name in COMMANDS}


class Commands(TyperGroup):
    """`vmctl` itself."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{**settings, "commands": CommandTable()})

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """`vmctl --help` lists the commands and needs no parameters of theirs."""
        whole, self.commands = self.commands, _outline()
        try:
            super().format_help(ctx, formatter)
        finally:
            self.commands = whole


app = typer.Typer(
    name="vmctl",
    cls=Commands,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from vmctl.cli.version import show

        show()
        raise typer.Exit


def _root(ctx: typer.Context, version: bool, **common: Any) -> None:
    """Your GPU work on Google Compute Engine, as if it sat under your desk."""
    ctx.ensure_object(Invocation).before = Context(**common)


VERSION = Annotated[
    bool,
    typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
]
app.callback(
    epilog="Examples:\n\n"
    "    vmctl up --gpu t4\n\n"
    "    vmctl push && vmctl run colorize\n\n"
    "    vmctl tunnel tensorboard\n\n"
    "    vmctl fetch unet.pth\n\n"
    "    vmctl down\n\n"
    "With --local (or VMCTL_LOCAL=1) the same commands run on this computer, without an account."
)(sign(_root, [*common_parameters(), make_parameter("version", VERSION, False)]))


@functools.cache
def command_tree() -> Any:
    """The root of the parsed commands, built once."""
    return typer.main.get_command(app)
