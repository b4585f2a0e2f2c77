"""From zone to zone until one has the machine; every refusal is reported, weighed and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta

from vmctl.cloud.compute.compute import already_there
from vmctl.domain.duration import duration_text
from vmctl.domain.errors import InvalidInput, NoCapacity, Unreachable, VmctlError
from vmctl.domain.events import Finished, Started, Story, Warned
from vmctl.domain.google.api_errors import ApiError, Kind, advice
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.zone_order import (
    Attempt,
    GiveUp,
    NextZone,
    SearchPolicy,
    decide,
    region_of,
    round_gap_s,
)
from vmctl.workflows.base.operations import wait_operation
from vmctl.workflows.base.site import Site
from vmctl.workflows.machine.quota_check import to_error
from vmctl.workflows.machine.watchdog_setup import limit_in_zone
from vmctl.workflows.machine.zone_plan import ZonePlan

DROP_GAP_S = 10.0
Ask = Callable[[NextZone], Story[Operation]]


@dataclass(frozen=True, slots=True)
class ZoneRefusal:
    """What became of one zone, for people and for programs."""

    zone: str
    kind: str
    code: str
    message: str
    advice: str
    tries: int


@dataclass(frozen=True, slots=True)
class ZoneSearch:
    """Goes through a plan's zones; `left` is what stays when a pause is ended by Ctrl-C."""

    site: Site
    plan: ZonePlan
    policy: SearchPolicy
    doing: str  # "Creating vmctl-unet"
    left: str = "nothing is left over"

    def run(self, ask: Ask) -> Story[Operation]:
        """Ask zone after zone as `decide` says; the operation that succeeded, or found a VM there.

        Where the policy has a time, the round is repeated with growing gaps until it is over.
        Raises an error that carries what every zone said.
        """
        every: list[Attempt] = []
        this_round: list[Attempt] = []
        order, clock = self.plan.zones, self.site.clock
        rounds, deadline = 1, clock.monotonic() + self.policy.wait_s
        step = decide(order, ())
        while True:
            if isinstance(step, GiveUp):
                left_s = deadline - clock.monotonic()
                if not step.may_pass or left_s <= 0:
                    raise self._error(every)
                why = _why_not_now(_decisive(every).kind, self.plan.machine)
                yield from self._pause(min(round_gap_s(rounds), left_s), left_s, why)
                # a zone that does not offer it is not asked again
                this_round = [one for one in this_round if one.failure.kind is Kind.NOT_OFFERED]
                rounds, step = rounds + 1, decide(order, this_round)
                continue
            if step.after_s:
                clock.sleep(step.after_s)
            done = yield from self._through_drops(ask, step, deadline)
            if done.failure is None or already_there(done):
                return done
            attempt = Attempt(step.zone, done.failure)
            every.append(attempt)
            this_round.append(attempt)
            step = decide(order, this_round)
            again = isinstance(step, NextZone) and step.after_s
            more = f" Trying again there in {again:g} s." if again else ""
            yield Warned(f"{attempt.zone}: {_short_message(attempt.failure)}{more}")

    def _through_drops(self, ask: Ask, step: NextZone, deadline: float) -> Story[Operation]:
        """Ask in one zone; until the deadline a lost network is no answer.

        The same zone is asked again, never another: a request sent before the connection dropped
        may have arrived, and in the same zone its result is found.
        """
        clock = self.site.clock
        while True:
            try:
                return (yield from ask(step))
            except Unreachable as error:
                if clock.monotonic() >= deadline:
                    raise
                gap_s = min(DROP_GAP_S, max(deadline - clock.monotonic(), 0.0))
                yield Warned(f"{error.message.rstrip('.')}. Asking again in {gap_s:.0f} s.")
                clock.sleep(gap_s)

    def _pause(self, gap_s: float, left_s: float, why: str) -> Story[None]:
        now = self.site.clock.now().astimezone()
        at, until = (now + timedelta(seconds=s) for s in (gap_s, left_s))
        yield Started(
            "wait",
            f"{why}. Trying again at {at:%H:%M:%S} (in {duration_text(gap_s)}), "
            f"until {until:%H:%M}; Ctrl-C stops waiting, {self.left}",
        )
        self.site.clock.sleep(gap_s)

    def _error(self, attempts: Sequence[Attempt]) -> VmctlError:
        """Why no zone gave the machine, with what every zone said."""
        last, what = _decisive(attempts), self.plan.machine
        zones = ", ".join(dict.fromkeys(attempt.zone for attempt in attempts))
        if last.kind is Kind.NOT_OFFERED:
            error: VmctlError = InvalidInput(
                f"Google no longer offers {what} in {zones} (vmctl's table is out of date).",
                hint="See where it is offered: vmctl gpus; then: vmctl up --region REGION "
                "(or --any-region). If it is misspelt, check --machine and --gpu.",
            )
        elif last.kind is Kind.STOCKOUT:
            error = NoCapacity(
                f"No zone that was tried has {what} just now: {zones}.",
                hint=_hint(self.plan.zones, attempts, self.policy),
            )
        else:
            error = to_error(last, self.plan.demand, self.site.compute, self.doing)
        # what every zone said, in place of what the explanation says about the last one
        error.attempts = list(map(asdict, refusals(attempts, self.site.compute.project)))
        return error


