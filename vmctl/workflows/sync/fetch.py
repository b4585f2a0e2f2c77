"""Bring files back from the VM, proven whole."""

from __future__ import annotations

import fnmatch
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput, NotFound
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.sync.remote_listing import (
    Listing,
    RemoteEntry,
    RemoteItem,
    RequestedPaths,
    names,
    safe_link,
)
from vmctl.domain.text import one_line
from vmctl.guest.protocol import FETCH
from vmctl.ssh.transfer.destination import Destination, part_name
from vmctl.ssh.transfer.download import FileRequest, ReceivedFile
from vmctl.workflows.session.session import connect
from vmctl.workflows.sync.download import Download, DownloadPlan

STEP = "fetch"


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file that is here now; `resumed_at` is how many bytes an earlier fetch had left.

    `unchanged` when it was here already, which both sides' SHA-256 proved.
    """

    path: str
    bytes: int
    sha256: str
    replaced: bool
    resumed_at: int
    unchanged: bool = False


@dataclass(frozen=True, slots=True)
class FetchResult:
    """What a fetch brought; `links_left_out` point outside what was fetched."""

    files: tuple[FetchedFile, ...]
    folders: tuple[str, ...]
    links_left_out: tuple[str, ...]
    bytes: int
    seconds: float


def fetch(
    project: Project,
    paths: Sequence[str] = (),
    to: Path | None = None,
    force: bool = False,
    wait: bool = False,
    parents: bool = False,
    *,
    clock: Clock | None = None,
) -> Story[FetchResult]:
    """Save what the paths name under their base names in `to` (or here); no path: the outputs.

    A file is replaced only by one whose SHA-256 is proven; a cut link resumes where it stopped.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    target = _target(to)
    _refuse_nameless(paths)
    session = yield from connect(project, clock=clock)
    request = {"project": project.name, "paths": list(paths), "force": force, "wait": wait}
    yield Started(STEP, "Looking for it on the VM" if paths else "Looking for the job's outputs")
    planner = _Planner(project, target, tuple(paths), parents)
    download = Download(
        project, FETCH, request, planner.plan, clock, STEP, changing_ok=force, waits=wait
    )
    try:
        ask = parents or _something_here(project, paths, target)
        received = yield from download.run(session, ask)
        links, left_out = planner.make_links()
    finally:
        planner.close()
    files = tuple(_shown(found, target) for found in received)
    seconds = round(clock.monotonic() - began, 3)
    folders = tuple(_here(target / path) for path in planner.tops)
    result = FetchResult(files, folders, left_out, sum(file.bytes for file in files), seconds)
    yield Finished(STEP, _summary(result, planner.names, links), seconds)
    for file in files:
        if file.replaced and len(files) <= 5:
            yield Info(f"Replaced {file.path}")
    if left_out:
        yield Warned(f"Skipped links that point outside of what was fetched: {names(left_out)}")
    return result


class _Planner:
    """Maps a listing to places here; opens the destination only if there is something to write."""

    def __init__(
        self, project: Project, target: Path, paths: tuple[str, ...], parents: bool
    ) -> None:
        self._target = target
        self._named = bool(paths)
        self._asked = requested_paths(project, paths)
        self._parents = parents
        self._destination: Destination | None = None
        self._items: tuple[RemoteItem, ...] = ()
        self._warned: set[str] = set()
        self.tops: list[str] = []
        self.names = ""

    def plan(self, answer: Mapping[str, Any]) -> Story[DownloadPlan]:
        """Checks the listing, makes the folders; refuses what would clash."""
        listing = Listing.parse(answer)
        for item in listing.items:
            self._place(item)  # refused before anything is written
        for text in self._warnings(listing):
            if text not in self._warned:
                self._warned.add(text)
                yield Warned(text)
        self._items = listing.items
        wants = self._wants(listing.items)
        if self._destination is None:
            self._destination = Destination(self._target)
        destination = self._destination
        for item in listing.items:
            self._prepare(destination, item)
        self.tops = [self._place(item) for item in listing.items if item.kind == "dir"]
        bases = list(dict.fromkeys(self._place(item) for item in listing.items))
        yield Started(STEP, f"{'Resuming' if self.names else 'Fetching'} {names(bases)}")
        self.names = names(bases)
        return DownloadPlan(destination, wants, listing.files)

    def _warnings(self, listing: Listing) -> list[str]:
        missing = listing.missing
        if missing and (self._named or not listing.items):
            going = " The run continues: wait for it with --wait." if listing.going else ""
            raise NotFound(
                f"'{one_line(missing[0])}' is not on the VM: not in the last run's outputs, its "
                f"job's folder or the project's root.{going}",
                hint="See what is there: vmctl exec ls",
            )
        warnings = [f"The run has not written its output '{one_line(path)}'" for path in missing]
        for item in listing.items:
            if item.older:
                text = (
                    f"{one_line(item.wanted)} is from an earlier run: "
                    f"{one_line(listing.run)} has not "
                )
                warnings.append(f"{text}written it yet (wait for it: vmctl fetch --wait)")
        if listing.left_out:
            warnings.append(f"Skipped what is neither file nor folder: {names(listing.left_out)}")
        if listing.obeyed:
            warnings.append(f"Skipped what git would use on this computer: {names(listing.obeyed)}")
        return warnings

    def _place(self, item: RemoteItem) -> str:
        return self._asked.place_of(item, parents=self._parents)

    def _wants(self, items: Sequence[RemoteItem]) -> list[FileRequest]:
        wants: dict[str, FileRequest] = {}
        folders: dict[str, str] = {}
        for item in items:
            place = self._place(item)
            if folders.setdefault(place, item.path) != item.path:
                raise _same_name(place, item.path, folders[place])
            for entry in item.entries:
                if entry.kind == "file":
                    want = _want(item, entry, place)
                    known = wants.setdefault(want.relative, want)
                    if known.remote != want.remote:
                        raise _same_name(want.relative, want.remote, known.remote)
        return list(wants.values())

    def _prepare(self, destination: Destination, item: RemoteItem) -> None:
        """Every folder is there, and no folder stands where a file must come."""
        place = self._place(item)
        if item.kind == "dir":
            destination.folder(place)
        for entry in item.entries:
            relative = f"{place}/{entry.relative}" if entry.relative else place
            if entry.kind == "dir":
                destination.folder(relative)
                continue
            destination.folder(relative.rpartition("/")[0])
            found = destination.look(relative)
            if found is not None and stat.S_ISDIR(found.st_mode):
                raise Conflict(
                    f"{_here(self._target / relative)} is a folder here.",
                    hint="Save elsewhere: --to DIR",
                )

    def make_links(self) -> tuple[int, tuple[str, ...]]:
        """How many links were made; those that lead outside of what was fetched are left out."""
        left_out = []
        made = 0
        for item in self._items:
            place = self._place(item)
            for entry in item.entries:
                if entry.kind != "link":
                    continue
                if self._destination is not None and safe_link(entry.relative, entry.link):
                    self._destination.link(f"{place}/{entry.relative}", entry.link)
                    made += 1
                else:
                    left_out.append(one_line(f"{place}/{entry.relative}"))
        if self._destination is not None:
            self._destination.sync()
        return made, tuple(left_out)

    def close(self) -> None:
        """Let go of the folder."""
        if self._destination is not None:
            self._destination.close()


