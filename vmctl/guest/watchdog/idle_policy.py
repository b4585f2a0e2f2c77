"""When a VM stops by itself, and who is warned before: a pure function of samples.

A VM is idle while no GPU works, no run goes on, nobody is logged in, nothing is transferred and
no Jupyter kernel works. What cannot be read counts as work, and so does time in which nobody
looked. All times are seconds since the epoch, by the metadata server's clock.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

HOUR_S = 3600.0  # a run is warned so long before any limit
LOGIN_WARNING_S = 600.0  # those who are logged in, and those who come, before an idle VM stops
SAVE_S = 300.0  # from a run's SIGTERM to the end of the VM
SAVE_SHARE = 0.05  # of a VM's whole time, where that is short
GAP_S = 300.0  # between two samples: more means that nobody looked


@dataclass(frozen=True, slots=True)
class Limits:
    """What may end the VM; 0 where nothing of the kind does."""

    idle_s: float = 0.0
    max_run_s: float = 0.0  # Google stops the VM so long after its start
    stop_at: float = 0.0  # our own limit: the end of a budget
    keep_until: float = 0.0  # somebody asked that an idle VM stays until then


@dataclass(frozen=True, slots=True)
class Sample:
    """What was seen at one moment."""

    at: float
    busy: tuple[str, ...] = ()  # what is at work, in people's words
    runs: tuple[str, ...] = ()  # the ids of those that go on
    active_at: float = 0.0  # when a signal says that something was done last; 0: it says nothing
    google_stops_at: float = 0.0  # as Google has it; 0: unknown


@dataclass(frozen=True, slots=True)
class IdleState:
    """What is remembered from one sample to the next."""

    began_at: float  # the VM's start
    seen_at: float
    idle_from: float
    idle_warned_at: float = 0.0
    limit_warned_at: float = 0.0  # those who are logged in, of our own limit
    warned: tuple[tuple[str, float], ...] = ()  # runs, and when
    ended: tuple[tuple[str, float], ...] = ()  # runs that had their SIGTERM, and when


@dataclass(frozen=True, slots=True)
class IdleDecision:
    """What is to be done now, and what will stop the VM next as things are."""

    stops_at: float = 0.0  # 0: nothing that is known will
    stops_why: str = ""  # idle, budget, or run limit
    notice: str = ""  # for those who log in
    tell_logins: str = ""
    tell_runs: tuple[tuple[str, str], ...] = ()  # run id and line for its log
    end_runs: tuple[str, ...] = ()  # SIGTERM
    power_off: str = ""  # the reason, in words


def initial_state(at: float) -> IdleState:
    """The state of a VM that has just started."""
    return IdleState(began_at=at, seen_at=at, idle_from=at)


def decide(state: IdleState, sample: Sample, limits: Limits) -> tuple[IdleState, IdleDecision]:
    """One step: what the sample makes of the state, and what follows from it."""
    state = _seen(state, sample)
    state, idle = _idle(state, sample, limits)
    state, limited = _limited(state, sample, limits)
    ends = [v for v in (idle, limited) if v.stops_at]
    first = min(ends, key=lambda v: v.stops_at) if ends else IdleDecision()
    return state, IdleDecision(
        stops_at=first.stops_at,
        stops_why=first.stops_why,
        notice="\n".join(filter(None, (idle.notice, limited.notice))),
        tell_logins="\n".join(filter(None, (idle.tell_logins, limited.tell_logins))),
        tell_runs=limited.tell_runs,
        end_runs=limited.end_runs,
        power_off=limited.power_off or idle.power_off,
    )


def _seen(state: IdleState, sample: Sample) -> IdleState:
    """Idle time continues, or starts again."""
    at = sample.at
    looked_away = not 0 <= at - state.seen_at <= GAP_S
    if sample.busy or sample.runs or looked_away:
        idle_from = at
    else:
        idle_from = max(state.idle_from, min(sample.active_at, at))
    return replace(state, seen_at=at, idle_from=idle_from)


def _idle(state: IdleState, sample: Sample, limits: Limits) -> tuple[IdleState, IdleDecision]:
    if not limits.idle_s:
        return replace(state, idle_warned_at=0.0), IdleDecision()
    stops_at = max(state.idle_from + limits.idle_s, limits.keep_until)
    before_s = min(LOGIN_WARNING_S, limits.idle_s / 4)
    if sample.at < stops_at - before_s:
        return replace(state, idle_warned_at=0.0), IdleDecision(stops_at, "idle")
    warning = ""
    words = (
        f"idle since {clock_text(state.idle_from)}: this VM stops at {clock_text(stops_at)} "
        "unless it is used (a login counts). To keep it longer: vmctl keep 1h"
    )
    if not state.idle_warned_at:
        state, warning = replace(state, idle_warned_at=sample.at), words
    # who was warned late has the time that was promised, all the same
    stops_at = max(stops_at, state.idle_warned_at + before_s)
    over = sample.at >= stops_at and not warning
    reason = f"idle since {clock_text(state.idle_from)}" if over else ""
    return state, IdleDecision(stops_at, "idle", words, warning, power_off=reason)


def _limited(state: IdleState, sample: Sample, limits: Limits) -> tuple[IdleState, IdleDecision]:
    """Google's run limit, which nothing delays, and our own, which waits for warned runs."""
    at = sample.at
    known = [limits.max_run_s and state.began_at + limits.max_run_s, sample.google_stops_at]
    google_at = min((one for one in known if one), default=0.0)
    # a budget that ended before this start was an earlier start's
    is_own = limits.stop_at > state.began_at and (not google_at or limits.stop_at < google_at)
    if not is_own and not google_at:
        return state, IdleDecision()
    limit_at = limits.stop_at if is_own else google_at
    who = "the budget ends: this VM stops" if is_own else "its run limit: Google stops this VM"
    run_lines, warned, login_line, notice = [], dict(state.warned), "", ""
    if at >= limit_at - HOUR_S:
        first_notice = not state.limit_warned_at
        state = replace(state, limit_warned_at=state.limit_warned_at or at)
        fresh = [run for run in sample.runs if run not in warned]
        warned |= dict.fromkeys(fresh, at)
        if is_own:  # nobody's run is ended by us without its hour, nobody thrown out unwarned
            waits = [warned[run] + HOUR_S for run in sample.runs]
            limit_at = max(limit_at, state.limit_warned_at + LOGIN_WARNING_S, *waits)
            if google_at:
                limit_at = min(limit_at, google_at)
        save_s = min(SAVE_S, SAVE_SHARE * max(limit_at - state.began_at, 0.0))
        notice = f"{who} at {clock_text(limit_at)}."
        login_line = notice if first_notice else ""
        run_lines = [
            (
                run,
                (
                    f"{notice} Save your work: SIGTERM will be sent at "
                    f"{clock_text(limit_at - save_s)}."
                ),
            )
            for run in fresh
        ]
        ended = dict(state.ended)
        ending = [run for run in sample.runs if run not in ended and at >= limit_at - save_s]
        ended |= dict.fromkeys(ending, at)
        state = replace(state, warned=tuple(warned.items()), ended=tuple(ended.items()))
        if is_own:  # who looks late leaves time to save all the same
            limit_at = max([limit_at, *(ended[r] + save_s for r in sample.runs if r in ended)])
            limit_at = min(limit_at, google_at or limit_at)
        run_lines += [(run, f"SIGTERM: {notice}") for run in ending]
    else:
        state = replace(state, limit_warned_at=0.0)
        ending = []
    over = is_own and at >= limit_at and not login_line
    return state, IdleDecision(
        limit_at,
        "budget" if is_own else "run limit",
        notice,
        login_line,
        tuple(run_lines),
        tuple(ending),
        "the budget is used up" if over else "",
    )


def clock_text(at: float) -> str:
    """ "Sat 21 Nov 11:05 UTC" """
    return time.strftime("%a %d %b %H:%M UTC", time.gmtime(at))
