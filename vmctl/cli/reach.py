"""tunnel, ssh, exec: reach the machine."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.options import Context, command
from vmctl.domain.events import Event, Ready

PANEL = "Access"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""

    @command(
        app,
        "tunnel",
        panel=PANEL,
        examples="vmctl tunnel tensorboard\nvmctl tunnel jupyter --open\nvmctl tunnel 8000:80",
    )
    def tunnel(
        context: Context,
        what: Annotated[
            str,
            typer.Argument(
                metavar="SERVICE|PORT[:REMOTE]", help="tensorboard, jupyter, or a port of the VM."
            ),
        ],
        port: Annotated[
            int | None, typer.Option(help="Local port; by default the service's own.")
        ] = None,
        open_: Annotated[bool, typer.Option("--open", help="Open the browser.")] = False,
    ) -> None:
        """Reach a service on the VM at localhost; starts it there if it is not running.

        Waits until it answers, prints the URL, and reconnects by itself until Ctrl-C.
        """
        from vmctl.workflows.tunnel import tunnel as story

        screen = context.screen()
        ready = False

        def watch(event: Event) -> None:
            nonlocal ready
            if isinstance(event, Ready):
                ready = True
                screen.note("Ctrl-C closes the tunnel; the service goes on.")
                if open_:
                    import webbrowser

                    webbrowser.open(event.url)

        try:
            screen.play(story(context.project(), what, port), watch)
        except KeyboardInterrupt:
            if not ready:
                raise
            screen.note("\nThe tunnel is closed.")

    @command(
        app, "ssh", panel=PANEL, passes_words_on=True, examples="vmctl ssh\nvmctl ssh -- nvidia-smi"
    )
    def ssh(
        context: Context,
        words: Annotated[
            list[str] | None, typer.Argument(metavar="COMMAND", help="Run this, then leave.")
        ] = None,
    ) -> None:
        """Log in to the VM, over the warm connection."""
        from vmctl.workflows.shell import ssh as login

        raise typer.Exit(login(context.project(), tuple(words or ())))

    @command(
        app,
        "exec",
        panel=PANEL,
        passes_words_on=True,
        examples="vmctl exec nvidia-smi\nvmctl exec -- bash -lc 'python -V'",
    )
    def exec_(
        context: Context,
        words: Annotated[list[str], typer.Argument(metavar="COMMAND")],
    ) -> None:
        """Run one command on the VM, in the project's folder; its exit code is ours."""
        from vmctl.workflows.shell import exec_ as execute

        raise typer.Exit(execute(context.project(), tuple(words)))
