"""tunnel, tunnels, ssh, exec, login, ssh-config: reach the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vmctl.cli.completion import SERVICES, TUNNELS
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument, option
from vmctl.cli.terminal import sinks
from vmctl.domain.errors import InvalidInput

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.domain.events import Event

PANEL = Panel("Access")


@PANEL.command(
    "tunnel",
    takes_target=True,
    examples="vmctl tunnel tensorboard\nvmctl tunnel jupyter --open\nvmctl tunnel 8000:80\n"
    "vmctl tunnel tensorboard --port auto --background\nvmctl tunnel stop tensorboard\n"
    "vmctl tunnel stop all",
    print_gcloud=lambda lines, context, what, which, port, **_: lines.of_tunnel(
        context.project(), what, which, port
    ),
)
def tunnel(
    context: Context,
    what: Annotated[
        str,
        argument(
            metavar="SERVICE|PORT[:REMOTE]|stop",
            help="tensorboard, jupyter, a service of vmctl.toml, or a port of the VM; "
            "stop closes tunnels.",
            autocompletion=SERVICES,
        ),
    ],
    which: Annotated[
        str | None,
        argument(
            metavar="[X|all]",
            help="After stop: what to close, a service or a local port; "
            "by default all tunnels of this VM, with all those of every VM.",
            autocompletion=TUNNELS,
        ),
    ] = None,
    port: Annotated[
        str | None,
        option(
            metavar="PORT|auto",
            help="Local port; by default the service's own. auto: the next that is free.",
        ),
    ] = None,
    open_: Annotated[bool, option("--open", help="Open the browser.")] = False,
    background: Annotated[
        bool,
        option(
            "--background",
            help="Return once the URL answers; the tunnel stays open in the background.",
        ),
    ] = False,
    supervise: Annotated[bool, option("--supervise", hidden=True)] = False,
) -> None:
    """Reach a service on the VM at localhost; starts it there if it is not running.

    Waits until it answers, prints the URL, and reconnects by itself until Ctrl-C, also when
    this computer slept, its network changed, or the VM's address changed. A tunnel in the
    background ends with `vmctl tunnel stop`, or when its VM is deleted.
    """
    from vmctl.domain.runs.tunnel import parse_port
    from vmctl.workflows.tunnels.background import refuse_second_word

    if what == "stop":
        _stop(context, which)
        return
    refuse_second_word(what, which)
    number, any_port = parse_port(port)
    if background:
        _in_background(context, what, number, any_port, open_)
    else:
        _in_terminal(context, what, number, any_port, open_, supervise)


@PANEL.command(
    "tunnels",
    examples="vmctl tunnels\nvmctl tunnels --json | jq -r '.[].url'",
)
def tunnels(context: Context) -> None:
    """List your open tunnels, those of other projects too, and how each one is."""
    from vmctl.cli.text import format_time
    from vmctl.workflows.tunnels.background import tunnels as listing

    screen = context.screen()
    found = listing()
    screen.document(found)
    if not found:
        screen.say("No tunnel is open.")
        return
    screen.table(
        ("TO", "VM", "LOCAL", "REMOTE", "STATE", "SINCE", "PROCESS", "URL"),
        [
            (
                record.what,
                record.vm,
                str(record.local_port),
                str(record.remote_port),
                record.state,
                format_time(record.since),
                f"{record.pid} {'background' if record.background else 'terminal'}",
                record.url or "-",
            )
            for record in found
        ],
    )


@PANEL.command(
    "ssh",
    takes_target=True,
    passes_words_on=True,
    examples="vmctl ssh\nvmctl ssh -- nvidia-smi",
    print_gcloud=lambda lines, context, words: lines.of_ssh(context.project(), tuple(words or ())),
)
def ssh(
    context: Context,
    words: Annotated[
        list[str] | None,
        argument(metavar="COMMAND", help="Run this command, then disconnect."),
    ] = None,
) -> int:
    """Log in to the VM over the warm connection."""
    from vmctl.workflows.session.shell import ssh as login

    return login(context.project(), tuple(words or ()), sinks())


@PANEL.command(
    "exec",
    takes_target=True,
    passes_words_on=True,
    examples="vmctl exec nvidia-smi\nvmctl exec -- bash -lc 'python -V'",
)
def exec_(
    context: Context,
    words: Annotated[list[str], argument(metavar="COMMAND")],
) -> int:
    """Run one command on the VM, in the project's folder, and return its exit code."""
    from vmctl.workflows.session.shell import exec_ as execute

    return execute(context.project(), tuple(words), sinks())


