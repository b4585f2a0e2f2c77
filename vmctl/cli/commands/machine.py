"""up, down, status, ls: the machine and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vmctl.cli.completion import IMAGES, REGIONS, ZONES
from vmctl.cli.options import Context, GpuOption, command
from vmctl.cli.print_gcloud import PrintGcloud, show
from vmctl.domain.events import Event, Finished, Started

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.workflows.machine.status import ListResult
    from vmctl.workflows.machine.up import UpResult
    from vmctl.workflows.machine.zone_plan import ZonePlan

PANEL = "Machine"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""

    @command(
        app,
        "up",
        panel=PANEL,
        examples="""
vmctl up --gpu t4
vmctl up --gpu t4:2 --zone europe-west1-d --max-hours 6
vmctl up --gpu none --machine e2-standard-4
vmctl up --gpu l4 --spot --any-region --wait 2h
vmctl up --budget 5 --idle 30m
vmctl up --local
""",
    )
    def up(
        context: Context,
        gpu: GpuOption = None,
        machine: Annotated[
            str | None, typer.Option(metavar="TYPE", help="Machine type; by default the smallest.")
        ] = None,
        zone: Annotated[
            str | None, typer.Option(help="One zone, such as europe-west1-b.", autocompletion=ZONES)
        ] = None,
        region: Annotated[
            str | None,
            typer.Option(
                help="Region whose zones are tried. Default: europe-west1.", autocompletion=REGIONS
            ),
        ] = None,
        spot: Annotated[
            bool | None, typer.Option("--spot/--on-demand", help="Cheaper, may be preempted.")
        ] = None,
        disk_gb: Annotated[int | None, typer.Option(metavar="GB", help="Boot disk size.")] = None,
        image: Annotated[
            str | None,
            typer.Option(
                help="Image family, or project/family. Default: pytorch.", autocompletion=IMAGES
            ),
        ] = None,
        max_hours: Annotated[
            float | None,
            typer.Option(metavar="H", help="Google stops the VM after this long. Default: 12."),
        ] = None,
        idle: Annotated[
            str | None,
            typer.Option(
                metavar="DURATION",
                help="The VM stops itself when nothing was done on it for so long, or off. "
                "Default: 1h.",
            ),
        ] = None,
        budget: Annotated[
            float | None,
            typer.Option(metavar="USD", help="What this start may cost: --max-hours from money."),
        ] = None,
        restrict_ssh: Annotated[
            bool | None,
            typer.Option(
                "--restrict-ssh/--open-ssh",
                help="Only your own address reaches its SSH port; stays so until --open-ssh.",
            ),
        ] = None,
        external_address: Annotated[
            bool | None,
            typer.Option(
                "--external-address/--no-external-address",
                help="Without one it is reached through Google's Identity-Aware Proxy (gcloud), "
                "and needs Cloud NAT to download anything.",
            ),
        ] = None,
        any_region: Annotated[
            bool,
            typer.Option("--any-region", help="Go on to other regions, the cheapest first."),
        ] = False,
        wait: Annotated[
            str | None,
            typer.Option(metavar="DURATION", help="Keep trying this long, such as 30m or 2h."),
        ] = None,
        move: Annotated[
            bool,
            typer.Option("--move", help="Move a stopped VM, disk and all, out of a dry zone."),
        ] = False,
        also_push: Annotated[
            bool, typer.Option("--push", help="Push the project while the driver is installed.")
        ] = False,
        print_gcloud: PrintGcloud = False,
    ) -> None:
        """Create or start the GPU machine, and return when it can train.

        Shows the choice and its price per hour and asks first (with no terminal it goes on).
        Running it again is safe: a machine that is up stays as it is. What it waits for is timed;
        what does not come is named, with its culprit and what to do.
        """
        from vmctl.domain.duration import parse_duration
        from vmctl.domain.errors import VmctlError
        from vmctl.domain.machine.placement import SearchPolicy
        from vmctl.domain.readiness.stages import StageLog
        from vmctl.workflows.machine.up import up as story
        from vmctl.workflows.sync.push import agree_ahead, push

        wait_s = parse_duration(wait, of="--wait") if wait else 0.0
        patience = SearchPolicy(any_region, wait_s, move)

        project = context.project(
            gpu=gpu,
            machine=machine,
            zone=zone,
            region=region,
            spot=spot,
            disk_gb=disk_gb,
            image=image,
            max_hours=max_hours,
            restrict_ssh=restrict_ssh,
            external_address=external_address,
            idle=idle,
            budget=budget,
        )
        screen = context.screen()
        if print_gcloud:
            from vmctl.workflows.setup.print_gcloud import of_up

            show(screen, of_up(project))
            return
        if also_push:
            screen.play(agree_ahead(project, screen.agree))
        begun = there = False

        def watch(event: Event) -> None:
            nonlocal begun, there
            if isinstance(event, Started) and event.step != "emulator":
                begun = event.step != "wait"  # between two rounds Google has nothing in hand
                there = there or event.step == "ssh"
            if isinstance(event, Finished) and event.step in ("create", "start", "move"):
                there = True

        try:
            result = screen.play(
                story(
                    project,
                    confirm=lambda plan: _agree(screen, plan),
                    patience=patience,
                    pushing=(lambda: push(project)) if also_push else None,
                ),
                watch,
            )
        except (KeyboardInterrupt, SystemExit):
            if begun:
                screen.note(
                    "\nWhat Google has begun goes on: `vmctl up` takes it over, "
                    "`vmctl down --delete` removes it."
                )
            raise
        except VmctlError:
            if there:
                screen.note("The VM is there and may cost money until: vmctl down")
            raise
        screen.document(result)
        if result.stages:
            screen.note(f"Ready: {StageLog(result.stages).text}")
        _next_steps(screen, project, result)

    @command(app, "down", panel=PANEL, examples="vmctl down\nvmctl down --delete --yes")
    def down(
        context: Context,
        delete: Annotated[
            bool, typer.Option("--delete", help="Delete the VM with its disk, not only stop it.")
        ] = False,
        print_gcloud: PrintGcloud = False,
    ) -> None:
        """Stop the meter: stop the machine (its disk stays), or delete it.

        Waits until Google says that it has stopped, and says what still costs money.
        """
        from vmctl.domain.errors import InvalidInput
        from vmctl.workflows.machine.down import down as story

        project = context.project()
        screen = context.screen()
        if print_gcloud:
            from vmctl.workflows.setup.print_gcloud import of_down

            show(screen, screen.play(of_down(project, delete)))
            return
        if delete and not screen.confirm(
            f"Delete the VM of '{project.name}' and its disk? What is only there is lost.",
            without_terminal=False,
            by_default=False,
        ):
            raise InvalidInput(
                "Nothing was deleted.", hint="To delete without being asked: vmctl down --delete -y"
            )
        try:
            result = screen.play(story(project, delete=delete))
        except (KeyboardInterrupt, SystemExit):
            screen.note("\nThe VM may go on running, and costing money: `vmctl down` once more.")
            raise
        screen.document(result)
        screen.say(result.text)

    @command(app, "status", panel=PANEL, examples="vmctl status\nvmctl status --json")
    def status(context: Context) -> None:
        """This project's machine: its state, address, price, and what will stop it."""
        from vmctl.workflows.machine.status import status as story

        screen = context.screen()
        result = screen.play(story(context.project()))
        screen.document(result)
        screen.say(result.text)

    @command(app, "ls", panel=PANEL, examples="vmctl ls\nvmctl ls --all --json\nvmctl ls --orphans")
    def ls(
        context: Context,
        every: Annotated[
            bool, typer.Option("--all", "-a", help="Your machines of all projects.")
        ] = False,
        orphans: Annotated[
            bool,
            typer.Option("--orphans", help="What vmctl made in all projects and nothing uses."),
        ] = False,
    ) -> None:
        """Your machines in this project, with what they cost an hour.

        With --orphans: disks, snapshots, addresses and firewall rules that nothing uses any
        more, with what they cost a month.
        """
        if orphans:
            from vmctl.cli.commands.gc import list_orphans

            list_orphans(context)
            return
        from vmctl.workflows.machine.status import ls as story

        screen = context.screen()
        result = screen.play(story(context.project(), all_projects=every))
        screen.document(result)
        _list(screen, result)


