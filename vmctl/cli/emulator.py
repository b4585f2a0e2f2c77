"""emulator start|stop|status|env|fault: the embedded Compute Engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from vmctl.cli.options import Context, command

if TYPE_CHECKING:
    from vmctl.config import Project
    from vmctl.domain.events import Story


def register(app: typer.Typer) -> None:
    """Add the `emulator` group."""
    group = typer.Typer(
        name="emulator",
        help="The embedded Compute Engine: rehearse on this computer, without an account.",
        no_args_is_help=True,
        epilog="Examples:\n\n    vmctl emulator status\n\n"
        '    eval "$(vmctl emulator env)" && gcloud compute instances list',
    )
    app.add_typer(group, rich_help_panel="Local rehearsal")
    panel = "Commands"

    @command(group, "start", panel=panel, examples="vmctl emulator start")
    def start(context: Context) -> None:
        """Start it, if it is not running. Every local command does this by itself."""
        from vmctl.workflows.emulator import start as story

        _report(context, story)

    @command(group, "stop", panel=panel, examples="vmctl emulator stop")
    def stop(context: Context) -> None:
        """Stop it with all its machines; their disks stay, and they come back at the next start."""
        from vmctl.workflows.emulator import stop as story

        _report(context, story)

    @command(group, "status", panel=panel, examples="vmctl emulator status --json")
    def status(context: Context) -> None:
        """Where it listens, what runs on it, and what it cannot do here."""
        from vmctl.workflows.emulator import status as story

        _report(context, story)

    @command(
        group,
        "env",
        panel=panel,
        examples='eval "$(vmctl emulator env)" && gcloud compute instances list',
    )
    def env(context: Context) -> None:
        """Print shell exports that point gcloud at it."""
        from vmctl.workflows.emulator import env as story

        _report(context, story)

    @command(
        group,
        "fault",
        panel=panel,
        examples="""
vmctl emulator fault stockout zone=europe-west1-b
vmctl emulator fault capacity gpu=nvidia-tesla-t4 count=1
vmctl emulator fault quota metric=NVIDIA_T4_GPUS region=europe-west1 limit=0
vmctl emulator fault http method=compute.instances.insert status=503 calls=2
vmctl emulator fault slow-boot seconds=90
vmctl emulator fault --clear
""",
    )
    def fault(
        context: Context,
        kind: Annotated[
            str | None,
            typer.Argument(
                metavar="[KIND]",
                help="stockout, capacity, quota, operation, http, latency, slow-boot or drop.",
            ),
        ] = None,
        settings: Annotated[
            list[str] | None,
            typer.Argument(metavar="[NAME=VALUE]...", help="calls=N ends it after N times."),
        ] = None,
        clear: Annotated[bool, typer.Option("--clear", help="End all that are in force.")] = False,
    ) -> None:
        """Rehearse a bad day: stockouts, quotas, refused and slow calls, slow boots.

        Without KIND: show what is in force.
        """
        from vmctl.workflows.emulator import faults as story

        screen = context.screen()
        result = screen.play(story(context.project(), kind, settings or (), clear=clear))
        screen.document(result)
        screen.say(result.text)


class Told(Protocol):
    """A result that can say itself in a few lines."""

    @property
    def text(self) -> str: ...


def _report(context: Context, story: Callable[[Project], Story[Told]]) -> None:
    screen = context.screen()
    result = screen.play(story(context.project()))
    screen.document(result)
    screen.say(result.text)
