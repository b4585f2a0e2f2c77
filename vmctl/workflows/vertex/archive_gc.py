"""Delete the archives of a project that no job needs any more."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import open_bucket
from vmctl.cloud.vertex.custom_jobs import open_custom_jobs
from vmctl.domain.errors import InvalidInput
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.names import slug
from vmctl.domain.vertex.job_state import GOING, archive_of
from vmctl.domain.vertex.storage_names import archives_prefix
from vmctl.workflows.base.site import ensure_emulator

if TYPE_CHECKING:
    from vmctl.config import Project

# one this young may be that of a job which is just being submitted
FRESH = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class ArchiveGcResult:
    """What was deleted of the bucket; `kept` is what a job needs, or may need in a moment."""

    deleted: tuple[str, ...]
    kept: tuple[str, ...]
    bytes: int  # of what was deleted


def gc_archives(
    project: Project, *, confirm: Callable[[int, int], bool], clock: Clock | None = None
) -> Story[ArchiveGcResult]:
    """Delete archives after `confirm` was told their number and bytes; outputs are left alone.

    Raises InvalidInput when it is declined.
    """
    clock = clock or Clock()
    assert project.target is not None
    assert project.target.vertex is not None
    settings = project.target.vertex
    if project.local:
        yield from ensure_emulator(clock)
    with (
        closing(open_bucket(project, settings, clock)) as bucket,
        closing(open_custom_jobs(project, settings, clock)) as jobs,
    ):
        stored = list(bucket.list(archives_prefix(project.owner, project.name)))
        # the archives first, then the jobs: one that begins in between names a young archive
        going = jobs.list(project.owner, slug(project.name))
        needed = {archive_of(job) for job in going if job.get("state") in GOING}
        young = clock.now() - FRESH
        unused = [
            found
            for found in stored
            if f"/gcs/{bucket.name}/{found.name}" not in needed
            and datetime.fromisoformat(found.created) < young
        ]
        size = sum(found.bytes for found in unused)
        if unused and not confirm(len(unused), size):
            raise InvalidInput(
                "Nothing was removed.", hint="To remove it without being asked: vmctl gc --yes"
            )
        for found in unused:
            yield Started("gc", f"Deleting {found.name}")
            bucket.delete(found)
    if unused:
        yield Finished("gc", f"Deleted {len(unused)} archives, {size} bytes")
    gone = {found.name for found in unused}
    kept = tuple(found.name for found in stored if found.name not in gone)
    return ArchiveGcResult(tuple(sorted(gone)), kept, size)
