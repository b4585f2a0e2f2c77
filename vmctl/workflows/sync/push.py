"""Mirror the project folder to the VM."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    IntegrityError,
    NotFound,
    Unreachable,
)
from vmctl.domain.events import Finished, Started, Story, Warned
from vmctl.domain.sync.excludes import left_behind, paths_named
from vmctl.domain.sync.rsync_output import LeftOut, Via, group_left_out
from vmctl.domain.sync.tree import named
from vmctl.domain.text import one_line
from vmctl.files import FileLock
from vmctl.folders import runtime_dir
from vmctl.guest.protocol import tree_id
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.transfer.upload import HelpersReinstalled, UploadStream
from vmctl.workflows.base.agreements import Agree, agree_on_files
from vmctl.workflows.session.reconnect import Reconnector
from vmctl.workflows.session.session import connect
from vmctl.workflows.sync.hash_cache import (
    CutMarker,
    pair_key,
    read_shown_warnings,
    write_shown_warnings,
)
from vmctl.workflows.sync.project_root import refuse_unfit_root
from vmctl.workflows.sync.push_session import (
    STEP,
    PushOptions,
    PushSession,
    RsyncStarter,
    is_sent_ahead,
)
from vmctl.workflows.sync.scan import Scan, SecretsFound, secrets_to_send
from vmctl.workflows.sync.selection import LocalEntry, Selection

if TYPE_CHECKING:
    from vmctl.guest.messages import PushSummary

SHOWN = 20  # names in a message
NOTHING_YET = 1 << 62
RESUMES = "To resume without sending everything again: vmctl push"


@dataclass(frozen=True, slots=True)
class Size:
    """One file with its size."""

    path: str
    bytes: int


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did, or in a dry run would do."""

    destination: str
    dry_run: bool
    files: int  # selected here: files, links and empty folders
    bytes: int  # of all of them
    moved_files: int
    moved_bytes: int
    moved: tuple[str, ...]  # files and links
    deleted: tuple[str, ...]
    kept: tuple[str, ...]  # no longer here, but changed on the VM since they were pushed
    refused: tuple[str, ...]  # in a dry run: changed or made on the VM, a push would not go on
    left_out: tuple[LeftOut, ...]
    largest: tuple[Size, ...]
    sent_bytes: int  # over the connection, before SSH's own
    seconds: float


def push(
    project: Project,
    dry_run: bool = False,
    force: bool = False,
    *,
    via: Via = Via.STREAM,
    agree: Agree | None = None,
    clock: Clock | None = None,
) -> Story[PushResult]:
    """What the folder holds, less what is ignored, is on the VM; deletes only what a push put.

    Nothing there changes before every byte is there and proven; a kill at any moment is repaired
    by the next push. A lost link is come back over for ten minutes, and what has arrived is not
    sent again. `agree` is asked before what looks like a secret is sent for the first time; without
    it, that is refused.
    """
    clock = clock or Clock()
    began, options = clock.monotonic(), PushOptions(dry_run, force, via)
    if not project.root.is_dir():
        raise NotFound(f"The folder {project.root} does not exist.")
    refuse_unfit_root(project.root, project.file)
    with _push_lock(project) as key:
        scan, summary, sent_bytes = yield from _push_until_done(project, key, options, agree, clock)
    seconds = round(clock.monotonic() - began, 3)
    result = _result(project, options, scan, summary, sent_bytes, seconds)
    yield Finished(STEP, _summary(result), seconds)
    for text in _warnings(project, result, scan, summary, key):
        yield Warned(text)
    return result


