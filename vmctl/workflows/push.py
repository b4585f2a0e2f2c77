"""Mirror the project folder to the VM."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, NotFound
from vmctl.domain.events import Advanced, Finished, Started, Story, Warned
from vmctl.domain.probe import printable
from vmctl.domain.transfer import LeftOut, RsyncStats, group_left_out
from vmctl.folders import runtime_dir
from vmctl.ssh import guest
from vmctl.ssh.keys import ensure_keypair
from vmctl.ssh.openssh import OpenSSH
from vmctl.ssh.transfer import push_tree
from vmctl.workflows.selection import LocalEntry, Selection, select
from vmctl.workflows.session import connect

STEP = "push"


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
    left_out: tuple[LeftOut, ...]
    largest: tuple[Size, ...]
    seconds: float


def push(
    project: Project, dry_run: bool = False, force: bool = False, *, clock: Clock | None = None
) -> Story[PushResult]:
    """What the folder holds, less what is ignored, is on the VM; deletes only what a push put.

    The order survives a kill at any moment: record what will be there, transfer, delete, record.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    if not project.root.is_dir():
        raise NotFound(f"There is no folder {project.root}.")
    with _alone(project):
        session = yield from connect(project, clock=clock)
        yield Started(STEP, f"Pushing {project.root.name}")
        selection = select(project.root, project.exclude)
        total = sum(entry.size for entry in selection.entries)
        plan = _begin(session.ssh, project, selection, dry_run, force)
        stats, moved = yield from _transfer(session.ssh, project, selection, plan, dry_run)
        if dry_run:
            deleted, kept = plan["delete"], plan["keep"]
        else:
            ended = guest.call(
                session.ssh, "push-end", {"project": project.name, "token": plan["token"]}
            )
            deleted, kept = ended["deleted"], ended["kept"]
    seconds = round(clock.monotonic() - began, 3)
    result = PushResult(
        destination=project.workspace,
        dry_run=dry_run,
        files=len(selection.entries),
        bytes=total,
        moved_files=len(moved),
        moved_bytes=stats.bytes,
        moved=tuple(map(printable, moved)),
        deleted=tuple(map(printable, deleted)),
        kept=tuple(map(printable, kept)),
        left_out=group_left_out([(rule, printable(path)) for rule, path in selection.left_out]),
        largest=_largest(selection.entries),
        seconds=seconds,
    )
    yield Finished(STEP, _told(result), seconds)
    for path in result.kept[:5]:
        yield Warned(f"{path} is gone here but was changed on the VM, so it stays there")
    return result


def _begin(
    ssh: OpenSSH, project: Project, selection: Selection, dry_run: bool, force: bool
) -> dict[str, Any]:
    """Ask the VM what this push may do; files that differ only in their times may go on."""
    key = hashlib.sha256(ensure_keypair().public_line.encode()).hexdigest()[:16]
    request: dict[str, Any] = {
        "project": project.name,
        "origin": f"{key}:{project.root}",
        "place": f"{socket.gethostname()}:{project.root}",
        "entries": [[entry.path, entry.fingerprint] for entry in selection.entries],
        "accept": [],
        "force": force,
        "dry_run": dry_run,
    }
    answer = guest.call(ssh, "push-begin", request)
    if not answer["suspects"] or dry_run:
        return answer
    differing = [
        (path, known)
        for path, known, sha256 in answer["suspects"]
        if sha256 != _sha256(project.root / path)
    ]
    if differing:
        path, known = differing[0]
        more = f" and {len(differing) - 1} more" if len(differing) > 1 else ""
        why = "changed on the VM since it was pushed" if known else "was made on the VM"
        raise Conflict(
            f"{printable(path)}{more} {why}: a push would overwrite it.",
            hint=f"Bring it home: vmctl fetch '{printable(path)}', or overwrite it: "
            "vmctl push --force",
        )
    request["accept"] = [path for path, _, _ in answer["suspects"]]
    return guest.call(ssh, "push-begin", request)


def _transfer(
    ssh: OpenSSH, project: Project, selection: Selection, plan: dict[str, Any], dry_run: bool
) -> Story[tuple[RsyncStats, list[str]]]:
    if not selection.entries:
        return RsyncStats(), []
    transfer = push_tree(
        ssh,
        project.root,
        [entry.path for entry in selection.entries],
        project.workspace.removeprefix("~/"),
        temp_dir=plan["temp_dir"],
        dry_run=dry_run,
    )
    try:
        while True:
            yield Advanced(STEP, done_bytes=next(transfer))
    except StopIteration as end:
        found: tuple[RsyncStats, list[str]] = end.value
        return found
    finally:
        transfer.close()


@contextlib.contextmanager
def _alone(project: Project) -> Iterator[None]:
    """One push of a project at a time from this computer."""
    digest = hashlib.sha256(f"{project.root}\0{project.instance_name}".encode()).hexdigest()[:16]
    with (runtime_dir() / f"push-{digest}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(
                "Another push of this project is going on.", hint="Wait until it is done."
            ) from error
        yield


def _largest(entries: Sequence[LocalEntry], count: int = 5) -> tuple[Size, ...]:
    ordered = sorted(entries, key=lambda entry: -entry.size)
    return tuple(Size(printable(entry.path), entry.size) for entry in ordered[:count])


def _told(result: PushResult) -> str:
    """One line for people."""
    verb = "would move" if result.dry_run else "moved"
    files = "1 file" if result.files == 1 else f"{result.files} files"
    text = f"{files} at {result.destination}: {result.moved_files} {verb}"
    if result.deleted:
        text += f", {len(result.deleted)} {'would be ' if result.dry_run else ''}deleted"
    left = sum(group.count for group in result.left_out)
    return f"{text}, {left} left out" if left else text


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