def requested_paths(project: Project, paths: Sequence[str]) -> RequestedPaths:
    """What a fetch of these paths asks for; without any: the jobs' outputs."""
    jobs = project.jobs.values()
    below = [(job.directory, output) for job in jobs for output in job.outputs]
    return RequestedPaths(
        paths=tuple(paths) or tuple(output for _, output in below),
        project=project.name,
        folders=tuple(job.directory for job in jobs),
        outputs=tuple(
            os.path.normpath(f"{folder}/{output}").lstrip("/") for folder, output in below
        ),
    )


def _refuse_nameless(paths: Sequence[str]) -> None:
    for path in paths:
        if not path:
            raise InvalidInput("A path is empty.", hint="The whole project: vmctl fetch .")
        if os.path.normpath(path).rpartition("/")[2] in ("", ".."):
            raise InvalidInput(
                f"'{one_line(path)}' has no name to save it under.",
                hint="Name a folder or a file in it; the whole project: vmctl fetch .",
            )


def _want(item: RemoteItem, entry: RemoteEntry, place: str) -> FileRequest:
    relative = f"{place}/{entry.relative}" if entry.relative else place
    remote = f"{item.path}/{entry.relative}" if entry.relative else item.path
    return FileRequest(entry.number, remote, relative, entry.size, entry.mtime_ns, entry.mode)


def _same_name(place: str, one: str, other: str) -> InvalidInput:
    return InvalidInput(
        f"Two of the paths would be saved as {one_line(place)}: "
        f"{one_line(other)} and {one_line(one)}.",
        hint="Keep their folders with --parents, or fetch them one by one with --to DIR.",
    )


# -- what is here ----------------------------------------------------------------------------


def _target(to: Path | None) -> Path:
    target = Path.cwd() if to is None else to.expanduser()
    if target.exists() and not target.is_dir():
        raise InvalidInput(f"{target} is not a folder.", hint="Use --to DIR with a folder.")
    return target


def _something_here(project: Project, paths: Sequence[str], target: Path) -> bool:
    """Whether a fetch of these paths may find files of its own here, whole or cut off.

    Then it asks the VM for what is missing; else a round trip is saved.
    """
    outputs = (output for job in project.jobs.values() for output in job.outputs)
    try:
        there = set(os.listdir(target))  # noqa: PTH208  (names, no objects)
    except OSError:
        return False
    for path in paths or outputs:
        name = os.path.normpath(path).rpartition("/")[2]
        if name in ("", ".", "..", "~", "**"):
            return bool(there)
        known = {name, part_name(name)}
        if known & there or any(
            fnmatch.fnmatchcase(found, known_name) for known_name in known for found in there
        ):
            return True
    return False


def _shown(found: ReceivedFile, target: Path) -> FetchedFile:
    return FetchedFile(
        path=_here(target / found.want.relative),
        bytes=found.bytes,
        sha256=found.sha256,
        replaced=found.replaced,
        resumed_at=0 if found.unchanged else found.resumed_at,
        unchanged=found.unchanged,
    )


def _here(path: Path) -> str:
    """The path as the user would type it."""
    try:
        return one_line(os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path))
    except (OSError, ValueError):
        return one_line(str(path))


def _summary(result: FetchResult, what: str, links: int) -> str:
    count = len(result.files)
    files = "1 file" if count == 1 else f"{count} files"
    if links:
        files += f" and {'1 link' if links == 1 else f'{links} links'}"
    resumed = sum(file.resumed_at for file in result.files)
    same = sum(file.unchanged for file in result.files)
    text = f"Fetched {what}: {files}, {_bytes(result.bytes)}, verified by SHA-256"
    if same:
        text += ", already here" if same == count else f", {same} of them already here"
    return f"{text}, {resumed} bytes of it from an earlier attempt" if resumed else text


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
