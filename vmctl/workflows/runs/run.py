"""Run jobs on the VM, follow them, see them, enter them, end them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.config import JobSettings, Project
from vmctl.domain.command import command
from vmctl.domain.errors import Conflict, NotFound, TimedOut, Unreachable
from vmctl.domain.events import Info, Output, RunStarted, Started, Story, Warned
from vmctl.domain.guest_replies import unexpected_reply
from vmctl.domain.names import find_nearest
from vmctl.domain.runs.run import (
    RunFacts,
    RunResult,
    RunState,
    RunView,
    choose,
    newest_first,
    observe,
    running_first,
    view,
)
from vmctl.guest.protocol import CANCEL, FOLLOW, RUNS, START, TMUX
from vmctl.ssh import rpc
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import tail_of
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.base.agreements import Agree, values_for
from vmctl.workflows.runs.lost_runs import gone_with_its_vm, why_gone, why_lost
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.session.reconnect import Reconnector
from vmctl.workflows.session.session import Session, connect, connect_quietly

if TYPE_CHECKING:
    from vmctl.domain.money.ledger import PaidRun
    from vmctl.guest.protocol import FollowRequest, ProjectRequest, RunRequest, StartRequest

NOT_FOUND = 127  # a shell's exit code for a program that is not there
SESSION_GAP_S = 0.5
SESSION_LIMIT_S = 60.0  # until a run without a tmux session is given up
STEADY_S = 30.0  # after which a connection counts as progress, even without output


@dataclass(frozen=True, slots=True)
class CancelResult:
    """What became of a cancelled run; `already` when it had ended before."""

    run_id: str
    job: str
    state: str
    already: bool


# -- run and logs ----------------------------------------------------------------------------


def run(
    project: Project,
    job: str,
    args: Sequence[str] = (),
    detach: bool = False,
    *,
    agree: Agree | None = None,
    clock: Clock | None = None,
) -> Story[RunResult]:
    """Start a job in tmux and follow it to its end; closing the story leaves it running.

    The very same run that goes on already is followed instead of started twice. `agree` is asked
    before variables that look like secrets are passed on for the first time.
    """
    clock = clock or Clock()
    settings = job_named(project, job)
    values = yield from values_for(project, settings, agree)
    session = yield from connect(project, clock=clock)
    request = _request(project, settings, args, values)
    if session.stops_at is not None:  # the VM's watchdog warns the run by it
        request["stops_at"] = session.stops_at.timestamp()
    started = rpc.call(session.ssh, START, request)
    if "unprepared" in started:
        yield from prepare_machine(session.ssh, clock=clock)
        started = rpc.call(session.ssh, START, request)
    if "unprepared" in started:
        raise unexpected_reply("start found nothing prepared right after set-up")
    run_id = started["id"]
    if started["existing"]:
        yield RunStarted(run_id, f"{run_id} is already running with these arguments")
    else:
        yield RunStarted(run_id, f"Started {run_id}")
    if session.stops_at is not None:
        yield _limit(session.stops_at, clock)
    if detach:
        facts = _one(session.ssh, project, run_id)
    else:
        facts = yield from _follow(project, session, run_id, True, clock)
    lost_because = yield from why_lost(project, facts, clock)
    return _result(project, facts, session, lost_because)


def logs(
    project: Project,
    wanted: str | None = None,
    follow: bool = False,
    *,
    clock: Clock | None = None,
) -> Story[RunResult]:
    """What a run has written so far; with `follow`, on until it ends."""
    clock = clock or Clock()
    session = yield from connect(project, clock=clock)
    chosen = choose(_facts(session.ssh, project), wanted)
    facts = yield from _follow(project, session, chosen.id, follow, clock)
    lost_because = yield from why_lost(project, facts, clock)
    if lost_because and not follow:
        yield Warned(f"The run {facts.id} was lost. {lost_because} Again: vmctl run {facts.job}")
    return _result(project, facts, session, lost_because)


def _follow(
    project: Project, session: Session, run_id: str, wait: bool, clock: Clock
) -> Story[RunFacts]:
    """The log from its start; after a lost link it goes on at the byte where it broke off."""
    reconnector = Reconnector(project, clock, notice=Warned)
    offset, idle_since = 0, None
    while True:
        before, opened_at = offset, float("inf")
        request: FollowRequest = {"id": run_id, "offset": offset, "wait": wait}
        try:
            process = rpc.stream(session.ssh, FOLLOW, request)
            opened_at = clock.monotonic()
            try:
                assert process.stdout is not None
                while data := os.read(process.stdout.fileno(), 1 << 16):
                    offset += len(data)
                    yield Output(data)
                facts = _last_facts(session.ssh, process)
            finally:
                end_process(process)
            if observe(facts).is_over or not wait:
                return facts
            # no session yet: it comes in a moment, or the run is lost
            if offset > before or idle_since is None:
                idle_since = clock.monotonic()
            elif clock.monotonic() - idle_since > SESSION_LIMIT_S:
                raise TimedOut(
                    f"The VM reports {run_id} as running, but ended its log.",
                    hint=f"Check it: vmctl ps, vmctl logs {run_id}",
                )
            clock.sleep(SESSION_GAP_S)
        except Unreachable as error:
            progressed = offset > before or clock.monotonic() - opened_at > STEADY_S
            yield from reconnector.connection_lost(error, progressed=progressed)
            try:  # while the VM cannot be reached, the old connection is kept to try
                session = (yield from reconnector.session(verify=True)) or session
            except (NotFound, Conflict) as missing:  # a run does not outlive its VM
                why = yield from why_gone(project, clock)
                raise gone_with_its_vm(run_id, why) from missing


def _last_facts(ssh: OpenSSH, process: subprocess.Popen[bytes]) -> RunFacts:
    """The follower's final reply, which comes after the whole log."""
    errors, code = tail_of(process)
    if code == 0:
        word = rpc.parse_last_reply(FOLLOW, "run", errors)
        if word is not None:
            return RunFacts.parse(word["run"])
    raise rpc.explain_end(ssh, code, errors)


