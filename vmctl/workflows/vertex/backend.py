"""Runs as custom jobs of Vertex AI: submitted, found by their labels, followed from the bucket."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING, Any

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import open_bucket
from vmctl.cloud.vertex.custom_jobs import Job, open_custom_jobs
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.events import Advanced, Info, Output, Started, Story, Warned
from vmctl.domain.names import slug
from vmctl.domain.runs.run import RunFacts, RunState, observe
from vmctl.domain.vertex.custom_job import RUN, JobRequest, job_body
from vmctl.domain.vertex.job_state import console_link, facts_of, why_failed, why_lost
from vmctl.domain.vertex.storage_names import run_prefix
from vmctl.guest.vertex import container
from vmctl.workflows.base.agreements import Agree
from vmctl.workflows.vertex.archive import push_archive

if TYPE_CHECKING:
    from vmctl.domain.settings.target_settings import SlurmSettings
    from vmctl.guest.messages import StartRequest

POLL_S = 3.0  # between looks at a job and at its log


def program() -> str:
    """What the container's Python runs."""
    return inspect.getsource(container)


def request_for(project: Project, request: StartRequest, archive: str) -> JobRequest:
    """A run as a custom job; `archive` is the object with the project's folder."""
    installs = request.get("installs")
    return JobRequest(
        owner=project.owner,
        project=project.name,
        job=request["job"],
        archive=archive,
        command=request["command"],
        args=request["args"],
        directory=request["directory"],
        setup=request["setup"],
        requirements=installs["requirements"] if installs else (),
        package=installs["package"] if installs else "",
        outputs=request["outputs"],
        env=request["env"],
        writes_own_log="needs" in request,
    )


class VertexBackend:
    """See RunBackend: a run is a custom job, and all that is known of it is in Google's hands."""

    started = "Submitted"
    stops_at = None
    usd_per_hour = None  # no dated list of Vertex AI's prices is at hand
    price_dated = ""

    def __init__(self, project: Project, clock: Clock, agree: Agree | None = None) -> None:
        assert project.target is not None
        assert project.target.vertex is not None
        self.settings = project.target.vertex
        self.project = project
        self.clock = clock
        self._agree = agree
        self._jobs = open_custom_jobs(project, self.settings, clock)
        self._bucket = open_bucket(project, self.settings, clock)

    def start(self, request: StartRequest, slurm: SlurmSettings | None) -> Story[tuple[str, bool]]:
        """Submit a run, its archive first; a request that goes on already is found by its label.

        A kill before Google has the job leaves an archive at most, which the next try uses.
        """
        pushed = yield from push_archive(self.project, agree=self._agree, clock=self.clock)
        wanted = request_for(
            self.project, request, pushed.archive.partition("//")[2].partition("/")[2]
        )
        going = self._jobs.find_going(wanted.digest(self.settings))
        if going is not None:
            yield from self._show(going)
            return str(going["labels"][RUN]), True
        moment = self.clock.now().astimezone(UTC)
        run_id = f"{slug(wanted.job, 30)}-{moment:%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
        body = job_body(wanted, self.settings, run_id, program(), self._jobs.project)
        yield Started("submit", f"Asking Vertex AI in {self.settings.region} for the job")
        made = self._jobs.create(body)
        yield from self._show(made)
        return run_id, False

    def _show(self, job: Mapping[str, Any]) -> Story[None]:
        if not self.project.local:  # the embedded one has no console
            yield Info(f"Vertex AI shows it at {console_link(job)}")

    def list_runs(self) -> list[RunFacts]:
        """See RunBackend."""
        return [facts_of(job, self._now()) for job in self._all()]

    def follow(self, run_id: str, *, wait: bool) -> Story[RunFacts]:
        """The log's parts as they come into the bucket, then those that came with the end."""
        name, told = str(self._job(run_id)["name"]), ""
        prefix, seen, offset = self._prefix(run_id), "", 0
        while True:
            job = self._jobs.get(name)  # before the log is read: nothing is written after the end
            facts = facts_of(job, self._now())
            for part in self._bucket.list(f"{prefix}log/"):
                if part.name > seen:
                    yield Output(self._bucket.read(part.name))
                    seen = part.name
            own = self._bucket.find(f"{prefix}log.txt")  # what LOG_PATH names
            if own is not None and own.bytes > offset:
                yield Output(self._bucket.read(own.name, offset))
                offset = own.bytes
            state = observe(facts)
            if state.is_over or not wait:
                if state is RunState.FAILED and (why := why_failed(job, facts.exit_code or 0)):
                    yield Warned(why)
                return facts
            if state is RunState.PENDING and told != facts.queue_state:
                told = facts.queue_state
                yield Started("pending", "Vertex AI is finding a machine; Ctrl-C leaves it waiting")
            yield Advanced("pending")
            self.clock.sleep(POLL_S)

    def cancel(self, run_id: str) -> tuple[RunFacts, bool]:
        """See RunBackend; returns when Vertex AI has ended it."""
        job = self._job(run_id)
        if observe(facts_of(job, self._now())).is_over:
            return facts_of(job, self._now()), True
        self._jobs.cancel(str(job["name"]))
        while True:
            facts = facts_of(self._jobs.get(str(job["name"])), self._now())
            if observe(facts).is_over:
                return facts, False
            self.clock.sleep(POLL_S)

    def attach(self, facts: RunFacts) -> int:
        """See RunBackend: a container has no terminal for us."""
        raise InvalidInput(
            f"{facts.id} runs in a container of Vertex AI, which cannot be entered.",
            hint=f"Follow it: vmctl logs -f {facts.id}",
        )

    def why_lost(self, facts: RunFacts) -> Story[str]:
        """See RunBackend."""
        yield from ()
        if observe(facts) is not RunState.LOST:
            return ""
        return why_lost(self._job(facts.id))

    def _all(self) -> list[Job]:
        return list(self._jobs.list(self.project.owner, slug(self.project.name)))

    def _job(self, run_id: str) -> Job:
        for job in self._all():
            if facts_of(job, 0).id == run_id:
                return job
        raise Conflict(f"{run_id} was deleted meanwhile.", hint="vmctl ps")

    def _prefix(self, run_id: str) -> str:
        return run_prefix(self.project.owner, self.project.name, run_id)

    def _now(self) -> float:
        return self.clock.now().timestamp()