def _push_until_done(
    project: Project, key: str, options: PushOptions, agree: Agree | None, clock: Clock
) -> Story[tuple[Scan, PushSummary, int]]:
    """Over as many connections as it takes; the scan that was pushed, and the bytes sent."""
    # begins while the connection is being made
    scan = Scan(project, key, may_send=not options.dry_run)
    session = yield from connect(project, clock=clock)
    yield Started(STEP, f"Pushing {project.root.name}")
    progress, reconnector, installed = _Progress(), Reconnector(project, clock), False
    while True:
        progress.has_started = False
        try:
            summary = yield from _run_once(session.ssh, project, scan, options, progress)
            return scan, summary, progress.sent_bytes
        except SecretsFound as found:
            yield from agree_on_files(project, found.paths, agree)
            scan = Scan(project, key)
            continue
        except HelpersReinstalled:
            if installed:
                raise Conflict(
                    "vmctl's helpers disappeared from the VM.", hint="vmctl up"
                ) from None
            installed = True
            continue
        except (Unreachable, AccessDenied) as error:
            if not (progress.has_started or reconnector.is_lost):
                raise  # there was no link that could come back
            if type(error) is Unreachable:
                error.hint = RESUMES
            yield from reconnector.connection_lost(error, progressed=progress.has_progressed())
        session = (yield from reconnector.session()) or session
        # the folder may have changed meanwhile
        scan = Scan(project, key, may_send=not options.dry_run)


def _result(
    project: Project,
    options: PushOptions,
    scan: Scan,
    summary: PushSummary,
    sent_bytes: int,
    seconds: float,
) -> PushResult:
    selection, tree = scan.selection, scan.tree
    names = named(summary["put"], sorted(tree))
    moved = [path for path in names if tree[path][0] != "d"]
    return PushResult(
        destination=project.workspace,
        dry_run=options.dry_run,
        files=len(tree),
        bytes=sum(entry.size for entry in selection.entries),
        moved_files=len(moved),
        moved_bytes=sum(tree[path][2] for path in moved if tree[path][0] == "f"),
        moved=tuple(moved),
        deleted=tuple(summary["deleted"]),
        kept=tuple(summary["kept"]),
        refused=tuple(path for path, _ in summary["conflicts"]),
        left_out=group_left_out(selection.left_out),
        largest=_largest(selection.entries),
        sent_bytes=sent_bytes,
        seconds=seconds,
    )


def _warnings(
    project: Project, result: PushResult, scan: Scan, summary: PushSummary, key: str
) -> Iterator[str]:
    """What to warn of after a push."""
    for path in result.kept[:SHOWN]:
        yield f"{one_line(path)} was deleted here but changed on the VM, so it is kept there"
    if scan.unagreed:  # in a dry run only
        listed = ", ".join(map(one_line, scan.unagreed[:SHOWN]))
        yield f"A push would ask first, because these look like secrets: {listed}"
    selection = scan.selection
    if selection.unanswered:
        yield (
            f"It is not known which ignored files git tracks here ({selection.unanswered}): "
            "of those, files pushed before are still pushed"
        )
    if result.refused:
        yield _conflict(summary["conflicts"]).message
    yield from _named_but_left_out(project, selection, None if result.dry_run else key)


def agree_ahead(project: Project, agree: Agree | None) -> Story[None]:
    """Ask what a push would ask, before a machine is made for it."""
    refuse_unfit_root(project.root, project.file)
    found = secrets_to_send(project, pair_key(project))
    if found:
        yield from agree_on_files(project, found, agree)


def _named_but_left_out(project: Project, selection: Selection, key: str | None) -> Iterator[str]:
    """Jobs that name what stays here; with a key only those not shown before."""
    shown = read_shown_warnings(key) if key else []
    new = []
    for job in project.jobs.values():
        words = [
            path for line in (*job.setup, job.command) for path in paths_named(line, job.directory)
        ]
        for path, rule in left_behind(words, selection.left_out):
            if [job.name, path] not in shown and (project.root / path).exists():
                new.append([job.name, path])
                yield (
                    f"{one_line(path)}, which the job '{job.name}' names, is excluded by "
                    f"{rule}: it exists on the VM only if something creates it there"
                )
    if key and new:
        write_shown_warnings(key, [*shown, *new])


@dataclass(slots=True)
class _Progress:
    """What came of the connections so far."""

    has_started: bool = False  # the VM has taken part in this one
    sent_bytes: int = 0
    missing_bytes: int = NOTHING_YET  # of contents, when the VM last said what it wants
    _missed_bytes: int = NOTHING_YET

    def has_progressed(self) -> bool:
        """Whether the VM wants less than after the connection before."""
        missed, self._missed_bytes = self._missed_bytes, self.missing_bytes
        return self.missing_bytes < missed


