"""up, down, status, ls: the machine and what it costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Unpack

from vmctl.cli.commands.vm_options import VmOptions
from vmctl.cli.completion import FOREIGN_VMS, ZONES
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument, option
from vmctl.domain.events import Event, Finished, Started

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.domain.settings.target_settings import TargetSettings
    from vmctl.workflows.machine.status import ListResult
    from vmctl.workflows.machine.up import UpResult
    from vmctl.workflows.machine.zone_plan import ZonePlan

PANEL = Panel("Machine")


@PANEL.command(
    "up",
    takes_target=True,
    examples="""
vmctl up --gpu t4
vmctl up --gpu t4:2 --zone europe-west1-d --max-hours 6
vmctl up --gpu none --machine e2-standard-4
vmctl up --gpu l4 --spot --any-region --wait 2h
vmctl up --budget 5 --idle 30m
vmctl up --local
""",
    print_gcloud=lambda lines, context, any_region, wait, move, also_push, **vm: lines.of_up(
        context.project(**vm)
    ),
)
def up(
    context: Context,
    any_region: Annotated[
        bool,
        option("--any-region", help="Continue with other regions, the cheapest first."),
    ] = False,
    wait: Annotated[
        str | None,
        option(metavar="DURATION", help="Keep trying this long, such as 30m or 2h."),
    ] = None,
    move: Annotated[
        bool,
        option(
            "--move",
            help="If the zone has no capacity, move the stopped VM and its disk to another zone.",
        ),
    ] = False,
    also_push: Annotated[
        bool, option("--push", help="Push the project while the driver is installed.")
    ] = False,
    **vm: Unpack[VmOptions],
) -> None:
    """Create or start the GPU machine, and return when it can train.

    Shows the choice and its price per hour and asks first (without a terminal it proceeds).
    Running it again is safe: a machine that is up stays as it is. Each stage is timed; if one
    fails, the error names the cause and the fix.
    """
    from vmctl.domain.duration import parse_duration
    from vmctl.domain.errors import VmctlError
    from vmctl.domain.machine.zone_order import SearchPolicy
    from vmctl.domain.readiness.stages import StageLog
    from vmctl.workflows.machine.up import up as story
    from vmctl.workflows.sync.push import agree_ahead, push

    if target := context.project().target:
        _up_on_server(context, target, [name for name, value in vm.items() if value is not None])
        return
    wait_s = parse_duration(wait, of="--wait") if wait else 0.0
    policy = SearchPolicy(any_region, wait_s, move)
    project = context.project(**vm)
    screen = context.screen()
    if also_push:
        screen.play(agree_ahead(project, screen.agree))
    requested = exists = False

    def watch(event: Event) -> None:
        nonlocal requested, exists
        if isinstance(event, Started) and event.step != "emulator":
            requested = event.step != "wait"  # between two rounds no request is pending
            exists = exists or event.step == "ssh"
        if isinstance(event, Finished) and event.step in ("create", "start", "move"):
            exists = True

    try:
        result = screen.play(
            story(
                project,
                confirm=lambda plan: _agree(screen, plan),
                policy=policy,
                pushing=(lambda: push(project)) if also_push else None,
            ),
            watch,
        )
    except (KeyboardInterrupt, SystemExit):
        if requested:
            screen.note(
                "\nGoogle may still finish the request: `vmctl up` resumes it, "
                "`vmctl down --delete` removes it."
            )
        raise
    except VmctlError:
        if exists:
            screen.note("The VM exists and may be billed. Stop it: vmctl down")
        raise
    screen.document(result)
    if result.stages:
        screen.note(f"Ready: {StageLog(result.stages).text}")
    _next_steps(screen, project, result)


@PANEL.command(
    "down",
    takes_target=True,
    examples="vmctl down\nvmctl down --delete --yes",
    print_gcloud=lambda lines, context, delete: lines.of_down(context.project(), delete),
)
def down(
    context: Context,
    delete: Annotated[
        bool, option("--delete", help="Delete the VM with its disk, not only stop it.")
    ] = False,
) -> None:
    """Stop the machine (its disk stays), or delete it.

    Waits until Google reports that it has stopped, and says what is still billed.
    """
    from vmctl.domain.errors import InvalidInput
    from vmctl.domain.machine.server import NothingToStop
    from vmctl.workflows.machine.down import down as story

    project = context.project()
    screen = context.screen()
    if project.target is not None:
        screen.document(NothingToStop(project.target.name))
        screen.say(NothingToStop(project.target.name).text)
        return
    if delete and not screen.confirm(
        f"Delete the VM of '{project.name}' and its disk? Anything stored only there is lost.",
        without_terminal=False,
        by_default=False,
    ):
        raise InvalidInput(
            "Nothing was deleted.", hint="To delete without being asked: vmctl down --delete -y"
        )
    try:
        screen.report(story(project, delete=delete))
    except (KeyboardInterrupt, SystemExit):
        screen.note("\nThe VM may still be running and billed. Stop it: vmctl down")
        raise


@PANEL.command("status", takes_target=True, examples="vmctl status\nvmctl status --json")
def status(context: Context) -> None:
    """Show this project's machine: its state, address, price, and what will stop it."""
    from vmctl.workflows.machine.status import status as story

    project, screen = context.project(), context.screen()
    if project.target is None:
        screen.report(story(project))
        return
    from vmctl.workflows.server.report import status as status_of_server

    result = status_of_server(project, project.target)
    screen.document(result)
    screen.say(result.text)


