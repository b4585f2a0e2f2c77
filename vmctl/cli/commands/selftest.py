"""selftest: what vmctl believes of Compute Engine, looked at in the service itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import option

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.domain.errors import VmctlError
    from vmctl.workflows.selftest.selftest import SelftestPlan, SelftestResult

PANEL = Panel("Self-test")
LEFT = (
    "The next `vmctl selftest` deletes what is left; Google itself deletes the VM 30 "
    "minutes after its start."
)


@PANEL.command(
    "selftest",
    examples="vmctl selftest\nvmctl --cloud selftest --real",
)
def selftest(
    context: Context,
    real: Annotated[
        bool, option("--real", help="Check Google's Compute Engine; costs about a cent.")
    ] = False,
    trace: Annotated[
        Path | None, option("--trace", metavar="FILE", help="Where to save the trace.")
    ] = None,
) -> None:
    """Check what vmctl assumes about Compute Engine, with one small machine in ten minutes.

    Without --real the embedded one is checked. With it the price is shown first, with a
    question. Everything it makes is deleted, also after Ctrl-C. The trace is kept as JSON
    lines without project, addresses, keys or names, and can be replayed.
    """
    from vmctl.workflows.selftest.selftest import clean_up, selftest_project
    from vmctl.workflows.selftest.selftest import selftest as story

    project = selftest_project(context.project(), real=real)
    screen = context.screen()
    agreed = False

    def agree(plan: SelftestPlan) -> bool:
        nonlocal agreed
        question = f"{plan.text}\nGo ahead?" if screen.quiet else "Go ahead?"
        agreed = not plan.real or screen.confirm(question, without_terminal=True)
        return agreed

    try:
        result = screen.play(story(project, trace=trace, confirm=agree))
    except BaseException:
        if agreed:
            screen.note("\nDeleting what the self-test made.")
            try:
                screen.play(clean_up(project))
            except BaseException:
                screen.note(LEFT)
                raise
        raise
    screen.document(result)
    _report(screen, result)
    if result.trouble or result.differs:
        raise _make_error(result)


def _make_error(result: SelftestResult) -> VmctlError:
    """With the exit code of what ended it early; 1 for what does not hold."""
    from vmctl.domain import errors

    said = [f"{result.differs} assumptions do not hold"] if result.differs else []
    said += [f"it stopped early: {result.trouble.rstrip('.')}"] if result.trouble else []
    kind = getattr(errors, result.trouble_kind or "VmctlError", errors.VmctlError)
    failure: VmctlError = kind(
        f"The self-test failed: {'; '.join(said)}.",
        hint="Please report it with the trace; it is anonymised.",
    )
    return failure


def _report(screen: Screen, result: SelftestResult) -> None:
    from vmctl.domain.google.assumptions import Outcome

    screen.table(
        ["ASSUMPTION", "VERDICT", "WHAT IT IS"],
        [
            [
                one.id,
                str(one.outcome),
                f"{one.sentence} ({one.evidence})"
                if one.outcome is Outcome.UNSEEN
                else one.sentence,
            ]
            for one in result.findings
        ],
    )
    for one in result.findings:
        if one.outcome is Outcome.DIFFERS:
            screen.say(f"{one.id}: {one.evidence}")
    screen.say(result.text)
