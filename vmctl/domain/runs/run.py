"""Runs of jobs: what is known of one, and the state that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from vmctl.domain.duration import duration_text
from vmctl.domain.errors import NotFound
from vmctl.domain.slurm.job_state import WAITING, base_state, reason_text
from vmctl.domain.text import printable

STARTING_S = 10.0  # a run this young may not have its tmux session yet


class RunState(StrEnum):
    """Where a run is in its life."""

    PENDING = "pending"
    PREPARING = "preparing"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"

    @property
    def is_over(self) -> bool:
        """Nothing more will come of it."""
        return self not in {RunState.PENDING, RunState.PREPARING, RunState.RUNNING}


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What a run's directory holds and whether its tmux session is alive; times in epoch s."""

    id: str
    job: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    directory: str = ""
    outputs: tuple[str, ...] = ()
    created_at: float | None = None
    phase: str = ""
    session: bool = False
    cancel_asked: bool = False
    exit_code: int | None = None
    exit_cancelled: bool = False
    exit_interrupted: bool = False
    ended_at: float | None = None
    log_bytes: int = 0
    now: float = 0.0
    job_id: str = ""  # of a cluster's queue, as are the next four
    queue_state: str = ""
    reason: str = ""
    expected_start: float | None = None
    errors_file: str = ""

    @staticmethod
    def parse(answer: Mapping[str, Any]) -> RunFacts:
        """From the helper's answer, which has been checked; what is missing there is missing."""
        spec = answer["spec"] or {}
        ended = answer["exit"] or {}
        phase = answer["phase"] or {}
        job = answer.get("slurm") or {}
        return RunFacts(
            id=printable(answer["id"]),
            job=printable(spec.get("job") or ""),
            command=printable(spec.get("command") or ""),
            args=tuple(map(printable, spec.get("args") or ())),
            directory=printable(spec.get("directory") or ""),
            outputs=tuple(map(printable, spec.get("outputs") or ())),
            created_at=spec.get("created_at"),
            phase=printable(phase.get("phase") or ""),
            session=bool(answer["session"]),
            cancel_asked=bool(answer["cancel_asked"]),
            exit_code=ended.get("code"),
            exit_cancelled=bool(ended.get("cancelled")),
            exit_interrupted=bool(ended.get("interrupted")),
            ended_at=ended.get("ended_at"),
            log_bytes=answer["log_bytes"] or 0,
            now=answer["now"] or 0.0,
            job_id=printable(job.get("job_id") or ""),
            queue_state=printable(job.get("state") or ""),
            reason=printable(job.get("reason") or ""),
            expected_start=job.get("start"),
            errors_file=printable(job.get("errors") or ""),
        )


def observe(facts: RunFacts) -> RunState:
    """The state of a run; its recorded exit outweighs everything else."""
    if facts.exit_code is not None:
        if facts.exit_cancelled:
            return RunState.CANCELLED
        if facts.exit_interrupted:
            return RunState.LOST
        return RunState.SUCCEEDED if facts.exit_code == 0 else RunState.FAILED
    # the phase is written by the job itself, the queue is asked now and then
    if facts.session and not facts.phase and base_state(facts.queue_state) in WAITING:
        return RunState.PENDING
    if facts.session:
        return RunState.RUNNING if facts.phase == "running" else RunState.PREPARING
    if facts.cancel_asked:
        return RunState.CANCELLED
    young = facts.created_at is not None and 0 <= facts.now - facts.created_at < STARTING_S
    # a phase is written from inside the session: a run that has one has had its session
    return RunState.PREPARING if young and not facts.phase else RunState.LOST


@dataclass(frozen=True, slots=True)
class RunView:
    """One run as `ps` shows it."""

    id: str
    job: str
    state: str
    exit_code: int | None
    started_at: str | None  # ISO 8601, UTC
    seconds: float | None
    command: str
    queue_id: str = ""  # the number of its job on a cluster
    waits_for: str = ""  # why that has not begun, in words


def view(facts: RunFacts) -> RunView:
    """A run for people and for JSON."""
    state = observe(facts)
    until = facts.now if not state.is_over else facts.ended_at
    seconds = None
    if facts.created_at is not None and until is not None:
        seconds = round(max(0.0, until - facts.created_at), 1)
    return RunView(
        id=facts.id,
        job=facts.job,
        state=str(state),
        exit_code=facts.exit_code if state.is_over else None,
        started_at=_iso(facts.created_at),
        seconds=seconds,
        command=" ".join([facts.command, *facts.args]).strip(),
        queue_id=facts.job_id,
        waits_for=reason_text(facts.reason) if state is RunState.PENDING else "",
    )


@dataclass(frozen=True, slots=True)
class RunResult:
    """A run as it stands: `code` is the job's own, None while it goes on."""

    run_id: str
    job: str
    state: str
    code: int | None
    seconds: float | None
    stops_at: str | None  # when Google will end the VM, ISO 8601
    usd: float | None = None  # what the VM cost meanwhile, its disk left out: an estimate
    price_dated: str | None = None
    lost_because: str = ""  # what became of the VM under a run that was lost

    @property
    def cost_text(self) -> str:
        """What it came to, for people; "" where that is not known."""
        if self.usd is None or self.seconds is None:
            return ""
        return (
            f"{self.run_id} took {duration_text(self.seconds)}: about ${self.usd:.2f} "
            f"(an estimate by list prices, {self.price_dated})"
        )


def newest_first(runs: Sequence[RunFacts]) -> list[RunFacts]:
    """By the time of their start; a run without one is the oldest."""
    return sorted(runs, key=lambda run: (run.created_at or 0.0, run.id), reverse=True)


def choose(runs: Sequence[RunFacts], wanted: str | None) -> RunFacts:
    """The run that a word means: a run's id, else the newest of that job; no word: the newest."""
    ordered = newest_first(runs)
    if wanted is None:
        if not ordered:
            raise NotFound("No runs on this VM yet.", hint="vmctl run JOB")
        return ordered[0]
    for run in ordered:
        if wanted == run.id:
            return run
    for run in ordered:
        if wanted == run.job:
            return run
    raise NotFound(f"No run or job on the VM is called '{wanted}'.", hint="See them: vmctl ps")


def running_first(runs: Sequence[RunFacts], wanted: str | None) -> RunFacts:
    """As `choose`, but a run that goes on is preferred to a newer one that is over."""
    going = [run for run in runs if not observe(run).is_over]
    try:
        return choose(going, wanted)
    except NotFound:
        return choose(runs, wanted)


def _iso(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return None
