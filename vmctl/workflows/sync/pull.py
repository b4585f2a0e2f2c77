"""Bring home what changed on the VM since it was pushed: a notebook edited through the tunnel."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain import reply_shapes
from vmctl.domain.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vmctl.domain.events import Finished, Info, Started, Story, Warned
from vmctl.domain.guest_replies import PATHS
from vmctl.domain.limits import LISTED
from vmctl.domain.reply_shapes import checked, matching, record, table, unexpected_reply
from vmctl.domain.sync.file_names import covers, has_git
from vmctl.domain.sync.reconcile import NOTHING, FileState, Resolution, resolve
from vmctl.domain.sync.remote_listing import Listing, RemoteItem, names, safe_link, safe_relative
from vmctl.domain.text import one_line
from vmctl.guest.protocol import PULL, PUSH_ACCEPT, tree_id
from vmctl.ssh import rpc
from vmctl.ssh.transfer.destination import Destination
from vmctl.ssh.transfer.download import FileRequest, ReceivedFile
from vmctl.workflows.session.session import connect
from vmctl.workflows.sync.download import Download, DownloadPlan
from vmctl.workflows.sync.hash_cache import LastPushedTree, pair_key
from vmctl.workflows.sync.project_root import refuse_unfit_root
from vmctl.workflows.sync.selection import select

if TYPE_CHECKING:
    from vmctl.guest.messages import AcceptRequest, PullRequest

STEP = "pull"
# what the listing of a pull has in addition to that of a fetch
_PULL_LISTING = record(
    {
        "sums": table(reply_shapes.path, matching(r"(?:[0-9a-f]{64})?", "a SHA-256"), LISTED),
        "deleted": PATHS,
        "same": PATHS,
    },
    {"made": PATHS},
)


@dataclass(frozen=True, slots=True)
class PulledFile:
    """One file that came home, or in a dry run would."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class Refused:
    """One path that was left alone, and why."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class PullResult:
    """What a pull did, or in a dry run would do; `conflicts` need --force."""

    dry_run: bool
    files: tuple[PulledFile, ...]
    links: tuple[str, ...]
    deleted: tuple[str, ...]
    conflicts: tuple[Refused, ...]
    links_left_out: tuple[str, ...]
    bytes: int
    seconds: float
    new: tuple[str, ...] = ()  # made on the VM, and not here: they come when they are named


def pull(
    project: Project,
    paths: Sequence[str] = (),
    dry_run: bool = False,
    force: bool = False,
    *,
    clock: Clock | None = None,
) -> Story[PullResult]:
    """What changed on the VM is here; what changed here, too, is only listed, unless `force`.

    What was pushed is known from our own record, never from the VM: it can neither make what was
    changed here look as pushed nor choose a name that nobody pushed or asked for. Each file is
    proven by SHA-256 and replaced at once; what is deleted there is deleted here only with
    `force`.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    refuse_unfit_root(project.root, project.file)
    wanted = [_relative(project, path) for path in paths]
    session = yield from connect(project, clock=clock)
    yield Started(STEP, "Checking what changed on the VM")
    planner = _PullPlanner(project, wanted, dry_run, force)
    asked: PullRequest = {"project": project.name, "paths": wanted}
    download = Download(project, PULL, asked, planner.plan, clock, STEP)
    try:
        received = yield from download.run(session, True)
        if not dry_run:
            planner.make_links()
            planner.delete()
        planner.destination.sync()
        accepted = [] if dry_run else planner.accepted(received)
    finally:
        planner.destination.close()
    if accepted:
        # a later push then finds what it expects; over another connection, if need be
        session = yield from connect(project, clock=clock)
        request: AcceptRequest = {"project": project.name, "accept": accepted}
        planner.remember(accepted, rpc.call(session.ssh, PUSH_ACCEPT, request)["tree"])
    seconds = round(clock.monotonic() - began, 3)
    result = planner.result(received, seconds)
    yield Finished(STEP, _summary(result), seconds)
    for path in planner.same_paths:
        yield Info(f"{one_line(path)} has not changed on the VM since it was pushed")
    if result.links_left_out:
        yield Warned(f"Skipped links that lead outside: {names(result.links_left_out)}")
    if planner.left_out:
        yield Warned(f"Skipped what is neither file nor link: {names(planner.left_out)}")
    if result.new:
        yield Info(
            f"New on the VM, not pulled: {names(planner.new)} (to pull one: vmctl pull PATH)"
        )
    if any(resolution is Resolution.UNKNOWN for resolution in planner.resolutions.values()):
        yield Warned(
            "No push from this folder is on record here: another computer pushed it, or vmctl's "
            "cache was deleted. Compare with vmctl fetch PATH --to DIR; the VM's version of a "
            "file: vmctl pull --force PATH"
        )
    return result


