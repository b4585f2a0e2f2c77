"""adopt: a VM made elsewhere, taken under vmctl's wing."""

from __future__ import annotations

from typing import Annotated

import typer

from vmctl.cli.completion import STRANGERS, ZONES
from vmctl.cli.options import Context, command

PANEL = "Machine"


def register(app: typer.Typer) -> None:
    """Add this group's command."""

    @command(
        app,
        "adopt",
        panel=PANEL,
        examples="vmctl adopt my-console-vm --dry-run\nvmctl --name lab adopt my-console-vm",
    )
    def adopt(
        context: Context,
        vm: Annotated[
            str,
            typer.Argument(
                metavar="VM", help="The VM's name in Google's list.", autocompletion=STRANGERS
            ),
        ],
        zone: Annotated[
            str | None,
            typer.Option(help="Its zone, where the name is in several.", autocompletion=ZONES),
        ] = None,
        host_key: Annotated[
            str | None,
            typer.Option(
                metavar="LINE",
                help="Its SSH host key, such as 'ssh-ed25519 AAAA…', where it never published it.",
            ),
        ] = None,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
        ] = False,
    ) -> None:
        """Take a VM made in the console or with gcloud as this project's.

        Says first what will change (labels, vmctl's own key, the way to its host keys, a run
        limit where Google takes one, a network tag) and what stays as it is, and asks. What was
        on the VM stays; what runs need and it lacks is installed.
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