@PANEL.command("ls", examples="vmctl ls\nvmctl ls --all --json\nvmctl ls --orphans")
def ls(
    context: Context,
    every: Annotated[bool, option("--all", "-a", help="Your machines of all projects.")] = False,
    orphans: Annotated[
        bool,
        option("--orphans", help="What vmctl made in any project and nothing uses any more."),
    ] = False,
) -> None:
    """List your machines in this project, with what they cost an hour.

    With --orphans: disks, snapshots, addresses and firewall rules that nothing uses any
    more, with what they cost a month.
    """
    if orphans:
        from vmctl.cli.commands.costs import list_orphans

        list_orphans(context)
        return
    from vmctl.workflows.machine.status import ls as story

    screen = context.screen()
    result = screen.play(story(context.project(), all_projects=every))
    screen.document(result)
    _show_list(screen, result)


@PANEL.command(
    "adopt",
    examples="vmctl adopt my-console-vm --dry-run\nvmctl --name lab adopt my-console-vm",
)
def adopt(
    context: Context,
    vm: Annotated[
        str,
        argument(metavar="VM", help="The VM's name in Google's list.", autocompletion=FOREIGN_VMS),
    ],
    zone: Annotated[
        str | None,
        option(
            metavar="ZONE",
            help="The VM's zone, if the name exists in several.",
            autocompletion=ZONES,
        ),
    ] = None,
    host_key: Annotated[
        str | None,
        option(
            metavar="LINE",
            help="The VM's SSH host key, such as 'ssh-ed25519 AAAA…', if it never published one.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
) -> None:
    """Make a VM from the console or gcloud this project's VM.

    Shows first what will change (labels, vmctl's own key, publishing its host keys, a run
    limit where Google accepts one, a network tag) and what stays as it is, and asks. What is
    on the VM stays; what runs need is installed if it is missing.
    """
    from vmctl.workflows.machine.adopt import AdoptRequest
    from vmctl.workflows.machine.adopt import adopt as story

    screen = context.screen()
    wanted = AdoptRequest(vm, zone, host_key, dry_run)
    result = screen.play(
        story(
            context.project(),
            wanted,
            lambda name: screen.confirm(f"Adopt {name}?", without_terminal=True),
        )
    )
    screen.document(result)
    if not result.done:
        return
    if result.ready:
        screen.next_steps(
            [
                ("vmctl push", "send the project's folder"),
                ("vmctl ssh", "log in"),
                ("vmctl down", "stop the meter"),
            ]
        )
    else:
        screen.next_steps([("vmctl up", f"start it ({result.status} now)")])


@PANEL.command("keep", examples="vmctl keep 1h\nvmctl keep 30m")
def keep(
    context: Context,
    duration: Annotated[str, argument(metavar="DURATION", help="From now on: 30m, 2h, 1h30m.")],
) -> None:
    """Keep an idle machine running longer; Google's run limit and budgets still apply."""
    from vmctl.domain.duration import parse_duration
    from vmctl.workflows.machine.keep import keep as story

    seconds = parse_duration(duration, of="vmctl keep")
    context.screen().report(story(context.project(), seconds))


def _up_on_server(context: Context, target: TargetSettings, flags: list[str]) -> None:
    """A server is there already: look whether a job can run on it."""
    from vmctl.cli.commands.setup import show_checkup
    from vmctl.domain.errors import InvalidInput
    from vmctl.workflows.server.report import bring_up

    if flags:
        raise InvalidInput(
            f"--{flags[0].replace('_', '-')} is about a VM; {target.name} is as it is.",
            hint=f"Leave it out, or create a VM: vmctl --on vm up --{flags[0].replace('_', '-')} …",
        )
    project, screen = context.project(), context.screen()
    result = screen.play(bring_up(project, target))
    screen.document(result)
    show_checkup(screen, result)
    job = next(iter(project.jobs), "JOB")
    screen.next_steps([(f"vmctl push && vmctl run {job}", "send the project and train")])


def _agree(screen: Screen, plan: ZonePlan) -> bool:
    question = f"{plan.action.capitalize()} it?"
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


def _show_list(screen: Screen, result: ListResult) -> None:
    from vmctl.cli.text import format_price, format_time

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
                    format_price(vm.usd_per_hour),
                    format_time(vm.started_at) or "-",
                    format_time(vm.stops_at) or "-",
                ]
                for vm in result.machines
            ],
        )
    else:
        screen.note("No machines in this project. Create one: vmctl up")
    if result.others:
        noun = "machine" if result.others == 1 else "machines"
        screen.note(f"{result.others} more of your {noun} in other projects: vmctl ls --all")
