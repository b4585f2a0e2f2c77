"""`--print-gcloud`, which several commands take: the lines that do the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.workflows.setup.print_gcloud import Equivalent

PrintGcloud = Annotated[
    bool,
    typer.Option(
        "--print-gcloud",
        help="Print the gcloud, ssh, rsync and tmux lines that do the same, and do nothing.",
    ),
]


def show(screen: Screen, equivalent: Equivalent) -> None:
    """The lines as a script, or as JSON: each with its words and what it is for."""
    screen.document(equivalent)
    screen.say(equivalent.text)
