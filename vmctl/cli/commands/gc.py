"""gc, and the list of what nothing uses: what stays on the bill when the machines are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vmctl.cli.options import Context, command

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.workflows.costs.gc import OrphansResult

PANEL = "Machine"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""

    @command(app, "gc", panel=PANEL, examples="vmctl gc\nvmctl gc --yes")
    def gc(context: Context) -> None:
        """Remove what vmctl made for you and nothing uses: disks, snapshots, addresses, rules.

        Shows what it found with its price per month and asks first; without a terminal it needs
        --yes. Things of other people in the Google project are never touched.
        """
        from vmctl.workflows.costs.gc import gc as story

        screen = context.screen()

        def agree(found: OrphansResult) -> bool:
            if not screen.quiet and not screen.as_json:
                _table(screen, found)
            count = len(found.orphans)
            what = "this" if count == 1 else f"these {count}"
            return screen.confirm(
                f"Remove {what} for good ({found.total})?", without_terminal=False, by_default=False
            )

        result = screen.play(story(context.project(), confirm=agree))
        screen.document(result)
        screen.say(result.text)


def list_orphans(context: Context) -> None:
    """What `vmctl ls --orphans` shows."""
    from vmctl.workflows.costs.gc import find_orphans as story

    screen = context.screen()
    result = screen.play(story(context.project()))
    screen.document(result)
    if not result.orphans:
        screen.note("Nothing is left behind: all that vmctl made for you is in use.")
        return
    _table(screen, result)
    screen.note(f"{result.total}. Remove them: vmctl gc")


def _table(screen: Screen, found: OrphansResult) -> None:
    from vmctl.cli.screen import human_time

    screen.table(
        ["WHAT", "NAME", "WHERE", "PROJECT", "SIZE", "SINCE", "PER MONTH"],
        [
            [
                one.kind,
                one.name,
                one.place,
                one.project or "-",
                f"{one.size_gb} GB" if one.size_gb else "-",
                human_time(one.created_at) or "-",
                "unknown" if one.usd_per_month is None else f"${one.usd_per_month:.2f}",
            ]
            for one in found.orphans
        ],
    )
