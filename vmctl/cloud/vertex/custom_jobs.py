"""Custom jobs of Vertex AI in one region: made, listed, looked at, ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vmctl.cloud.google_api import GoogleApi, open_api
from vmctl.domain.vertex.custom_job import OWNER, PROJECT, REQUEST
from vmctl.domain.vertex.job_state import GOING
from vmctl.domain.vertex.refusal import explain

if TYPE_CHECKING:
    from vmctl.clock import Clock
    from vmctl.config import Project
    from vmctl.domain.settings.vertex_settings import VertexSettings

Job = Mapping[str, Any]


class CustomJobs:
    """The jobs of one region; raises what `explain` says of a refusal."""

    def __init__(self, api: GoogleApi, region: str) -> None:
        self._api = api
        self._jobs = api.service.projects().locations().customJobs()
        self._parent = f"projects/{api.project}/locations/{region}"
        self.project = api.project
        self.close = api.close

    def list(self, owner: str, project: str) -> Iterator[Job]:
        """All jobs of one of the owner's projects."""
        return self._list(f"labels.{OWNER}={owner} AND labels.{PROJECT}={project}")

    def find_going(self, digest: str) -> Job | None:
        """A job of the very same request that has not ended."""
        same = self._list(f"labels.{REQUEST}={digest}")
        return next((job for job in same if job.get("state") in GOING), None)

    def create(self, body: Job) -> Job:
        """Ask for a job. Not repeated by itself: Google would make a second one."""
        found: Job = self._api.ask(self._jobs.create(parent=self._parent, body=body), retries=0)
        return found

    def get(self, name: str) -> Job:
        """A job by its full name."""
        found: Job = self._api.ask(self._jobs.get(name=name))
        return found

    def cancel(self, name: str) -> None:
        """Ask for its end: SIGTERM, then SIGKILL."""
        self._api.ask(self._jobs.cancel(name=name, body={}))

    def _list(self, wanted: str) -> Iterator[Job]:
        for reply in self._api.pages(self._jobs.list, parent=self._parent, filter=wanted):
            yield from reply.get("customJobs", [])


def open_custom_jobs(project: Project, settings: VertexSettings, clock: Clock) -> CustomJobs:
    """The custom jobs of a target of kind "vertex"."""
    root = f"https://{settings.region}-aiplatform.googleapis.com/"
    api = open_api(
        project, "aiplatform", root, lambda failure, name: explain(failure, name, settings), clock
    )
    return CustomJobs(api, settings.region)
