"""keep: how long a machine stays; cost: what it all came to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vmctl.cli.options import Context, command

if TYPE_CHECKING:
    from datetime import datetime

    from vmctl.cli.screen import Screen
    from vmctl.workflows.costs.cost import CostResult

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
        from vmctl.workflows.machine.keep import keep as story

        screen = context.screen()
        seconds = parse_duration(duration, of="vmctl keep")
        result = screen.play(story(context.project(), seconds))
        screen.document(result)
        screen.say(result.text)

    @command(
        app,
        "cost",
        panel=PANEL,
        examples="vmctl cost\nvmctl cost --all\nvmctl cost --since 2026-11-01 --json",
    )
    def cost(
        context: Context,
        since: Annotated[
            str | None,
            typer.Option(metavar="DATE", help="From this day on (UTC); by default this month."),
        ] = None,
        every: Annotated[
            bool, typer.Option("--all", "-a", help="Your machines of all projects.")
        ] = False,
    ) -> None:
        """What the machines came to: while they ran, their disks all the time, and each run.

        Reckoned from Google's own times and the shipped list prices, so it is right also for a
        machine that was stopped from the console or from inside; an estimate before discounts.
        """
        from vmctl.workflows.costs.cost import cost as story

        screen = context.screen()
        begin = _day(since) if since else None
        result = screen.play(story(context.project(), begin, every))
        screen.document(result)
        _tables(screen, result)
        screen.say(result.text)


def _day(text: str) -> datetime:
    from datetime import UTC, datetime

    from vmctl.domain.errors import InvalidInput

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"--since '{text}' is not a date.", hint="Such as: vmctl cost --since 2026-11-01"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _tables(screen: Screen, result: CostResult) -> None:
    from vmctl.cli.screen import human_time

    rows = [
        [
            vm.name,
            vm.zone,
            f"{vm.machine_type} + {vm.gpu}" if vm.gpu else vm.machine_type,
            f"{vm.on_hours:.1f} h",
            _usd(vm.machine_usd),
            _usd(vm.address_usd),
            _usd(vm.disk_usd),
            "" if vm.exists else "deleted",
        ]
        for vm in result.machines
    ]
    if rows:
        screen.table(
            ["MACHINE", "ZONE", "WHAT", "ON", "PROCESSORS+GPU", "ADDRESS", "DISK", ""], rows
        )
    if result.others:
        screen.table(
            ["BESIDES", "NAME", "WHERE", "HOURS", "COST"],
            [
                [one.kind, one.name, one.place, f"{one.hours:.1f}", _usd(one.usd)]
                for one in result.others
            ],
        )
    if result.runs:
        screen.table(
            ["RUN", "STARTED", "TOOK", "ITS SHARE"],
            [
                [run.id, human_time(run.began_at), f"{run.hours:.2f} h", _usd(run.usd)]
                for run in result.runs
            ],
        )


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.2f}"