def _agree(screen: Screen, plan: ZonePlan) -> bool:
    question = {"create": "Create it?", "start": "Start it?", "move": "Move it?"}[plan.action]
    if screen.quiet:  # the plan was not drawn, and nobody should agree to what is not said
        question = f"{plan.text}\n{question}"
    return screen.confirm(question, without_terminal=plan.action != "move")


def _next_steps(screen: Screen, project: Project, result: UpResult) -> None:
    job = next(iter(project.jobs), None)
    then = f"vmctl push && vmctl run {job}" if job else "vmctl push"
    meaning = "send the project and train" if job else "send the project's folder"
    if result.pushed:
        then, meaning = (f"vmctl run {job}", "train") if job else ("vmctl exec ls", "see it there")
    steps = [
        (then, meaning),
        ("vmctl tunnel tensorboard", "TensorBoard in your browser"),
        ("vmctl ssh", "log in"),
        ("vmctl down", "stop the meter"),
    ]
    if result.action == "running":
        steps = steps[:1] + steps[-1:]
    screen.next_steps(steps)


def _list(screen: Screen, result: ListResult) -> None:
    from vmctl.cli.screen import human_price, human_time

    if result.machines:
        screen.table(
            ["NAME", "STATUS", "ZONE", "MACHINE", "GPU", "PRICE", "STARTED", "STOPS"],
            [
                [
                    vm.name,
                    vm.status,
                    vm.zone,
                    vm.machine_type,
                    vm.gpu or "-",
                    human_price(vm.usd_per_hour),
                    human_time(vm.started_at) or "-",
                    human_time(vm.stops_at) or "-",
                ]
                for vm in result.machines
            ],
        )
    else:
        screen.note("No machines in this project. Create one: vmctl up")
    if result.others:
        noun = "machine" if result.others == 1 else "machines"
        screen.note(f"{result.others} more {noun} of yours in other projects: vmctl ls --all")
