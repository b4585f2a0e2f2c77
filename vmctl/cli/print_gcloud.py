"""`--print-gcloud`, an option of several commands: the lines that do the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

from vmctl.cli.parameters import option

if TYPE_CHECKING:
    from vmctl.cli.options import Context
    from vmctl.domain.events import Story
    from vmctl.workflows.setup.print_gcloud import Equivalent

PrintGcloud = Annotated[
    bool,
    option(
        "--print-gcloud",
        help="Print the gcloud, ssh, rsync and tmux lines that do the same, and do nothing.",
    ),
]


def show_gcloud(context: Context, make: Callable[[Any], Story[Equivalent]]) -> None:
    """The lines as a script, or as JSON: each with its words and what it is for.

    `make` gets the module that makes them, which is imported only now.
    """
    from vmctl.workflows.setup import print_gcloud

    context.screen().report(make(print_gcloud))
