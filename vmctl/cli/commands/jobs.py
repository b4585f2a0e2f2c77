"""run, logs, ps, attach, cancel: jobs that outlive every connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypedDict, Unpack

from vmctl.cli.completion import JOBS, RUNS
from vmctl.cli.options import Context, Panel
from vmctl.cli.parameters import argument, option
from vmctl.cli.print_gcloud import show_gcloud
from vmctl.domain.events import Event, RunStarted

if TYPE_CHECKING:
    from vmctl.cli.screen import Screen
    from vmctl.config import Project
    from vmctl.domain.events import Story
    from vmctl.domain.runs.run import RunResult
    from vmctl.domain.settings.target_settings import SlurmSettings

PANEL = Panel("Jobs")
CLUSTER = "On a Slurm cluster"


class SlurmOptions(TypedDict):
    """Resources of a run on a Slurm cluster, as in [targets.NAME] and [jobs.JOB.slurm]."""

    account: Annotated[
        str | None, option(metavar="NAME", help="Who pays.", rich_help_panel=CLUSTER)
    ]
    partition: Annotated[
        str | None, option(metavar="NAME", help="Where it queues.", rich_help_panel=CLUSTER)
    ]
    time: Annotated[
        str | None,
        option(metavar="TIME", help="Time limit, such as 0-02:00:00.", rich_help_panel=CLUSTER),
    ]
    nodes: Annotated[
        int | None,
        option(
            metavar="N",
            min=1,
            help="Nodes; from two on with torchrun on each.",
            rich_help_panel=CLUSTER,
        ),
    ]
    tasks: Annotated[int | None, option(metavar="N", min=1, help="Tasks.", rich_help_panel=CLUSTER)]
    cpus: Annotated[
        int | None,
        option(metavar="N", min=1, help="Processors a task.", rich_help_panel=CLUSTER),
    ]
    mem: Annotated[
        str | None,
        option(metavar="SIZE", help="Memory a node, such as 16G.", rich_help_panel=CLUSTER),
    ]
    gpus: Annotated[
        str | None,
        option(metavar="[TYPE:]N", help="GPUs a node, such as a100:1.", rich_help_panel=CLUSTER),
    ]
    modules: Annotated[
        list[str] | None,
        option("--module", metavar="NAME", help="A module to load.", rich_help_panel=CLUSTER),
    ]
    extra: Annotated[
        list[str] | None,
        option("--sbatch", metavar="OPTION", help="An option of sbatch.", rich_help_panel=CLUSTER),
    ]


LastRun = Annotated[
    str | None,
    argument(help="A job or a run; by default the last run.", autocompletion=RUNS),
]


@PANEL.command(
    "run",
    takes_target=True,
    takes_service=True,
    passes_words_on=True,
    examples="vmctl run colorize\nvmctl run --detach colorize --epochs 20",
    print_gcloud=lambda lines, context, job, args, **_: lines.of_run(
        context.project(), job, _split_flags(args)[0]
    ),
)
def run(
    context: Context,
    job: Annotated[str, argument(help="A job of vmctl.toml.", autocompletion=JOBS)],
    args: Annotated[
        list[str] | None, argument(help="Added to the job's command unchanged.")
    ] = None,
    detach: Annotated[bool, option("--detach", "-d", help="Start the job and return.")] = False,
    print_script: Annotated[
        bool,
        option("--print-script", help="Print the batch script for a cluster; submit nothing."),
    ] = False,
    **slurm: Unpack[SlurmOptions],
) -> None:
    """Start a job in tmux on the VM and follow its output.

    Ctrl-C only stops following: the job continues (`vmctl logs -f` follows again). The job's
    exit code is this command's. Options of vmctl come before the job's name; everything
    after it belongs to the job.

    Set-up runs in ~/Workspace/PROJECT on the VM, the job in a snapshot of it: pushing
    during the run changes nothing for the job, and what the job makes is in the workspace
    within a second. What was installed with `pip install -e` still reads the workspace.

    Variables of the job's `env` are named before they are passed on; one that looks like a
    secret is asked about, once. Without a terminal that needs --yes, before the job's name.
    """
    from vmctl.workflows.runs.run import run as story

    project = context.project()
    wanted = _slurm_flags(project, slurm)
    if print_script:
        _print_script(context, project, job, wanted)
        return
    words, flags = _split_flags(args)
    if "--print-gcloud" in flags:
        show_gcloud(context, lambda lines: lines.of_run(context.project(), job, words))
        return
    detach = detach or "--detach" in flags
    screen = context.screen()
    events = story(project, job, words, detach, agree=screen.agree, slurm=wanted)
    result = _follow(screen, events, False)
    if result is None:
        return
    screen.document(result)
    if result.cost_text:
        screen.note(result.cost_text)
    has_machine = project.target is None or project.target.vertex is None
    watch = [("vmctl tunnel tensorboard", "watch it train")] if has_machine else []
    meter = [] if project.target else [("vmctl down", "stop the meter")]
    if detach:
        screen.next_steps(
            [
                ("vmctl logs -f", "follow it"),
                *watch,
                (f"vmctl cancel {job}", "stop it"),
                *meter,
            ]
        )
    elif result.code == 0:
        brings = ", ".join(project.jobs[job].outputs if job in project.jobs else ())
        screen.next_steps(
            [
                (
                    "vmctl fetch" if brings else "vmctl fetch PATH",
                    f"bring {brings or 'a file'}",
                ),
                (f"vmctl logs {result.run_id}", "read it again"),
                *[(line, "see its curves") for line, _ in watch],
                *meter,
            ]
        )
    _end(result)


@PANEL.command(
    "logs", takes_target=True, takes_service=True, examples="vmctl logs\nvmctl logs -f colorize"
)
def logs(
    context: Context,
    job: LastRun = None,
    follow: Annotated[
        bool, option("--follow", "-f", help="Keep following until the run ends.")
    ] = False,
) -> None:
    """Show a run's output; with -f, keep following it.

    With -f the run's exit code is this command's; Ctrl-C only stops following.
    """
    from vmctl.workflows.runs.run import logs as story

    screen = context.screen()
    result = _follow(screen, story(context.project(), job, follow), True)
    if result is None:
        return
    screen.document(result)
    if follow:
        if result.cost_text:
            screen.note(result.cost_text)
        _end(result)


@PANEL.command("ps", takes_target=True, takes_service=True, examples="vmctl ps\nvmctl ps --json")
def ps(context: Context) -> None:
    """List the runs on the VM, newest first, with their state and exit code."""
    from vmctl.cli.text import format_seconds, format_time
    from vmctl.workflows.runs.run import ps as runs_of

    screen = context.screen()
    runs = runs_of(context.project())
    screen.document(runs)
    if not runs:
        screen.note("No runs yet. Start one: vmctl run JOB")
        return
    screen.table(
        ["RUN", "JOB", "STATE", "EXIT", "STARTED", "TOOK"],
        [
            [
                run.id,
                run.job,
                f"{run.state}: {run.waits_for}" if run.waits_for else run.state,
                "" if run.exit_code is None else str(run.exit_code),
                format_time(run.started_at),
                "" if run.seconds is None else format_seconds(run.seconds),
            ]
            for run in runs
        ],
    )


@PANEL.command("attach", takes_target=True, examples="vmctl attach colorize")
def attach(
    context: Context,
    job: LastRun = None,
) -> int:
    """Enter the run's tmux session; Ctrl-B D leaves it running.

    On a cluster: a shell inside the run's job, on its first node.
    """
    from vmctl.workflows.runs.run import attach as enter

    return enter(context.project(), job)


@PANEL.command("cancel", takes_target=True, takes_service=True, examples="vmctl cancel colorize")
def cancel(
    context: Context,
    job: Annotated[str, argument(help="A job or a run.", autocompletion=RUNS)],
) -> None:
    """Stop a run: SIGTERM first, so that it can save, then SIGKILL."""
    from vmctl.workflows.runs.run import cancel as story

    screen = context.screen()
    result = screen.play(story(context.project(), job))
    screen.document(result)
    what = f"had already ended ({result.state})" if result.already else f"is {result.state}"
    screen.say(f"{result.run_id} {what}.")


def _slurm_flags(project: Project, given: SlurmOptions) -> SlurmSettings | None:
    """The resources that the command line asks of a cluster."""
    from vmctl.domain.errors import InvalidInput
    from vmctl.domain.settings.target_settings import SlurmSettings, check_slurm

    values: dict[str, Any] = {key: value for key, value in given.items() if value}
    if not values:
        return None
    if project.target is None or project.target.kind != "slurm":
        raise InvalidInput(
            f"--{next(iter(values))} is a resource of a Slurm cluster, and this run is not on one.",
            hint="Name the cluster: vmctl run --on TARGET …",
        )
    for key in ("modules", "extra"):
        values[key] = tuple(values.get(key) or ())
    return check_slurm(SlurmSettings(**values), lambda key: f"--{key}")


def _print_script(
    context: Context, project: Project, job: str, wanted: SlurmSettings | None
) -> None:
    from vmctl.cli import terminal
    from vmctl.domain.errors import InvalidInput
    from vmctl.workflows.runs.run import job_named, own_script
    from vmctl.workflows.runs.slurm_backend import script_of

    if project.target is None or project.target.kind != "slurm":
        raise InvalidInput(
            "--print-script shows the script for a Slurm cluster, and this run is not on one.",
            hint="Name the cluster: vmctl run --on TARGET --print-script JOB",
        )
    if not own_script(project, job):
        job_named(project, job)
    script = script_of(project, job, wanted)
    for line in script.splitlines():
        terminal.line(line)


def _split_flags(args: Sequence[str] | None) -> tuple[tuple[str, ...], set[str]]:
    """The job's own words, and vmctl's flags among them, which other tools allow there.

    In `run JOB -- ARGS` all that follows belongs to the job.
    """
    words = tuple(args or ())
    if words[:1] == ("--",):
        return words[1:], set()
    flags = {"--detach", "--print-gcloud"}
    return tuple(word for word in words if word not in flags), flags.intersection(words)


def _follow(screen: Screen, story: Story[RunResult], started: bool) -> RunResult | None:
    """Follow a run; None after Ctrl-C, which leaves it going and is a success.

    Before the run has started Ctrl-C is an ordinary stop.
    """

    def watch(event: Event) -> None:
        nonlocal started
        started = started or isinstance(event, RunStarted)

    try:
        return screen.play(story, watch)
    except KeyboardInterrupt:
        if not started:
            raise
        screen.note(
            "\n"
            "Detached: the run continues. Follow it again: vmctl logs -f; stop it: vmctl "
            "cancel JOB"
        )
        return None


def _end(result: RunResult) -> None:
    """End with the job's own exit code; one sentence says why when it is not 0."""
    from vmctl.domain.errors import JobFailed
    from vmctl.workflows.runs.lost_runs import job_error

    lost = job_error(result)
    if lost is not None:
        raise lost
    if result.code:
        raise JobFailed(
            f"{result.run_id} {result.state} with exit code {result.code}.",
            code=result.code,
            hint=f"Its log: vmctl logs {result.run_id}",
        )
