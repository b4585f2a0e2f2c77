"""Bring files back from the VM, proven whole."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput, NotFound, Unreachable
from vmctl.domain.events import Advanced, Finished, Noted, Started, Story, Warned
from vmctl.domain.probe import printable
from vmctl.domain.transfer import RemoteEntry, RemoteItem, parse_item, safe_link
from vmctl.domain.tunnel import backoff_s
from vmctl.ssh import guest
from vmctl.ssh.transfer import Arrived, Want, fetch_files
from vmctl.workflows.session import Session, connect

STEP = "fetch"
TRIES = 8  # without a byte of progress


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file that is here now; `resumed_at` is how many bytes an earlier fetch had left."""

    path: str
    bytes: int
    sha256: str
    replaced: bool
    resumed_at: int


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
    *,
    clock: Clock | None = None,
) -> Story[FetchResult]:
    """Save what the paths name under their base names in `to` (or here); no path: the outputs.

    A file is replaced only by one whose SHA-256 is proven; a cut link resumes where it stopped.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    target = _target(to)
    if not all(paths):
        raise InvalidInput("A path is empty.", hint="The whole project: vmctl fetch .")
    session = yield from connect(project, clock=clock)
    request = {"project": project.name, "paths": list(paths), "force": force}
    yield Started(STEP, "Looking for it on the VM" if paths else "Looking for the job's outputs")
    answer = guest.call(session.ssh, "locate", request)
    items = [parse_item(found) for found in answer["found"]]
    missing = [printable(str(path)) for path in answer["missing"]]
    if missing and (paths or not items):
        raise NotFound(
            f"'{missing[0]}' is not on the VM: not in the last run's outputs, its job's folder "
            "or the project's root.",
            hint="Look what is there: vmctl exec ls",
        )
    for path in missing:
        yield Warned(f"The run has not written its output '{path}'")
    wants, folders = _plan(items, target)
    total = sum(item.size for item in items)
    names = ", ".join(dict.fromkeys(printable(item.base) for item in items))
    yield Advanced(STEP, f"Fetching {names}", 0, total)
    arrived = yield from _bring(project, session, wants, total, force, clock)
    left_out = _make_links(items, target)
    files = tuple(_shown(found, target) for found in arrived)
    seconds = round(clock.monotonic() - began, 3)
    result = FetchResult(files, folders, left_out, sum(file.bytes for file in files), seconds)
    yield Finished(STEP, _told(result, names), seconds)
    for file in files:
        if file.replaced and len(files) <= 5:
            yield Noted(f"Replaced {file.path}")
    for link in left_out[:5]:
        yield Warned(f"Left out the link {link}: it points outside of what was fetched")
    return result


def _bring(
    project: Project,
    session: Session,
    wants: Sequence[Want],
    total: int,
    force: bool,
    clock: Clock,
) -> Story[list[Arrived]]:
    """All files, over as many connections as it takes."""
    arrived: list[Arrived] = []
    left = list(wants)
    attempt, done = 0, 0
    while True:
        before = done
        try:
            for news in fetch_files(session.ssh, left[:], changing_ok=force):
                if isinstance(news, Arrived):
                    arrived.append(news)
                    left.remove(news.want)
                    done = sum(found.bytes for found in arrived)
                else:
                    done += news
                    yield Advanced(STEP, done_bytes=done, total_bytes=total)
            return arrived
        except Unreachable as error:
            attempt = 0 if done > before else attempt + 1
            if attempt >= TRIES:
                raise
            yield Noted(f"Lost the connection, coming back: {error.message}")
        done = sum(found.bytes for found in arrived)
        clock.sleep(backoff_s(attempt))
        try:
            session = yield from connect(project, clock=clock)
        except Unreachable:
            continue  # the old connection is tried, and counted


# -- where it goes ---------------------------------------------------------------------------


def _target(to: Path | None) -> Path:
    target = Path.cwd() if to is None else to.expanduser()
    if target.exists() and not target.is_dir():
        raise InvalidInput(f"{target} is not a folder.", hint="Use --to DIR with a folder.")
    return target


def _make_target(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidInput(
            f"The folder {target} cannot be made: {error.strerror}.",
            hint="Save elsewhere: --to DIR",
        ) from error


def _plan(items: Sequence[RemoteItem], target: Path) -> tuple[list[Want], tuple[str, ...]]:
    """Every file with its place here, the folders made; refuses what would clash."""
    seen: dict[str, str] = {}
    for item in items:
        if seen.setdefault(item.base, item.path) != item.path:
            raise InvalidInput(
                f"Two of the paths are called {printable(item.base)}: {printable(item.path)} and "
                f"{printable(seen[item.base])}.",
                hint="Fetch them one by one, with --to DIR.",
            )
    items = list({item.path: item for item in items}.values())
    _make_target(target)
    wants: list[Want] = []
    folders = []
    for item in items:
        top = target / item.base
        if item.kind == "dir":
            _make_folder(target, PurePosixPath(item.base))
            folders.append(_here(top))
        elif top.is_dir() and not top.is_symlink():
            raise Conflict(f"{_here(top)} is a folder here.", hint="Save elsewhere: --to DIR")
        for entry in item.entries:
            if entry.kind == "dir":
                _make_folder(target, PurePosixPath(item.base, entry.relative))
            elif entry.kind == "file":
                wants.append(_want(item, entry, target))
    return wants, tuple(folders)


def _want(item: RemoteItem, entry: RemoteEntry, target: Path) -> Want:
    relative = PurePosixPath(item.base, entry.relative)
    _make_folder(target, relative.parent)
    local = target / relative
    if local.is_dir() and not local.is_symlink():
        raise Conflict(f"{_here(local)} is a folder here.", hint="Save elsewhere: --to DIR")
    remote = f"{item.path}/{entry.relative}" if entry.relative else item.path
    return Want(remote, local, entry.size, entry.mtime_ns, entry.mode)


def _make_folder(target: Path, relative: PurePosixPath) -> None:
    """A real folder at every step: nothing is written through a link that stands here."""
    place = target
    for part in relative.parts:
        place = place / part
        try:
            found = place.lstat()
        except FileNotFoundError:
            place.mkdir()
            continue
        if not stat.S_ISDIR(found.st_mode):
            raise Conflict(f"{_here(place)} is no folder here.", hint="Save elsewhere: --to DIR")


def _make_links(items: Sequence[RemoteItem], target: Path) -> tuple[str, ...]:
    """Links that stay inside what was fetched; the others are named and left out."""
    left_out = []
    for item in items:
        for entry in item.entries:
            if entry.kind != "link":
                continue
            if not safe_link(entry.relative, entry.link):
                left_out.append(printable(f"{item.base}/{entry.relative}"))
                continue
            relative = PurePosixPath(item.base, entry.relative)
            _make_folder(target, relative.parent)
            place = target / relative
            if place.is_symlink() or place.is_file():
                place.unlink()
            elif place.exists():
                raise Conflict(f"{_here(place)} is a folder here.", hint="Use --to DIR.")
            place.symlink_to(entry.link)
    return tuple(left_out)


def _shown(found: Arrived, target: Path) -> FetchedFile:
    return FetchedFile(
        path=_here(found.want.local),
        bytes=found.bytes,
        sha256=found.sha256,
        replaced=found.replaced,
        resumed_at=found.resumed_at,
    )


def _here(path: Path) -> str:
    """The path as the user would type it."""
    try:
        return printable(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else str(path)
    except (OSError, ValueError):
        return str(path)


def _told(result: FetchResult, names: str) -> str:
    count = len(result.files)
    what = "1 file" if count == 1 else f"{count} files"
    resumed = sum(file.resumed_at for file in result.files)
    text = f"Fetched {names}: {what}, {_bytes(result.bytes)}, SHA-256 proven"
    return f"{text}, {resumed} of them from an earlier try" if resumed else text


def _bytes(count: int) -> str:
    return "1 byte" if count == 1 else f"{count} bytes"