def _run_once(
    ssh: OpenSSH, project: Project, scan: Scan, options: PushOptions, progress: _Progress
) -> Story[PushSummary]:
    """One connection's push; raises Conflict where it would overwrite changes."""
    cut_marker = CutMarker(scan.key)
    starter = None
    if options.via is Via.STREAM and not options.dry_run:
        starter = RsyncStarter(ssh, project.name, scan, cut_marker)
    stream = conversation = None
    try:
        stream = UploadStream(ssh)
        progress.has_started = True
        scan.wait_listed()
        ahead = is_sent_ahead(scan, options, cut_marker)
        if not ahead:
            scan.wait_hashed()
        signature = hashlib.sha256(ensure_keypair().public_line.encode()).hexdigest()[:16]
        stream.request(
            {
                "project": project.name,
                "origin": f"{signature}:{project.root}",
                "place": f"{os.uname().nodename}:{project.root}",
                "force": options.force,
                "dry_run": options.dry_run,
                "base": scan.base.id,
                "tree": "" if ahead else scan.id,  # only who knows `base` compares it
            }
        )
        rsync = starter.rsync() if starter else None
        conversation = PushSession(stream, scan, options, cut_marker, rsync)
        reply = yield from conversation.run()
        scan.save()
    finally:
        if conversation is not None and conversation.missing_bytes is not None:
            progress.missing_bytes = conversation.missing_bytes
        if starter is not None:
            starter.close()
        if stream is not None:
            progress.sent_bytes += stream.sent_bytes
            stream.close()
    if "conflicts" in reply:
        raise _conflict(reply["conflicts"])
    if options.dry_run:
        return reply["plan"]
    done = reply["done"]
    # what was sent ahead may have changed since; to name a tree takes as long as to look through it
    if done["tree"] != scan.id and done["tree"] != tree_id(scan.tree):
        raise IntegrityError("The VM does not have what was pushed.", hint="Push again: vmctl push")
    cut_marker.end()
    if done["tree"] != scan.base.id:
        scan.base.write(done["tree"], scan.tree)
    return done


@contextlib.contextmanager
def _push_lock(project: Project) -> Iterator[str]:
    """One push of a project at a time from this computer; yields a name for the pair."""
    digest = pair_key(project)
    lock = FileLock(runtime_dir() / f"push-{digest}.lock")
    if not lock.acquire():
        raise Conflict(
            "Another push of this project is running.", hint="Wait until it has finished."
        )
    with lock:
        yield digest


def _conflict(found: Sequence[Sequence[str]]) -> Conflict:
    """What changed or was made on the VM and would be overwritten, by name."""
    reasons = {"changed": "changed on the VM since it was pushed", "made": "was made on the VM"}
    hint = "Pull it: vmctl pull, or overwrite it: vmctl push --force"
    if len(found) == 1:
        path, why = found[0]
        return Conflict(
            f"{one_line(path)} {reasons[why]}: a push would overwrite it.",
            hint=hint.replace("pull", f"pull {quote(one_line(path))}"),
        )
    lines = [f"  {one_line(path)} {reasons[why]}" for path, why in found[:SHOWN]]
    if len(found) > SHOWN:
        lines.append(f"  … and {len(found) - SHOWN} more")
    head = f"A push would overwrite {len(found)} files of the VM:"
    return Conflict("\n".join([head, *lines]), hint=hint.replace(" it", " them"))


def _largest(entries: Sequence[LocalEntry], count: int = 5) -> tuple[Size, ...]:
    ordered = sorted(entries, key=lambda entry: -entry.size)
    return tuple(Size(entry.path, entry.size) for entry in ordered[:count])


def _summary(result: PushResult) -> str:
    """One line for people."""
    verb = "would move" if result.dry_run else "moved"
    files = "1 file" if result.files == 1 else f"{result.files} files"
    text = f"{files} at {result.destination}: {result.moved_files} {verb}"
    if result.deleted:
        text += f", {len(result.deleted)} {'would be ' if result.dry_run else ''}deleted"
    left = sum(group.count for group in result.left_out)
    return f"{text}, {left} excluded" if left else text
