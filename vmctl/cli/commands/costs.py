"""cost, gpus, gc, and `ls --orphans`: what is billed, offered, and billed without being used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from vmctl.cli.completion import REGIONS
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import option

if TYPE_CHECKING:
    from datetime import datetime

    from vmctl.cli.screen import Screen
    from vmctl.workflows.costs.cost import CostResult
    from vmctl.workflows.costs.gc import OrphansResult
    from vmctl.workflows.costs.gpus import GpuOffer, GpusResult

PANEL = Panel("Costs")


@PANEL.command(
    "cost",
    examples="vmctl cost\nvmctl cost --all\nvmctl cost --since 2026-11-01 --json",
)
def cost(
    context: Context,
    since: Annotated[
        str | None,
        option(metavar="DATE", help="From this day on (UTC); by default this month."),
    ] = None,
    every: Annotated[bool, option("--all", "-a", help="Your machines of all projects.")] = False,
) -> None:
    """What the machines cost: while running, their disks all the time, and each run.

    Calculated from Google's own times and the shipped list prices, so it is also right for a
    machine that was stopped from the console or from inside; an estimate before discounts.
    """
    from vmctl.workflows.costs.cost import cost as story

    screen = context.screen()
    begin = _parse_day(since) if since else None
    result = screen.play(story(context.project(), begin, every))
    screen.document(result)
    _show_costs(screen, result)
    screen.say(result.text)


@PANEL.command(
    "gpus",
    examples="vmctl gpus --region europe-west1\nvmctl gpus --gpu l4:2 --spot\n"
    "vmctl gpus --gpu t4 --json",
)
def gpus(
    context: Context,
    gpu: Annotated[
        str | None, option(metavar="GPU[:N]", help="Only this GPU, such as t4 or l4:2.")
    ] = None,
    region: Annotated[
        str | None,
        option(metavar="REGION", help="Only the zones of this region.", autocompletion=REGIONS),
    ] = None,
    spot: Annotated[
        bool, option("--spot", help="Cheapest Spot price first, and the quota of Spot.")
    ] = False,
) -> None:
    """Which zone has which GPU, at what price an hour on demand and as Spot.

    With Google credentials also what each zone really offers your project and how much your
    quotas allow; without them, the table that comes with vmctl.
    """
    from vmctl.workflows.costs.gpus import gpus as story

    screen = context.screen()
    result = screen.play(story(context.project(), gpu=gpu, region=region, spot=spot))
    screen.document(result)
    _show_offers(screen, result)


@PANEL.command("gc", takes_service=True, examples="vmctl gc\nvmctl gc --yes")
def gc(context: Context) -> None:
    """Remove what vmctl made for you and nothing uses: disks, snapshots, addresses, rules.

    Shows what it found with its price per month and asks first; without a terminal it needs
    --yes. Other people's resources in the Google project are never touched. On Vertex AI: the
    archives of this project that no running job needs.
    """
    project, screen = context.project(), context.screen()
    if project.target is not None:
        from vmctl.workflows.vertex.archive_gc import gc_archives

        def agree_on_archives(count: int, size: int) -> bool:
            return screen.agree(f"Remove {count} archives ({size} bytes) for good?")

        result = screen.play(gc_archives(project, confirm=agree_on_archives))
        screen.document(result)
        screen.note(f"{len(result.deleted)} archives deleted, {len(result.kept)} kept.")
        return
    from vmctl.workflows.costs.gc import gc as story

    def agree(found: OrphansResult) -> bool:
        if not screen.quiet and not screen.as_json:
            _show_orphans(screen, found)
        count = len(found.orphans)
        what = "this" if count == 1 else f"these {count}"
        return screen.confirm(
            f"Remove {what} for good ({found.total})?", without_terminal=False, by_default=False
        )

    screen.report(story(project, confirm=agree))


def _parse_day(text: str) -> datetime:
    from datetime import UTC, datetime

    from vmctl.domain.errors import InvalidInput

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"--since '{text}' is not a date.", hint="Such as: vmctl cost --since 2026-11-01"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _show_costs(screen: Screen, result: CostResult) -> None:
    from vmctl.cli.text import format_time

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
                [run.id, format_time(run.began_at), f"{run.hours:.2f} h", _usd(run.usd)]
                for run in result.runs
            ],
        )


def _usd(amount: float | None) -> str:
    return "unknown" if amount is None else f"${amount:.2f}"


def _show_offers(screen: Screen, result: GpusResult) -> None:
    from vmctl.cli.text import format_price

    headings = ["GPU", "ZONE", "MACHINE", "ON DEMAND", "SPOT"]
    if result.asked_google:
        headings += ["OFFERED", "SPOT QUOTA" if result.spot else "QUOTA"]
    rows = []
    for offer in result.offers:
        row = [
            offer.gpu,
            offer.zone,
            offer.machine_type,
            format_price(offer.usd_per_hour),
            format_price(offer.spot_usd_per_hour),
        ]
        if result.asked_google:
            row += ["yes" if offer.offered else "no", _quota(offer)]
        rows.append(row)
    screen.table(headings, rows)
    for date in sorted({o.price_dated for o in result.offers if o.price_dated}):
        names = sorted({o.gpu.partition(":")[0] for o in result.offers if o.price_dated == date})
        screen.note(f"List prices with the host, {date}: {', '.join(names)}. Spot prices move.")
    if not result.asked_google:
        screen.note(f"From vmctl's own table, without asking Google: {result.why_not_asked}")
    elif result.all_regions_limit is not None:
        screen.note(
            f"GPUs over all regions (GPUS_ALL_REGIONS): {result.all_regions_usage:g} of "
            f"{result.all_regions_limit:g} in use."
        )


def _quota(offer: GpuOffer) -> str:
    if offer.quota_limit is None or offer.quota_usage is None:
        return "unknown"
    return f"{offer.quota_usage:g} of {offer.quota_limit:g} used"


def list_orphans(context: Context) -> None:
    """What `vmctl ls --orphans` shows."""
    from vmctl.workflows.costs.gc import find_orphans as story

    screen = context.screen()
    result = screen.play(story(context.project()))
    screen.document(result)
    if not result.orphans:
        screen.note("Nothing is left over: everything that vmctl made for you is in use.")
        return
    _show_orphans(screen, result)
    screen.note(f"{result.total}. Remove them: vmctl gc")


def _show_orphans(screen: Screen, found: OrphansResult) -> None:
    from vmctl.cli.text import format_time

    screen.table(
        ["WHAT", "NAME", "WHERE", "PROJECT", "SIZE", "SINCE", "PER MONTH"],
        [
            [
                one.kind,
                one.name,
                one.place,
                one.project or "-",
                f"{one.size_gb} GB" if one.size_gb else "-",
                format_time(one.created_at) or "-",
                "unknown" if one.usd_per_month is None else f"${one.usd_per_month:.2f}",
            ]
            for one in found.orphans
        ],
    )