def _relative(project: Project, path: str) -> str:
    """A path as typed in the current folder, below the project's."""
    if not path:
        raise InvalidInput("A path is empty.", hint="Everything that changed: vmctl pull")
    place = os.path.normpath(Path.cwd() / path)
    root = str(project.root)
    if place == root:
        return ""
    if not place.startswith(f"{root}/"):
        raise InvalidInput(
            f"'{one_line(path)}' is outside of the project folder {root}.",
            hint="Files from elsewhere on the VM: vmctl fetch PATH",
        )
    return place[len(root) + 1 :]


@dataclass(slots=True)
class _PullPlanner:
    """From the VM's listing to what is taken, path by path."""

    project: Project
    wanted: Sequence[str]
    dry_run: bool
    force: bool
    destination: Destination = field(init=False)
    pushed: LastPushedTree = field(init=False)
    resolutions: dict[str, Resolution] = field(default_factory=dict)
    there: dict[str, FileState] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    same_paths: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    new: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.destination = Destination(self.project.root)
        self.pushed = LastPushedTree(pair_key(self.project))

    def plan(self, answer: Mapping[str, Any]) -> Story[DownloadPlan]:
        """Decides each path; earlier decisions do not count."""
        listing = Listing.parse(answer)
        more = checked(_PULL_LISTING, answer, "its listing")
        deleted = [safe_relative(path) for path in more["deleted"]]
        self.same_paths = tuple(more["same"])
        if any(item.kind == "dir" for item in listing.items):
            raise unexpected_reply("its listing names a folder")
        if listing.missing:
            path = one_line(listing.missing[0])
            raise NotFound(
                f"'{path}' is not in the project's folder on the VM.",
                hint="What changed there: vmctl pull --dry-run",
            )
        self.left_out = listing.left_out
        self.resolutions.clear()
        there = {item.inside: _state_of(item, more["sums"]) for item in listing.items}
        self.there = {**there, **dict.fromkeys(deleted, NOTHING)}
        self.sizes = {item.inside: item.size for item in listing.items}
        selected = {entry.path for entry in select(self.project.root, self.project.exclude).entries}
        instead_of: dict[str, str] = {}
        for path, content in self.there.items():
            here = self._here(path)
            self._refuse_foreign(path, here, selected)
            before = FileState.of(self.pushed.files.get(path))
            known = bool(self.pushed.files)
            self.resolutions[path] = resolve(path, before, here, content, self.wanted, known)
            if not self.force:
                instead_of[path] = here.value if here.kind == "file" else ""
        self.new = tuple(path for path in more["made"] or () if self._is_new(path))
        wants = [
            FileRequest(entry.number, item.path, item.inside, item.size, entry.mtime_ns, entry.mode)
            for item in listing.items
            for entry in item.entries
            if entry.kind == "file" and self._taken(item.inside) and not self.dry_run
        ]
        if wants:
            yield Started(STEP, f"Pulling {names([want.relative for want in wants])}")
        return DownloadPlan(self.destination, wants, listing.files, instead_of)

    def _is_new(self, path: str) -> bool:
        """Whether a file that the VM says was made there may be one for here."""
        if has_git(safe_relative(path)) or path in self.there:
            return False
        try:
            return self.destination.look(path) is None
        except Conflict:  # below something that is not a folder here
            return False

    def _here(self, path: str) -> FileState:
        found = self.destination.look(path)
        if found is None:
            return NOTHING
        if stat.S_ISREG(found.st_mode):
            return FileState("file", self.destination.sha256_of(path))
        if stat.S_ISLNK(found.st_mode):
            # Path.readlink would tidy the target up
            return FileState("link", os.readlink(self.project.root / path))  # noqa: PTH115
        return FileState("other")

    def _refuse_foreign(self, path: str, here: FileState, selected: set[str]) -> None:
        """The VM may only name what a push takes from here or took, or what the user named."""
        if has_git(path):
            raise IntegrityError(
                f"Refused '{one_line(path)}' in the VM's listing: vmctl never pushes it.",
                hint="Nothing was written; check it on the VM: vmctl ssh",
            )
        known = path in selected or path in self.pushed.files
        if here != NOTHING and not known and not covers(self.wanted, path):
            raise IntegrityError(
                f"The VM names '{one_line(path)}', which this folder's rules exclude from a push.",
                hint=f"If you want it: vmctl pull {quote(one_line(path))}",
            )

    def _taken(self, path: str) -> bool:
        resolution = self.resolutions[path]
        if resolution is Resolution.SAME or resolution.needs_name or self.there[path] == NOTHING:
            return False
        return resolution is Resolution.TAKE or self.force

    def _taken_links(self) -> list[str]:
        return [p for p in self.resolutions if self.there[p].kind == "link" and self._taken(p)]

    def make_links(self) -> None:
        """Links that stay inside the project; others are left out."""
        for path in self._taken_links():
            if safe_link(path, self.there[path].value):
                self.destination.link(path, self.there[path].value)
            else:
                self.outside += (one_line(path),)

    def _deleted(self) -> list[str]:
        return [
            path
            for path, found in self.resolutions.items()
            if self.force and self.there[path] == NOTHING
            if found is not Resolution.SAME and not found.needs_name
        ]

    def delete(self) -> None:
        """Delete what was deleted there, if that was asked for."""
        for path in self._deleted():
            self.destination.remove(path)

    def accepted(self, received: Sequence[ReceivedFile]) -> list[list[Any]]:
        """What is now the same on both sides, as the record of a push names it."""
        came = {found.want.relative: found.sha256 for found in received}
        entries: list[list[Any]] = []
        for path, resolution in self.resolutions.items():
            found = self.destination.look(path)
            there = self.there[path]
            sha256 = came.get(path, there.value if resolution is Resolution.SAME else "")
            if there == NOTHING:
                if found is None:
                    entries.append([path, None])
            elif found is None:
                continue
            elif there.kind == "link" and self._here(path) == there:
                entries.append([path, ["l", there.value]])
            elif there.kind == "file" and sha256:
                times = [found.st_size, found.st_mtime_ns, found.st_mode & 0o777]
                entries.append([path, ["f", sha256, *times]])
        return entries

    def remember(self, accepted: Sequence[Sequence[Any]], tree: str) -> None:
        """Keep in our record what is now the same on both sides."""
        files = dict(self.pushed.files)
        for path, entry in accepted:
            if entry is None:
                files.pop(path, None)
            else:
                files[path] = entry
        # where the VM has another tree on record, the next push tells it the whole one
        self.pushed.write(tree if tree == tree_id(files) else "", files)

    def result(self, received: Sequence[ReceivedFile], seconds: float) -> PullResult:
        """What was done, or would be."""
        taken = [found.want.relative for found in received]
        if self.dry_run:
            taken = [p for p in self.resolutions if self.there[p].kind == "file" and self._taken(p)]
        files = tuple(PulledFile(one_line(path), self.sizes.get(path, 0)) for path in taken)
        conflicts = tuple(
            Refused(one_line(path), resolution.value)
            for path, resolution in self.resolutions.items()
            if resolution.needs_name or (resolution.is_conflict and not self.force)
        )
        links = [one_line(path) for path in self._taken_links()]
        return PullResult(
            dry_run=self.dry_run,
            files=files,
            links=tuple(path for path in links if path not in self.outside),
            deleted=tuple(map(one_line, self._deleted())),
            conflicts=conflicts,
            links_left_out=self.outside,
            bytes=sum(file.bytes for file in files),
            seconds=seconds,
            new=tuple(map(one_line, self.new)),
        )


def _state_of(item: RemoteItem, sums: Mapping[str, str]) -> FileState:
    if item.kind == "link":
        return FileState("link", item.entries[0].link)
    return FileState("file", sums.get(item.inside, ""))


def _summary(result: PullResult) -> str:
    """One line for people."""
    count = len(result.files) + len(result.links)
    verb = "Would pull" if result.dry_run else "Pulled"
    parts = []
    if count:
        parts.append(f"{verb} {names([*(file.path for file in result.files), *result.links])}")
    if result.deleted:
        parts.append(f"{'would delete' if result.dry_run else 'deleted'} {names(result.deleted)}")
    text = ", ".join(parts) or "Nothing to pull"
    if result.conflicts:
        text += f", {len(result.conflicts)} left alone"
    return text[0].upper() + text[1:]
