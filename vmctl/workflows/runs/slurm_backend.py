"""Runs in a cluster's queue: a batch script is made, tried, submitted, waited for and followed."""

from __future__ import annotations

import contextlib
import select
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import Conflict, InvalidInput, Unreachable
from vmctl.domain.events import Advanced, Info, Started, Story
from vmctl.domain.runs.run import RunFacts, RunState, choose, observe
from vmctl.domain.settings.target_settings import SlurmSettings
from vmctl.domain.slurm.batch_script import (
    BatchJob,
    batch_script,
    node_command,
    resource_options,
    term_before_end,
)
from vmctl.domain.slurm.job_state import end_hint, end_text, reason_text
from vmctl.domain.slurm.refusal import explain_refusal, parse_gres
from vmctl.guest.slurm.submission import seconds
from vmctl.ssh import rpc
from vmctl.workflows.runs.backend import MachineBackend

if TYPE_CHECKING:
    from vmctl.domain.settings.job_settings import JobSettings
    from vmctl.guest.messages import StartRequest

FIRST_LOOK_S = 1.0  # many jobs start at once: then nothing is said of waiting
POLL_S = 5.0  # the cluster's queue is asked no more often


def resources(project: Project, job: str, flags: SlurmSettings | None) -> SlurmSettings:
    """What a job asks of the cluster: the command line's, else the job's, else the target's."""
    assert project.target is not None
    found = project.target.slurm
    own = project.jobs[job].slurm if job in project.jobs else None
    if own is not None:
        found = own.under(found)
    return (flags or SlurmSettings()).under(found)


def script_of(project: Project, job: str, flags: SlurmSettings | None = None) -> str:
    """The batch script that `run` would submit; one of the user's own as it is."""
    assert project.target is not None
    if is_own_script(project, job):
        return _own_text(project, job)
    slurm = resources(project, job, flags)
    return _script(project, job, slurm, project.jobs.get(job))


def _script(project: Project, job: str, slurm: SlurmSettings, settings: JobSettings | None) -> str:
    """`settings` are the job's; a service has none."""
    assert project.target is not None
    made = BatchJob(job, slurm, rpc.library_name(), project.target.workspace, _term_s(slurm))
    if settings is not None:
        *before, command = settings.steps
        steps = (*before, node_command(command, slurm))
        made = replace(made, directory=settings.directory, steps=steps)
    return batch_script(made)


def _term_s(slurm: SlurmSettings) -> int:
    return term_before_end(slurm, seconds(slurm.time or ""))


class SlurmBackend(MachineBackend):
    """Runs that the helpers on the login node hand to Slurm; they live on the shared disk."""

    started = "Submitted"
    in_slurm = True
    _said = ""  # why it waits, as it was said last

    def start(self, request: StartRequest, slurm: SlurmSettings | None) -> Story[tuple[str, bool]]:
        """Try it (sbatch --test-only), then submit; raises what the cluster refuses, in words."""
        wanted = resources(self.project, request["job"], slurm)
        serves = request.get("serves", False)
        if serves:  # one server, whatever the training takes
            wanted = replace(wanted, nodes=None, resubmit=False)
        own = not serves and is_own_script(self.project, request["job"])
        if own:
            script = _own_text(self.project, request["job"])
            options = resource_options(slurm or SlurmSettings())
            name = PurePosixPath(request["job"]).name
            request["slurm"] = {"script": script, "own": True, "name": name, "options": options}
        else:
            request["command"] = node_command(request["command"], wanted)
            job = None if serves else self.project.jobs.get(request["job"])
            request["slurm"] = {
                "script": _script(self.project, request["job"], wanted, job),
                "own": False,
                "nodes": wanted.nodes or 1,
                "term_s": _term_s(wanted),
                "modules": bool(wanted.modules),
                "resubmit": wanted.resubmit,
                "time": wanted.time or "",
                "partition": wanted.partition or "",
            }
        yield Started("submit", f"Submitting {request['job']}")
        started = yield from self._start(request)
        if "refused" in started:
            raise explain_refusal(started["refused"]["stderr"], wanted, _facts(started["refused"]))
        if own:
            errors = choose(self.list_runs(), started["id"]).errors_file
            if errors:
                yield Info(f"Its standard error goes to {errors}; it is shown at its end")
        return started["id"], started["existing"]

    def until_readable(self, stream: IO[bytes], run_id: str, offset: int) -> Story[None]:
        """Until the log goes on; before its first byte, why the job waits."""
        while not select.select([stream], [], [], 0 if offset else FIRST_LOOK_S)[0]:
            if offset:
                return  # the read itself waits
            with contextlib.suppress(Unreachable):  # the stream notices it, too
                facts = next((run for run in self.list_runs() if run.id == run_id), None)
                text = pending_text(facts) if facts else ""
                is_waiting = facts is not None and observe(facts) is RunState.PENDING
                if is_waiting and text != self._said:
                    yield Info(text)
                    self._said = text
            yield Advanced("queue")
            if select.select([stream], [], [], POLL_S)[0]:
                return

    def attach(self, facts: RunFacts) -> int:
        """A shell on the run's first node, inside its job."""
        if observe(facts) is RunState.PENDING or not facts.job_id:
            raise Conflict(
                f"{facts.id} has not started yet. {pending_text(facts)}", hint="vmctl ps"
            )
        line = command("srun", f"--jobid={facts.job_id}", "--overlap", "--pty", "bash", "-l")
        return self.session.ssh.interactive(command("bash", "-lc", str(line)), tty=True)

    def why_lost(self, facts: RunFacts) -> Story[str]:
        """See RunBackend: by Slurm's own state of the job."""
        yield from ()
        if observe(facts) is not RunState.LOST:
            return ""
        if not facts.job_id:
            return "Its submission was cut off before Slurm had it."
        if facts.exit_interrupted and facts.queue_state in ("FAILED", ""):
            return f"{end_text('TIMEOUT')} {end_hint('TIMEOUT')}."
        why = end_text(facts.queue_state) or "Slurm no longer says how its job ended."
        hint = end_hint(facts.queue_state)
        return f"{why} {hint}." if hint else why


def is_own_script(project: Project, job: str) -> bool:
    """Whether the word names a batch script of the user's in the project, not a job."""
    path = PurePosixPath(job)
    inside = not path.is_absolute() and ".." not in path.parts
    return job not in project.jobs and inside and (project.root / job).is_file()


def _own_text(project: Project, job: str) -> str:
    try:
        text = (project.root / job).read_bytes().decode()
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.startswith("#!"):
        raise InvalidInput(
            f"{job} is not a batch script: it does not begin with #!.",
            hint="Its first line should be #!/bin/bash; or name a job of vmctl.toml: vmctl run JOB",
        )
    return text


def pending_text(facts: RunFacts) -> str:
    """Why it waits, and until when."""
    start = ""
    if facts.expected_start:
        at = datetime.fromtimestamp(facts.expected_start).astimezone()
        start = f" Expected to start at {at:%H:%M on %d %b}."
    return f"Job {facts.job_id} waits: {reason_text(facts.reason)}.{start}"


def _facts(refused: Mapping[str, Any]) -> dict[str, Any]:
    """What the cluster says of itself, as `explain_refusal` reads it."""
    partitions = {
        name: {
            "time": found["time"],
            "nodes": found["nodes"],
            "gpus": {k: n for gres in found["gres"] for k, n in parse_gres(gres).items()},
        }
        for name, found in refused["partitions"].items()
    }
    return {**refused, "partitions": partitions}
