"""Bring what a job left in the bucket: resumed where it broke off, proven, put in place at once."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud.storage.bucket import StoredObject, open_bucket
from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.runs.run import choose
from vmctl.domain.vertex.storage_names import run_prefix
from vmctl.guest.protocol import PART_SUFFIX
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
    folder = Path.cwd() if to is None else to.expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    yield Started(STEP, f"Fetching from {run.id}")
    files = []
    for place, found in _places(wanted, parents=parents).items():
        file = folder / place
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{file.name}.{found.generation}{PART_SUFFIX}")
        replaced = file.exists()
        resumed = yield from bucket.bring(found, file, part, STEP)
        files.append(FetchedFile(str(file), found.bytes, _sha256(file), replaced, resumed))
    total = sum(found.bytes for found in files)
    seconds = round(clock.monotonic() - began, 3)
    names = ", ".join(Path(found.path).name for found in files)
    yield Finished(STEP, f"{names}: {total} bytes, checksum proven", seconds)
    return FetchResult(tuple(files), (), (), total, seconds)


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
    """Where each is saved; raises InvalidInput for two of one name, or a name that leads out."""
    places: dict[str, StoredObject] = {}
    for name, found in wanted.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
            raise InvalidInput(f"The bucket holds {name!r}, which is not a path in a folder.")
        place = str(path) if parents else path.name
        if place in places:
            raise InvalidInput(
                f"Two outputs are called {place}.", hint="Keep their folders: vmctl fetch --parents"
            )
        places[place] = found
    return places


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