# -- the others ------------------------------------------------------------------------------


def ps(project: Project) -> list[RunView]:
    """The runs on the VM, the newest first."""
    return [view(facts) for facts in newest_first(_facts(connect_quietly(project), project))]


def attach(project: Project, wanted: str | None = None) -> int:
    """Enter a run's tmux session with this terminal; Ctrl-B D leaves it running."""
    vm = connect_quietly(project)
    facts = running_first(_facts(vm, project), wanted)
    if observe(facts).is_over:
        raise Conflict(
            f"{facts.id} has ended ({observe(facts)}).", hint=f"Read it: vmctl logs {facts.id}"
        )
    line = command(*TMUX, "attach-session", "-t", f"={facts.id}")
    code = vm.interactive(line, tty=True)
    if code == NOT_FOUND:
        raise Conflict(
            f"tmux is not installed there, so {facts.id} cannot be entered.",
            hint=f"Follow it: vmctl logs -f {facts.id}",
        )
    return code


def cancel(project: Project, wanted: str, *, clock: Clock | None = None) -> Story[CancelResult]:
    """End a run: SIGTERM first, so that it can save; one that has ended is not an error."""
    session = yield from connect(project, clock=clock)
    facts = running_first(_facts(session.ssh, project), wanted)
    if not observe(facts).is_over:
        yield Started("cancel", f"Stopping {facts.id}, giving it time to save")
    request: RunRequest = {"id": facts.id}
    reply = rpc.call(session.ssh, CANCEL, request)
    facts = RunFacts.parse(reply["run"])
    return CancelResult(facts.id, facts.job, str(observe(facts)), bool(reply["already"]))


# -- small things ----------------------------------------------------------------------------


def job_named(project: Project, name: str) -> JobSettings:
    """A job of vmctl.toml; NotFound names the nearest."""
    found = project.jobs.get(name)
    if found is not None:
        return found
    close = find_nearest(name, project.jobs)
    known = ", ".join(sorted(project.jobs))
    if close:
        hint = f"vmctl run {close}"
    elif known:
        hint = f"One of: {known}"
    else:
        hint = f'Write one in vmctl.toml: [jobs.{name}] command = "python train.py"'
    raise NotFound(f"There is no job '{name}' in vmctl.toml.", hint=hint)


def _request(
    project: Project, job: JobSettings, args: Sequence[str], values: Mapping[str, str]
) -> StartRequest:
    """The run's spec; values of the environment travel in it, never in a command line."""
    return {
        "project": project.name,
        "job": job.name,
        "directory": job.directory,
        "command": job.command,
        "args": list(args),
        "setup": list(job.setup),
        "env": dict(values),
        "outputs": list(job.outputs),
    }


def _facts(ssh: OpenSSH, project: Project) -> list[RunFacts]:
    request: ProjectRequest = {"project": project.name}
    reply = rpc.call(ssh, RUNS, request)
    return [RunFacts.parse(found) for found in reply["runs"]]


def _one(ssh: OpenSSH, project: Project, run_id: str) -> RunFacts:
    return choose(_facts(ssh, project), run_id)


def ended_runs(project: Project, usd_per_hour: float | None) -> list[PaidRun]:
    """The runs on the VM that have ended, with what it cost meanwhile."""
    runs = _facts(connect_quietly(project), project)
    found = [_paid(project, facts, usd_per_hour) for facts in runs]
    return [run for run in found if run is not None]


def _paid(project: Project, facts: RunFacts, usd_per_hour: float | None) -> PaidRun | None:
    from vmctl.domain.money.ledger import PaidRun  # imported only for a run that has ended

    if facts.created_at is None or facts.ended_at is None:
        return None
    hours = max(facts.ended_at - facts.created_at, 0.0) / 3600
    return PaidRun(
        id=facts.id,
        job=facts.job,
        project=project.name,
        began_at=datetime.fromtimestamp(facts.created_at, UTC),
        ended_at=datetime.fromtimestamp(facts.ended_at, UTC),
        usd=None if usd_per_hour is None else usd_per_hour * hours,
    )


def _result(project: Project, facts: RunFacts, session: Session, lost_because: str) -> RunResult:
    state = observe(facts)
    shown = view(facts)
    code = facts.exit_code if state.is_over else None
    if state in (RunState.LOST, RunState.CANCELLED) and not code:
        code = 1
    stops = session.stops_at.isoformat(timespec="seconds") if session.stops_at else None
    paid = _paid(project, facts, session.usd_per_hour)
    if paid is not None:
        from vmctl.workflows.costs.ledger_store import note_run

        note_run(project, paid)
    return RunResult(
        run_id=facts.id,
        job=facts.job,
        state=str(state),
        code=code,
        seconds=shown.seconds,
        stops_at=stops,
        usd=None if paid is None or paid.usd is None else round(paid.usd, 4),
        price_dated=session.price_dated or None,
        lost_because=lost_because,
    )


def _limit(stops_at: datetime, clock: Clock) -> Info | Warned:
    left_s = (stops_at - clock.now()).total_seconds()
    text = f"Google stops the VM at {stops_at.astimezone():%H:%M on %d %b} ({_span(left_s)} left)"
    if left_s < 1800:
        return Warned(f"{text}; longer at its next start: vmctl up --max-hours H")
    return Info(text)


def _span(seconds: float) -> str:
    minutes = max(0, int(seconds // 60))
    return f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min"
