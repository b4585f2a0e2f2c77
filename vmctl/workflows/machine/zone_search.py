"""From zone to zone until one has it: each refusal is told, weighed and remembered."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import already_there
from vmctl.domain.duration import duration_text
from vmctl.domain.errors import InvalidInput, NoCapacity, Unreachable, VmctlError
from vmctl.domain.events import Started, Story, Warned
from vmctl.domain.google.api_errors import ApiError, Kind, advice
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.placement import (
    Attempt,
    GiveUp,
    NextZone,
    SearchPolicy,
    decide,
    region_of,
    round_gap_s,
)

DROP_GAP_S = 10.0
Ask = Callable[[NextZone], Story[Operation]]
Explain = Callable[[ApiError], VmctlError]


@dataclass(frozen=True, slots=True)
class ZoneRefusal:
    """What became of one zone, for people and for programs."""

    zone: str
    kind: str
    code: str
    message: str
    advice: str
    tries: int


def search(
    order: Sequence[str],
    ask: Ask,
    clock: Clock,
    patience: SearchPolicy,
    *,
    what: str,
    explain: Explain,
    project: str,
    left: str = "nothing is left over",
) -> Story[Operation]:
    """Ask zone after zone as `decide` says; the operation that went well, or found one there.

    With patience the round is repeated with growing gaps until its time is over. Raises an error
    that carries what every zone said. `left` is what stays when a pause is ended by Ctrl-C.
    """
    every: list[Attempt] = []
    this_round: list[Attempt] = []
    rounds, deadline = 1, clock.monotonic() + patience.wait_s
    step = decide(order, ())
    while True:
        if isinstance(step, GiveUp):
            left_s = deadline - clock.monotonic()
            if not step.may_pass or left_s <= 0:
                raise _gave_up(order, every, what, explain, patience, project)
            why = _why_not_now(_decisive(every).kind, what)
            yield from _pause(min(round_gap_s(rounds), left_s), left_s, f"{why}.", left, clock)
            # a zone that does not offer it is not asked again
            this_round = [one for one in this_round if one.failure.kind is Kind.NOT_OFFERED]
            rounds, step = rounds + 1, decide(order, this_round)
            continue
        if step.after_s:
            clock.sleep(step.after_s)
        done = yield from _through_drops(ask, step, deadline, clock)
        if done.failure is None or already_there(done):
            return done
        attempt = Attempt(step.zone, done.failure)
        every.append(attempt)
        this_round.append(attempt)
        step = decide(order, this_round)
        again = isinstance(step, NextZone) and step.after_s
        more = f" Trying again there in {again:g} s." if again else ""
        yield Warned(f"{attempt.zone}: {_told(attempt.failure)}{more}")


def _through_drops(ask: Ask, step: NextZone, deadline: float, clock: Clock) -> Story[Operation]:
    """Ask in one zone; as long as there is patience, a lost network is no answer.

    The same zone is asked again, never another: what was asked before the drop may have been
    heard, and in the same zone it is found again.
    """
    while True:
        try:
            return (yield from ask(step))
        except Unreachable as error:
            if clock.monotonic() >= deadline:
                raise
            gap_s = min(DROP_GAP_S, max(deadline - clock.monotonic(), 0.0))
            yield Warned(f"{error.message.rstrip('.')}. Asking again in {gap_s:.0f} s.")
            clock.sleep(gap_s)


def refusals(attempts: Sequence[Attempt], project: str) -> tuple[ZoneRefusal, ...]:
    """One row per zone, in the order in which they were first tried: what each said last."""
    last = {attempt.zone: attempt.failure for attempt in attempts}
    return tuple(
        ZoneRefusal(
            zone=zone,
            kind=str(failure.kind),
            code=failure.code,
            message=_said(failure),
            advice=advice(failure, project),
            tries=sum(attempt.zone == zone for attempt in attempts),
        )
        for zone, failure in last.items()
    )


def _why_not_now(kind: Kind, what: str) -> str:
    match kind:
        case Kind.TRANSIENT:
            return "Compute Engine is busy"
        case Kind.QUOTA:
            return f"Too little quota for {what} now"
        case _:
            return f"No capacity for {what} now"


def _pause(gap_s: float, left_s: float, why: str, stays: str, clock: Clock) -> Story[None]:
    now = clock.now().astimezone()
    at, until = (now + timedelta(seconds=s) for s in (gap_s, left_s))
    yield Started(
        "wait",
        f"{why} Trying again at {at:%H:%M:%S} (in {duration_text(gap_s)}), until "
        f"{until:%H:%M}; Ctrl-C stops waiting, {stays}",
    )
    clock.sleep(gap_s)


def _said(failure: ApiError) -> str:
    """Google's words; with its code where vmctl does not know what they mean."""
    if failure.kind is Kind.UNKNOWN and failure.code not in failure.message:
        return f"{failure.code}: {failure.message}"
    return failure.message


def _told(failure: ApiError) -> str:
    """The line of one attempt; of a stockout only what is the matter."""
    if failure.kind is Kind.STOCKOUT and failure.message:
        return f"{failure.first_sentence}."
    return _said(failure)


def _gave_up(
    order: Sequence[str],
    attempts: Sequence[Attempt],
    what: str,
    explain: Explain,
    patience: SearchPolicy,
    project: str,
) -> VmctlError:
    last = _decisive(attempts)
    if last.kind is Kind.NOT_OFFERED:
        zones = ", ".join(dict.fromkeys(attempt.zone for attempt in attempts))
        error: VmctlError = InvalidInput(
            f"Google no longer offers {what} in {zones} (vmctl's table is out of date).",
            hint="See where it is offered: vmctl gpus; then: vmctl up --region REGION (or "
            "--any-region). If it is misspelt, check --machine and --gpu.",
        )
    elif last.kind is Kind.STOCKOUT:
        error = NoCapacity(
            f"No zone that was tried has {what} just now: "
            f"{', '.join(dict.fromkeys(attempt.zone for attempt in attempts))}.",
            hint=_hint(order, attempts, patience),
        )
    else:
        error = explain(last)
    # what every zone said, in place of what the explanation has to tell about the last one
    error.attempts = [
        {name: getattr(row, name) for name in ZoneRefusal.__dataclass_fields__}
        for row in refusals(attempts, project)
    ]
    return error


def _decisive(attempts: Sequence[Attempt]) -> ApiError:
    """What the last zone said that offers the machine; if none does, what the last one said."""
    offering = [one for one in attempts if one.failure.kind is not Kind.NOT_OFFERED]
    return (offering or attempts)[-1].failure


def _hint(order: Sequence[str], attempts: Sequence[Attempt], patience: SearchPolicy) -> str:
    named = [zone for attempt in reversed(attempts) for zone in attempt.failure.zones_available]
    outside = [zone for zone in named if zone not in order]
    if outside:
        return f"Google names {', '.join(dict.fromkeys(outside))}: vmctl up --zone {outside[0]}"
    if patience.any_region:
        return "Keep trying: vmctl up --any-region --wait 2h"
    if len(order) == 1:
        region = region_of(order[0])
        return f"Let vmctl try the whole region: vmctl up --region {region} (or --any-region)"
    return "Other regions, by price: vmctl up --any-region; or keep trying: vmctl up --wait 2h"
