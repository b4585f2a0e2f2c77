"""The program: its commands in the order in which users meet them."""

from __future__ import annotations

import functools
from typing import Any

import typer

from vmctl.cli.commands import (
    access,
    costs,
    emulator,
    files,
    jobs,
    machine,
    schema,
    selftest,
    setup,
)
from vmctl.cli.options import Context, Invocation, Json, Local, Name, Quiet, Verbose, Yes

app = typer.Typer(
    name="vmctl",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from vmctl import __version__
        from vmctl.cli import terminal

        terminal.line(f"vmctl {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Examples:\n\n"
    "    vmctl up --gpu t4\n\n"
    "    vmctl push && vmctl run colorize\n\n"
    "    vmctl tunnel tensorboard\n\n"
    "    vmctl fetch unet.pth\n\n"
    "    vmctl down\n\n"
    "With --local (or VMCTL_LOCAL=1) the same commands run on this computer, without an account."
)
def root(
    ctx: typer.Context,
    local: Local = None,
    name: Name = None,
    yes: Yes = False,
    json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Your GPU work on Google Compute Engine, as if it sat under your desk."""
    before = Context(local, name, yes, json, quiet, verbose)
    ctx.ensure_object(Invocation).before = before


for panel in (
    setup.PANEL,
    machine.PANEL,
    costs.PANEL,
    files.PANEL,
    jobs.PANEL,
    access.PANEL,
):
    panel.add_to(app)
emulator.PANEL.add_to(emulator.group)
app.add_typer(emulator.group, rich_help_panel="Local rehearsal")
selftest.PANEL.add_to(app)
schema.PANEL.add_to(app)


@functools.cache
def command_tree() -> Any:
    """The parsed commands, built once: that takes a third of a short command's time."""
    return typer.main.get_command(app)
