"""run, logs, ps, attach, cancel: jobs that outlive every connection."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.options import Context, command

PANEL = "Jobs"


def register(app: typer.Typer) -> None:
    """Add this group's commands."""

    @command(
        app,
        "run",
        panel=PANEL,
        passes_words_on=True,
        examples="vmctl run colorize\nvmctl run --detach colorize --epochs 20",
    )
    def run(
        context: Context,
        job: Annotated[str, typer.Argument(help="A job of vmctl.toml.")],
        args: Annotated[
            list[str] | None, typer.Argument(help="Added to the job's command as they are.")
        ] = None,
        detach: Annotated[
            bool, typer.Option("--detach", "-d", help="Start it and return.")
        ] = False,
    ) -> None:
        """Start a job in tmux on the VM and follow its output.

        Ctrl-C only stops following: the job goes on (`vmctl logs -f` follows again). The job's
        exit code is this command's. Options of vmctl come before the job's name; everything
        after it belongs to the job.
        """
        from vmctl.workflows.run import run as story

        screen = context.screen()
        del story, screen

    @command(app, "logs", panel=PANEL, examples="vmctl logs\nvmctl logs -f colorize")
    def logs(
        context: Context,
        job: Annotated[
            str | None, typer.Argument(help="A job or a run; by default the last run.")
        ] = None,
        follow: Annotated[
            bool, typer.Option("--follow", "-f", help="Go on until the run ends.")
        ] = False,
    ) -> None:
        """What a run has written; with -f, what it writes from now on too."""

    @command(app, "ps", panel=PANEL, examples="vmctl ps\nvmctl ps --json")
    def ps(context: Context) -> None:
        """The runs on the VM, newest first, with their state and exit code."""

    @command(app, "attach", panel=PANEL, examples="vmctl attach colorize")
    def attach(
        context: Context,
        job: Annotated[
            str | None, typer.Argument(help="A job or a run; by default the last run.")
        ] = None,
    ) -> None:
        """Enter the run's tmux session; Ctrl-B D leaves it running."""

    @command(app, "cancel", panel=PANEL, examples="vmctl cancel colorize")
    def cancel(
        context: Context, job: Annotated[str, typer.Argument(help="A job or a run.")]
    ) -> None:
        """Stop a run: SIGTERM first, so that it can save, then SIGKILL."""