@PANEL.command(
    "login", takes_target=True, examples="vmctl login --on lab\nvmctl login --on slurm/alvis"
)
def login(context: Context) -> None:
    """Log in to a server that asks for a password or a code; other commands ride on it then.

    The connection stays for the target's keep_login (8 hours unless it says otherwise), also when
    this terminal is closed. With keys alone nobody needs it.
    """
    from vmctl.domain.duration import duration_text
    from vmctl.workflows.session.server import login as open_login

    target = context.project().target
    if target is None:
        raise InvalidInput(
            "VMs need no login: vmctl's own key opens them.",
            hint="For a server or a cluster: vmctl login --on TARGET",
        )
    screen = context.screen()
    result = open_login(target)
    screen.document(result)
    if result.opened:
        kept = duration_text(target.keep_login)
        screen.say(f"Logged in to {result.address}; the connection stays open for {kept}.")
    else:
        screen.say(f"Already logged in to {result.address}.")


@PANEL.command(
    "ssh-config",
    examples="vmctl ssh-config\nvmctl ssh-config --json | jq -r .host\nvmctl ssh-config --remove",
)
def ssh_config(
    context: Context,
    remove: Annotated[bool, option("--remove", help="Remove everything that vmctl added.")] = False,
    file: Annotated[
        Path | None,
        option(metavar="PATH", help="A file to use instead of ~/.ssh/config."),
    ] = None,
    follow: Annotated[str | None, option(metavar="HOST", hidden=True)] = None,
) -> None:
    """Give the VM a name in ~/.ssh/config, for ssh, rsync, scp and VS Code.

    The name is PROJECT.vmctl (PROJECT.local.vmctl with --local). It follows the VM when its
    address changes or it is recreated, its host key is verified, and using it renews
    vmctl's login key. One marked Include at the top of the file is all that is added there.
    """
    from vmctl.workflows.session import ssh_config as workflow

    screen = context.screen()
    if follow is not None:
        context._replace(quiet=True).screen().play(workflow.follow(follow))
        return
    if remove:
        result = workflow.remove(context.project(), file=file)
        screen.document(result)
        screen.say(f"{result.file}: {result.action}.")
        return
    result = screen.play(workflow.ssh_config(context.project(), file=file))
    screen.document(result)
    screen.say(f"{result.host} ({result.address or 'not running'}): {result.action}.")
    home = result.workspace.replace("~", f"/home/{result.user}", 1)
    screen.next_steps(
        [
            (f"ssh {result.host}", "log in"),
            (f"rsync -av data/ {result.host}:{result.workspace[2:]}/data/", "send a folder"),
            (f"code --remote ssh-remote+{result.host} {home}", "VS Code on the VM"),
        ]
    )


def _in_terminal(
    context: Context, what: str, port: int | None, any_port: bool, open_: bool, supervise: bool
) -> None:
    from vmctl.workflows.tunnels.tunnel import tunnel as story

    screen = context.screen()
    ready, run_id = False, ""

    from vmctl.domain.events import RunStarted, UrlReady

    def watch(event: Event) -> None:
        nonlocal ready, run_id
        if isinstance(event, RunStarted):
            run_id = event.run_id
        if isinstance(event, UrlReady):
            ready = True
            screen.note("Ctrl-C closes the tunnel; the service keeps running.")
            if open_:
                _open(screen, event.url)

    events = story(context.project(), what, port, any_port=any_port, background=supervise)
    try:
        screen.play(events, watch)
    except KeyboardInterrupt:
        if not ready and not run_id:
            raise
        screen.note("\nThe tunnel is closed.")
        if run_id:
            screen.note(f"Its job goes on. End it: vmctl cancel {run_id}")
    except SystemExit:  # `vmctl tunnel stop` in another terminal
        screen.note("The tunnel is closed.")
        raise


def _in_background(
    context: Context, what: str, port: int | None, any_port: bool, open_: bool
) -> None:
    from vmctl.workflows.tunnels.background import background as story

    screen = context.screen()
    record = screen.play(story(context.project(), what, port, any_port=any_port))
    screen.document(record)
    screen.say(record.url)
    screen.note(f"Close it: vmctl tunnel stop {record.what}   See all: vmctl tunnels")
    if open_:
        _open(screen, record.url)


def _stop(context: Context, which: str | None) -> None:
    from vmctl.workflows.tunnels.background import stop as story

    screen = context.screen()
    closed = screen.play(story(context.project(), which))
    screen.document(closed)
    if not closed:
        screen.say("No such tunnel is open." if which else "No tunnel of this VM is open.")


def _open(screen: Screen, url: str) -> None:
    import webbrowser

    from vmctl.workflows.tunnels.registry import address_to_open

    try:
        address = address_to_open(url)
        opened = bool(address) and webbrowser.open(address)
    except OSError as error:  # a full disk closes no tunnel
        opened = False
        screen.note(f"Cannot write the page for the browser: {error.strerror}.")
    if not opened:
        screen.note("Could not open a browser: open the URL yourself.")
