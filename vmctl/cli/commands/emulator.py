"""emulator start|stop|status|env|fault: the embedded Compute Engine."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument, option

group = typer.Typer(
    name="emulator",
    help="The embedded Compute Engine: rehearse on this computer, without an account.",
    no_args_is_help=True,
    epilog="Examples:\n\n    vmctl emulator status\n\n"
    '    eval "$(vmctl emulator env)" && gcloud compute instances list',
)
PANEL = Panel("Commands")


@PANEL.command(
    "start",
    examples="vmctl emulator start\nvmctl emulator start --clock stepped\n"
    "VMCTL_EMULATOR_HOME=/tmp/many vmctl emulator start --metadata-only",
)
def start(
    context: Context,
    clock: Annotated[
        str | None,
        option("--clock", metavar="KIND", help="real, scaled:RATE or stepped."),
    ] = None,
    metadata_only: Annotated[bool, option("--metadata-only", help="Boot no machines.")] = False,
) -> None:
    """Start the emulator if it is not running. Every local command does this by itself.

    With --clock scaled:60 an hour of Google's passes in a minute; with --clock stepped time
    stands still until `vmctl emulator clock 1h` moves it: run limits, slow boots and every
    timestamp follow.

    With --metadata-only, VMs have states, addresses and bills but no machines: a thousand can be
    made, listed and deleted in seconds, and none answers ssh. The emulator's home
    (VMCTL_EMULATOR_HOME) keeps this mode as long as it has VMs.
    """
    from vmctl.workflows.setup.emulator import start as story

    context.screen().report(story(clock, metadata_only=metadata_only))


@PANEL.command("stop", examples="vmctl emulator stop")
def stop(context: Context) -> None:
    """Stop the emulator and its machines; their disks stay, and they return at the next start."""
    from vmctl.workflows.setup.emulator import stop as story

    context.screen().report(story())


@PANEL.command("status", examples="vmctl emulator status --json")
def status(context: Context) -> None:
    """Where it listens, what runs on it, and what it cannot do here."""
    from vmctl.workflows.setup.emulator import status as story

    context.screen().report(story())


@PANEL.command(
    "env",
    examples='eval "$(vmctl emulator env)" && gcloud compute instances list',
)
def env(context: Context) -> None:
    """Print shell exports that point gcloud at it.

    gcloud needs nothing else. Other clients need its certificate
    (VMCTL_EMULATOR_CERTIFICATE), its secret as a bearer token (the text in
    VMCTL_EMULATOR_TOKEN_FILE) and its address (VMCTL_EMULATOR_URL).
    """
    from vmctl.workflows.setup.emulator import env as story

    context.screen().report(story(context.project()))


@PANEL.command(
    "forward",
    examples="vmctl emulator forward 8000\nvmctl emulator forward 8000 --end",
)
def forward(
    context: Context,
    ports: Annotated[
        list[int] | None,
        argument(metavar="[PORT]...", help="Of 127.0.0.1.", min=1, max=65535),
    ] = None,
    end: Annotated[bool, option("--end", help="No longer.")] = False,
) -> None:
    """Let machines reach a port of this computer; without PORT: list the forwarded ports.

    Machines reach no other port of this computer. A forwarded port answers in every machine at
    10.0.2.2 until the emulator stops; VMCTL_EMULATOR_FORWARD=PORT,PORT forwards ports at every
    start.
    """
    from vmctl.workflows.setup.emulator import forward as story

    context.screen().report(story(ports or (), end=end))


@PANEL.command("clock", examples="vmctl emulator clock\nvmctl emulator clock 90m")
def clock(
    context: Context,
    step: Annotated[
        str | None,
        argument(metavar="[DURATION]", help="Advance a stepped clock by this much."),
    ] = None,
) -> None:
    """Show the emulator's time; with DURATION advance a stepped clock, event by event."""
    from vmctl.domain.duration import parse_duration
    from vmctl.workflows.setup.emulator import advance_clock as story

    advance_s = parse_duration(step, of="DURATION") if step else None
    context.screen().report(story(advance_s))


@PANEL.command(
    "fault",
    examples="""
vmctl emulator fault stockout zone=europe-west1-b
vmctl emulator fault capacity gpu=nvidia-tesla-t4 count=1 lasts_s=600
vmctl emulator fault quota metric=NVIDIA_T4_GPUS region=europe-west1 limit=0
vmctl emulator fault http method=compute.instances.insert status=503 calls=2
vmctl emulator fault http status=429 share=0.5 lasts_s=30
vmctl emulator fault latency seconds=0.3
vmctl emulator fault slow-boot seconds=90
vmctl emulator fault preempt instance=me-project
vmctl emulator fault --clear
""",
)
def fault(
    context: Context,
    kind: Annotated[str | None, argument(metavar="[KIND]", help="A fault listed above.")] = None,
    settings: Annotated[
        list[str] | None,
        argument(metavar="[NAME=VALUE]...", help="Fault settings."),
    ] = None,
    clear: Annotated[bool, option("--clear", help="Clear all faults.")] = False,
) -> None:
    """Rehearse a bad day. Without KIND: show the active faults.

    Any fault takes calls=N (acts N times) and lasts_s=SECONDS; without them it stays until
    --clear. Where a fault takes method=, zone= or gpu=, patterns such as
    compute.instances.* are understood.

    stockout zone= gpu= machineType= zonesAvailable=A,B plain=true: no capacity; the error
    names the zones that have some, or with plain none.

    capacity gpu= count= zone=: a zone's total number of a GPU.

    quota metric= limit= region= family=: the project's limit; without region over all
    regions; family=NVIDIA_H100 for metric=GPUS_PER_GPU_FAMILY.

    operation code= message= httpStatus= zone= gpu=: a creation or start that is accepted and
    then fails with this error.

    http status= method= share=: calls refused at once with 401, 403, 429, 500, 503 or another
    status; share=0.5 refuses every second one.

    latency seconds= method= share= and drop method= when=before|after share=: slow answers,
    and connections that break before the call acts, or after.

    slow-boot seconds= instance= zone=: seconds until RUNNING, on the emulator's clock.

    slow-ssh seconds=, slow-driver seconds=, driver state=failed|missing count=,
    dpkg-lock seconds= and agent state=dead: boots that are late, or never succeed.

    preempt instance= and crash instance=: at once, Google preempts a Spot VM; a host fails.
    """
    from vmctl.workflows.setup.emulator import faults as story

    context.screen().report(story(kind, settings or (), clear=clear))


def add_to(app: typer.Typer, *, outline: bool = False) -> None:
    """Register the group with its commands; as an outline without them."""
    if not outline:
        PANEL.add_to(group)
    app.add_typer(group, rich_help_panel="Local rehearsal")
