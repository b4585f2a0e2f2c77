"""Bring what a job left in the bucket: resumed where it broke off, proven, put in place at once."""

from __future__ import annotations

import fnmatch
import stat
import time
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import Bucket, StoredObject, open_bucket
from vmctl.domain.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.runs.run import choose
from vmctl.domain.sync.file_names import bare_repositories, has_git
from vmctl.domain.text import one_line
from vmctl.domain.vertex.storage_names import run_prefix
from vmctl.ssh.transfer.destination import Destination
from vmctl.workflows.base.site import ensure_emulator
from vmctl.workflows.runs.backend import open_backend
from vmctl.workflows.sync.fetch import FetchedFile, FetchResult

if TYPE_CHECKING:
    from vmctl.config import Project

STEP = "fetch"


def fetch_outputs(
    project: Project,
    paths: Sequence[str] = (),
    *,
    to: Path | None = None,
    parents: bool = False,
    clock: Clock | None = None,
) -> Story[FetchResult]:
    """The last run's outputs, or those that are named; a wrong checksum is an error, never a file.

    A path is an output's own, its last part, or a pattern. Raises NotFound for what is not there.
    """
    clock = clock or Clock()
    assert project.target is not None
    assert project.target.vertex is not None
    began = clock.monotonic()
    if project.local:
        yield from ensure_emulator(clock)
    backend = yield from open_backend(project, clock)
    run = choose(backend.list_runs(), None)
    bucket = open_bucket(project, project.target.vertex, clock)
    top = f"{run_prefix(project.owner, project.name, run.id)}outputs/"
    there = {found.name.removeprefix(top): found for found in bucket.list(top)}
    wanted = _choose(there, paths, run.id)
    places = _places(wanted, parents=parents)
    folder = Path.cwd() if to is None else to.expanduser()
    yield Started(STEP, f"Fetching from {run.id}")
    destination = Destination(folder)
    try:
        destination.require(sum(found.bytes for found in places.values()))
        files = []
        for place, found in places.items():
            files.append((yield from _save(bucket, found, destination, place)))
        destination.sync()
    finally:
        destination.close()
    total = sum(found.bytes for found in files)
    seconds = round(clock.monotonic() - began, 3)
    names = ", ".join(Path(found.path).name for found in files)
    yield Finished(STEP, f"{names}: {total} bytes, checksum proven", seconds)
    return FetchResult(tuple(files), (), (), total, seconds)


def _save(
    bucket: Bucket, found: StoredObject, destination: Destination, place: str
) -> Story[FetchedFile]:
    """One object, proven, under its name; a wrong checksum leaves nothing of it."""
    there = destination.look(place)
    if there is not None and stat.S_ISDIR(there.st_mode):
        raise Conflict(
            f"{one_line(str(destination.top / place))} is a folder here.",
            hint="Save elsewhere: --to DIR",
        )
    part = destination.open_part(place)
    try:
        try:
            resumed = yield from bucket.bring(found, part, STEP)
        except IntegrityError:
            part.drop()
            raise
        replaced = part.finish(0o644, time.time_ns())
    finally:
        part.close()
    sha256 = destination.sha256_of(place)
    return FetchedFile(str(destination.top / place), found.bytes, sha256, replaced, resumed)


def _choose(
    there: dict[str, StoredObject], paths: Sequence[str], run_id: str
) -> dict[str, StoredObject]:
    """The outputs that are meant, by their paths in the project."""
    if not there:
        raise NotFound(
            f"{run_id} has left no outputs in the bucket.",
            hint='Name them in vmctl.toml, [jobs.JOB] outputs = ["unet.pth"]; they come when '
            "the job has ended: vmctl ps",
        )
    if not paths:
        return there
    wanted = {}
    for path in paths:
        found = {
            name: stored
            for name, stored in there.items()
            if fnmatch.fnmatchcase(name, path)
            or PurePosixPath(name).name == path
            or name.startswith(f"{path.rstrip('/')}/")
        }
        if not found:
            raise NotFound(
                f"{run_id} has left no '{path}' in the bucket.",
                hint=f"What it left: {', '.join(sorted(there)[:10])}",
            )
        wanted.update(found)
    return wanted


def _places(wanted: dict[str, StoredObject], *, parents: bool) -> dict[str, StoredObject]:
    """Where each is saved; raises InvalidInput for two of one name, for a name that leads out, and
    for one that git here would obey: a job may have written any."""
    places: dict[str, StoredObject] = {}
    repositories = bare_repositories(wanted)
    for name, found in wanted.items():
        path = PurePosixPath(name)
        inside = (
            not path.is_absolute() and ".." not in path.parts and path.name and "\0" not in name
        )
        if not inside or has_git(name) or any(name.startswith(f"{top}/") for top in repositories):
            raise InvalidInput(
                f"The bucket holds {one_line(name)!r}, which is not fetched: it leads out of the "
                "folder, or git would obey it.",
                hint="Name what you want: vmctl fetch PATH",
            )
        place = str(path) if parents else path.name
        if place in places:
            raise InvalidInput(
                f"Two outputs are called {place}.", hint="Keep their folders: vmctl fetch --parents"
            )
        places[place] = found
    return places
