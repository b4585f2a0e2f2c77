"""The program: its commands in the order in which a person meets them."""

from __future__ import annotations

import functools
from typing import Any

import typer

from vmctl.cli import json_results
from vmctl.cli.commands import (
    access,
    adopt,
    costs,
    emulator,
    files,
    gc,
    gpus,
    jobs,
    machine,
    selftest,
    setup,
)
from vmctl.cli.options import Context, Json, Local, Name, Quiet, Verbose, Yes, remember

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
    """Your GPU work on Google Compute Engine, as if the machine stood under the desk."""
    remember(Context(local, name, yes, json, quiet, verbose))


setup.register(app)
machine.register(app)
adopt.register(app)
costs.register(app)
gc.register(app)
gpus.register(app)
files.register(app)
jobs.register(app)
access.register(app)
emulator.register(app)
selftest.register(app)
json_results.register(app)


@functools.cache
def command_tree() -> Any:
    """What typer makes of all this; it takes a third of a short command's time."""
    return typer.main.get_command(app)
