"""keep: how long a machine stays; cost: what it all came to."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.options import Context, command

PANEL = "Machine"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""

    @command(app, "keep", panel=PANEL, examples="vmctl keep 1h\nvmctl keep 30m")
    def keep(
        context: Context,
        duration: Annotated[
            str, typer.Argument(metavar="DURATION", help="From now on: 30m, 2h, 1h30m.")
        ],
    ) -> None:
        """Keep an idle machine for longer; what Google stops, and budgets, stay as they are."""
        from vmctl.domain.duration import parse_duration
        from vmctl.workflows.keep import keep as story

        screen = context.screen()
        seconds = parse_duration(duration, of="vmctl keep")
        result = screen.play(story(context.project(), seconds))
        screen.document(result)
        screen.say(result.text)
