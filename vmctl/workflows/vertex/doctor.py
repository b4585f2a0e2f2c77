"""`doctor --on vertex`: the settings, the bucket and the API, looked at; nothing costs money."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import open_bucket
from vmctl.cloud.vertex.custom_jobs import open_custom_jobs
from vmctl.domain.errors import VmctlError
from vmctl.domain.events import Started, Story
from vmctl.domain.names import slug
from vmctl.domain.readiness.checks import Check, CheckResult, CheckStatus, Checkup
from vmctl.domain.vertex.refusal import check_location
from vmctl.workflows.base.site import ensure_emulator

if TYPE_CHECKING:
    from vmctl.config import Project
    from vmctl.domain.settings.vertex_settings import VertexSettings


def check_vertex(
    project: Project, settings: VertexSettings, clock: Clock | None = None
) -> Story[Checkup]:
    """What a job needs, in that order; quota and the region's GPUs only a submission can tell."""
    clock = clock or Clock()
    gpu = settings.gpu.title if settings.gpu else "no GPU"
    what = f"{settings.machine} with {gpu} in {settings.region}"
    findings = [CheckResult.ok(Check.SETTINGS, what)]
    google = project.google_project
    try:
        if project.local:
            yield from ensure_emulator(clock)
        yield Started("api", "Asking Vertex AI")
        with closing(open_custom_jobs(project, settings, clock)) as jobs:
            google = jobs.project
            count = sum(1 for _ in jobs.list(project.owner, slug(project.name)))
        known = "1 job" if count == 1 else f"{count} jobs"
        findings.append(CheckResult.ok(Check.API, f"Vertex AI answers: {known} of this project"))
    except VmctlError as error:
        findings.append(CheckResult.of(Check.API, error))
    try:
        yield Started("bucket", "Asking Cloud Storage")
        with closing(open_bucket(project, settings, clock)) as bucket:
            location = bucket.location()
        check_location(location, settings)
        findings.append(CheckResult.ok(Check.BUCKET, f"gs://{settings.bucket} in {location}"))
    except VmctlError as error:
        findings.append(CheckResult.of(Check.BUCKET, error))
    ready = all(finding.status is not CheckStatus.BROKEN for finding in findings)
    return Checkup(project.name, project.local, google, ready, tuple(findings))
