"""gpus: what there is to be had, where, and at what price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vmctl.cli.options import Context, command

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.workflows.costs.gpus import GpuOffer, GpusResult


def register(app: typer.Typer) -> None:
    """Add this group's command."""

    @command(
        app,
        "gpus",
        panel="Machine",
        examples="vmctl gpus --region europe-west1\nvmctl gpus --gpu l4:2 --spot\n"
        "vmctl gpus --gpu t4 --json",
    )
    def gpus(
        context: Context,
        gpu: Annotated[
            str | None, typer.Option(metavar="GPU[:N]", help="Only this GPU, such as t4 or l4:2.")
        ] = None,
        region: Annotated[str | None, typer.Option(help="Only the zones of this region.")] = None,
        spot: Annotated[
            bool, typer.Option("--spot", help="Cheapest Spot price first, and the quota of Spot.")
        ] = False,
    ) -> None:
        """Which zone has which GPU, at what price an hour on demand and as Spot.

        With Google credentials also what each zone really offers to your project and how much
        your quotas allow; without them from the table that comes with vmctl.
        """
        from vmctl.workflows.costs.gpus import gpus as story

        screen = context.screen()
        result = screen.play(story(context.project(), gpu=gpu, region=region, spot=spot))
        screen.document(result)
        _show(screen, result)


def _show(screen: Screen, result: GpusResult) -> None:
    from vmctl.cli.screen import human_price

    headings = ["GPU", "ZONE", "MACHINE", "ON DEMAND", "SPOT"]
    if result.asked_google:
        headings += ["OFFERED", "SPOT QUOTA" if result.spot else "QUOTA"]
    rows = []
    for offer in result.offers:
        row = [
            offer.gpu,
            offer.zone,
            offer.machine_type,
            human_price(offer.usd_per_hour),
            human_price(offer.spot_usd_per_hour),
        ]
        if result.asked_google:
            row += ["yes" if offer.offered else "no", _quota(offer)]
        rows.append(row)
    screen.table(headings, rows)
    for date in sorted({o.price_dated for o in result.offers if o.price_dated}):
        names = sorted({o.gpu.partition(":")[0] for o in result.offers if o.price_dated == date})
        screen.note(f"List prices with the host, {date}: {', '.join(names)}. Spot prices move.")
    if not result.asked_google:
        screen.note(f"From vmctl's own table, Google was not asked: {result.why_not_asked}")
    elif result.all_regions_limit is not None:
        screen.note(
            f"GPUs over all regions (GPUS_ALL_REGIONS): {result.all_regions_usage:g} of "
            f"{result.all_regions_limit:g} in use."
        )


def _quota(offer: GpuOffer) -> str:
    if offer.quota_limit is None or offer.quota_usage is None:
        return "not told"
    return f"{offer.quota_usage:g} of {offer.quota_limit:g} used"
