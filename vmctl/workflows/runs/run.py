"""Run jobs on the VM, follow them, see them, enter them, end them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, NotFound
from vmctl.domain.events import Info, RunStarted, Started, Story, Warned
from vmctl.domain.names import find_nearest
from vmctl.domain.runs.arguments import check_arguments
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
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.workflows.base.agreements import Agree, values_for
from vmctl.workflows.base.stories import drain
from vmctl.workflows.runs.backend import RunBackend, open_backend

if TYPE_CHECKING:
    from vmctl.domain.money.ledger import PaidRun
    from vmctl.domain.settings.target_settings import SlurmSettings
    from vmctl.guest.messages import StartRequest


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
    slurm: SlurmSettings | None = None,
    clock: Clock | None = None,
) -> Story[RunResult]:
    """Start a job and follow it to its end; closing the story leaves it running.

    The very same run that goes on already is followed instead of started twice. `agree` is asked
    before variables that look like secrets are passed on for the first time; `slurm` is what the
    command line asks of a cluster.
    """
    clock = clock or Clock()
    settings = own_script(project, job) or job_named(project, job)
    if args:
        check_arguments(settings.command, settings.name)
    values = yield from values_for(project, settings, agree)
    request = request_of(project, settings, args, values)
    backend = yield from open_backend(project, clock, agree)
    run_id, existing = yield from backend.start(request, slurm)
    if existing:
        yield RunStarted(run_id, f"{run_id} is already running with these arguments")
    else:
        yield RunStarted(run_id, f"{backend.started} {run_id}")
    if backend.stops_at is not None:
        yield _limit(backend.stops_at, clock)
    if detach:
        facts = choose(backend.list_runs(), run_id)
    else:
        facts = yield from backend.follow(run_id, wait=True)
    lost_because = yield from backend.why_lost(facts)
    return _result(project, facts, backend, lost_because)


def logs(
    project: Project,
    wanted: str | None = None,
    follow: bool = False,
    *,
    clock: Clock | None = None,
) -> Story[RunResult]:
    """What a run has written so far; with `follow`, on until it ends."""
    clock = clock or Clock()
    backend = yield from open_backend(project, clock)
    chosen = choose(backend.list_runs(), wanted)
    facts = yield from backend.follow(chosen.id, wait=follow)
    lost_because = yield from backend.why_lost(facts)
    if lost_because and not follow:
        yield Warned(f"The run {facts.id} was lost. {lost_because} Again: vmctl run {facts.job}")
    return _result(project, facts, backend, lost_because)


# -- the others ------------------------------------------------------------------------------


def ps(project: Project) -> list[RunView]:
    """The runs of the project, the newest first."""
    return [view(facts) for facts in newest_first(_backend(project).list_runs())]


def attach(project: Project, wanted: str | None = None) -> int:
    """Enter a run with this terminal; leaving it lets it run."""
    backend = _backend(project)
    facts = running_first(backend.list_runs(), wanted)
    if observe(facts).is_over:
        raise Conflict(
            f"{facts.id} has ended ({observe(facts)}).", hint=f"Read it: vmctl logs {facts.id}"
        )
    return backend.attach(facts)


def cancel(project: Project, wanted: str, *, clock: Clock | None = None) -> Story[CancelResult]:
    """End a run: SIGTERM first, so that it can save; one that has ended is not an error."""
    backend = yield from open_backend(project, clock or Clock())
    facts = running_first(backend.list_runs(), wanted)
    if not observe(facts).is_over:
        yield Started("cancel", f"Stopping {facts.id}, giving it time to save")
    facts, already = backend.cancel(facts.id)
    return CancelResult(facts.id, facts.job, str(observe(facts)), already)


# -- small things ----------------------------------------------------------------------------


def own_script(project: Project, word: str) -> JobSettings | None:
    """A batch script of the user's own that `run` is given in the place of a job."""
    if project.target is None or project.target.kind != "slurm":
        return None
    from vmctl.workflows.runs.slurm_backend import is_own_script

    return JobSettings(word, f"sbatch {word}") if is_own_script(project, word) else None


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


def request_of(
    project: Project, job: JobSettings, args: Sequence[str], values: Mapping[str, str]
) -> StartRequest:
    """The run's spec; values of the environment travel in it, never in a command line.

    Raises what `needed_files` does of a script or a package.
    """
    request: StartRequest = {
        "project": project.name,
        "job": job.name,
        "directory": job.directory,
        "command": job.command,
        "args": list(args),
        "setup": list(job.setup),
        "env": dict(values),
        "outputs": list(job.outputs),
    }
    if job.script or job.package:
        from vmctl.workflows.runs.job_files import needed_files, package_folder

        request["needs"] = needed_files(project, job)
        if job.requirements or job.package:
            request["installs"] = {
                "requirements": list(job.requirements),
                "package": package_folder(job),
            }
    return request


def _backend(project: Project) -> RunBackend:
    return drain(open_backend(project, Clock(), quietly=True))


def ended_runs(project: Project, usd_per_hour: float | None) -> list[PaidRun]:
    """The runs on the VM that have ended, with what it cost meanwhile."""
    runs = _backend(project).list_runs()
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


def _result(project: Project, facts: RunFacts, backend: RunBackend, lost_because: str) -> RunResult:
    state = observe(facts)
    shown = view(facts)
    code = facts.exit_code if state.is_over else None
    if state in (RunState.LOST, RunState.CANCELLED) and not code:
        code = 1
    stops = backend.stops_at.isoformat(timespec="seconds") if backend.stops_at else None
    paid = _paid(project, facts, backend.usd_per_hour)
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
        price_dated=backend.price_dated or None,
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