def create(
    site: Site, spec: InstanceSpec, plan: ZonePlan, policy: SearchPolicy
) -> Story[str | None]:
    """Try the plan's zones until one gives the VM: that zone, or None when it exists already.

    Raises NoCapacity with what Google said about each zone, or at once what no other zone helps.
    """
    count = 0

    def ask(next_zone: NextZone) -> Story[Operation]:
        nonlocal count
        count += 1
        began = site.clock.monotonic()
        zone = next_zone.zone
        named = ", which Google names" if next_zone.named else ""
        nth = f" (attempt {count})" if count > 1 else ""
        yield Started("create", f"Creating {spec.name} ({plan.machine}) in {zone}{named}{nth}")
        asked = site.compute.insert(limit_in_zone(spec, zone))
        done = yield from wait_operation(site, asked, "create")
        if done.failure is None:
            seconds = site.clock.monotonic() - began
            yield Finished("create", f"{spec.name} created in {zone}", seconds)
        return done

    left = "nothing is left over"
    if spec.snapshot:
        left = "and the snapshot of the move is kept: `vmctl up` continues with it"
    done = yield from ZoneSearch(site, plan, policy, f"Creating {spec.name}", left).run(ask)
    return None if done.failure is not None else done.zone


def refusals(attempts: Sequence[Attempt], project: str) -> tuple[ZoneRefusal, ...]:
    """One row per zone, in the order in which they were first tried: what each said last."""
    last = {attempt.zone: attempt.failure for attempt in attempts}
    return tuple(
        ZoneRefusal(
            zone=zone,
            kind=str(failure.kind),
            code=failure.code,
            message=_full_message(failure),
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


def _full_message(failure: ApiError) -> str:
    """Google's words; with its code where vmctl does not know what they mean."""
    if failure.kind is Kind.UNKNOWN and failure.code not in failure.message:
        return f"{failure.code}: {failure.message}"
    return failure.message


def _short_message(failure: ApiError) -> str:
    """The line of one attempt; of a stockout only what is the matter."""
    if failure.kind is Kind.STOCKOUT and failure.message:
        return f"{failure.first_sentence}."
    return _full_message(failure)


def _decisive(attempts: Sequence[Attempt]) -> ApiError:
    """What the last zone said that offers the machine; if none does, what the last one said."""
    offering = [one for one in attempts if one.failure.kind is not Kind.NOT_OFFERED]
    return (offering or attempts)[-1].failure


def _hint(order: Sequence[str], attempts: Sequence[Attempt], policy: SearchPolicy) -> str:
    named = [zone for attempt in reversed(attempts) for zone in attempt.failure.zones_available]
    outside = [zone for zone in named if zone not in order]
    if outside:
        return f"Google names {', '.join(dict.fromkeys(outside))}: vmctl up --zone {outside[0]}"
    if policy.any_region:
        return "Keep trying: vmctl up --any-region --wait 2h"
    if len(order) == 1:
        region = region_of(order[0])
        return f"Let vmctl try the whole region: vmctl up --region {region} (or --any-region)"
    return "Other regions, by price: vmctl up --any-region; or keep trying: vmctl up --wait 2h"
