"""init and doctor: from nothing to the first `vmctl up`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vmctl.cli.options import Context, GpuOption, Panel
from vmctl.cli.parameters import option
from vmctl.cli.terminal import DIM, GREEN, RED, YELLOW, Part, Styled

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.domain.errors import VmctlError
    from vmctl.domain.readiness.checks import CheckResult, Checkup

PANEL = Panel("First steps")
CHECK_WIDTH = len("credentials")


@PANEL.command(
    "init",
    examples='vmctl init\nvmctl init --gpu l4 --command "python src/train.py --epochs 3"',
)
def init(
    context: Context,
    gpu: GpuOption = None,
    train: Annotated[
        str | None, option("--command", metavar="LINE", help="The command that trains.")
    ] = None,
    google_project: Annotated[
        str | None, option("--project", metavar="ID", help="Google Cloud project.")
    ] = None,
    force: Annotated[bool, option("--force", help="Replace an existing vmctl.toml.")] = False,
) -> None:
    """Write a vmctl.toml for this folder, with a comment on every line.

    Finds the Google Cloud project from your login or from gcloud's settings, and the script
    that trains; asks for the rest (without a terminal, or with --yes, it takes the defaults).
    """
    from vmctl.config import Flags, load_project
    from vmctl.workflows.setup.init import Given
    from vmctl.workflows.setup.init import init as story

    folder = Path.cwd()
    # what the folder is without any settings of its own
    flags = Flags(local=context.local, name=context.name or folder.name)
    project = load_project(Path("/"), flags=flags)
    screen = context.screen()
    given = Given(gpu, train, google_project, force)
    result = screen.play(story(project, folder, given, screen.ask))
    screen.document(result)
    steps = [("vmctl doctor", "check what `up` needs")]
    if not result.local:
        steps.append(("vmctl --local up", "rehearse on this computer, without an account"))
    steps.append(("vmctl up", "create the machine; shows its price and asks"))
    if result.job:
        steps.append((f"vmctl push && vmctl run {result.job}", "send the folder and train"))
    screen.next_steps(steps)


@PANEL.command(
    "doctor",
    takes_target=True,
    takes_service=True,
    examples="vmctl doctor\nvmctl doctor --json",
)
def doctor(context: Context) -> int:
    """Check everything that `vmctl up` needs, and say how to fix what is broken.

    Credentials, project, API, billing, machine, quota, network and firewall, image, and the
    programs of this computer, in that order. Nothing is changed and nothing costs money. The
    exit code is the one that `vmctl up` would end with, 0 if everything is ready.
    """
    from vmctl.workflows.setup.doctor import doctor as story

    project, trouble = _load_project(context)
    screen = context.screen()
    if project.target is None:
        result = screen.play(story(project, trouble))
    elif project.target.vertex is not None:
        from vmctl.workflows.vertex.doctor import check_vertex

        result = screen.play(check_vertex(project, project.target.vertex))
    else:
        from vmctl.workflows.server.report import check

        result = screen.play(check(project, project.target))
    screen.document(result)
    show_checkup(screen, result)
    return result.exit_code


def _load_project(context: Context) -> tuple[Project, VmctlError | None]:
    """The project; with settings that are wrong, its defaults, and what is wrong."""
    from vmctl.config import Flags, load_project
    from vmctl.domain.errors import InvalidInput

    try:
        return context.project(), None
    except InvalidInput as error:
        kept = ("VMCTL_LOCAL", "VMCTL_PROJECT", "VMCTL_OWNER")
        environ = {name: os.environ[name] for name in kept if name in os.environ}
        flags = Flags(local=context.local, name="unnamed")
        try:
            return load_project(Path("/"), flags=flags, environ=environ), error
        except InvalidInput:  # one of these is what is wrong
            return load_project(Path("/"), flags=flags, environ={}), error


def show_checkup(screen: Screen, result: Checkup) -> None:
    for finding in result.findings:
        for parts in format_result(finding):
            screen.say(*parts)
    screen.say(result.text)


def format_result(finding: CheckResult) -> Iterator[tuple[Part, ...]]:
    """One finding: a mark, the check and what was found; below it how to fix it."""
    from vmctl.domain.readiness.checks import CheckStatus

    mark = {
        CheckStatus.OK: Styled("✓", GREEN),
        CheckStatus.WARNING: Styled("!", YELLOW),
        CheckStatus.BROKEN: Styled("✗", RED),
        CheckStatus.SKIPPED: Styled("-", DIM),
    }[finding.status]
    message = finding.message.rstrip(".")
    skipped = f"not checked: {message}" if finding.status is CheckStatus.SKIPPED else message
    yield mark, f" {finding.check:{CHECK_WIDTH}}  {skipped}"
    for number, line in enumerate(finding.fix.splitlines()):
        lead = "fix:" if number == 0 else ""
        yield (f"  {'':{CHECK_WIDTH}}  {lead:4} {line}",)
