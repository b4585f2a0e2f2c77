"""A push in turns: what to tell the VM, what it asks for, and files that change meanwhile."""

from __future__ import annotations

import contextlib
import re
import stat
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from vmctl.domain.errors import Conflict, VmctlError
from vmctl.domain.events import Advanced, Info, Story
from vmctl.domain.reply_shapes import unexpected_reply
from vmctl.domain.sync.rsync_output import Via
from vmctl.domain.sync.tree import TreeEntry, difference, named
from vmctl.domain.text import one_line
from vmctl.files import find_program
from vmctl.guest.protocol import (
    DELTA_BYTES,
    PLACED_FOLDER,
    STAGING,
    STAGING_NEAR,
    WORKSPACES,
)
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.transfer.upload import Blob, UploadStream
from vmctl.workflows.base.stories import as_story
from vmctl.workflows.sync.hash_cache import CutMarker, hash_file, vanished_error
from vmctl.workflows.sync.scan import Scan
from vmctl.workflows.sync.selection import entry_of

if TYPE_CHECKING:
    from vmctl.guest.messages import MissingFiles, PlacedFolders, PushReply
    from vmctl.ssh.transfer.rsync import SpeculativeRsync

STEP = "push"
PLACED = f"{STAGING}/{PLACED_FOLDER}"  # where the VM looks for what rsync brought unasked
OTHER_DISK = re.compile(rf"/[^\x00-\x1f\x7f]+/{re.escape(STAGING_NEAR)}/{PLACED_FOLDER}")
TURNS = 64  # of the VM's, in one push: each file is asked for four times at most
LIKELY_BYTES = 1 << 19  # of contents go along without a question
AHEAD_BYTES = 1 << 20  # go out on a first push before it is known what all the files hold
TRIES = 3  # to read a file that changes


class PushOptions(NamedTuple):
    """How a push goes."""

    dry_run: bool = False
    force: bool = False
    via: Via = Via.STREAM


class PushSession:
    """One conversation with the VM about one tree, which may still change under it."""

    def __init__(
        self,
        stream: UploadStream,
        scan: Scan,
        options: PushOptions,
        cut_marker: CutMarker,
        rsync: SpeculativeRsync | None,
    ) -> None:
        self._stream = stream
        self._root: Path = scan.root
        self._name = scan.name
        self._scan = scan
        self._tree: dict[str, TreeEntry] = {}
        self._base = scan.base
        self._options = options
        self._cut_marker = cut_marker
        self._rsync = rsync
        self._tries: Counter[str] = Counter()
        self._sent: dict[str, int] = {}  # sha256: up to where it was sent
        self._done_bytes = 0
        self._total_bytes: int | None = None
        self.missing_bytes: int | None = None  # when the VM last said what it wants

    def run(self) -> Story[PushReply]:
        """The VM's last reply: conflicts, the plan of a dry run, or what was done."""
        base = self._base
        if is_sent_ahead(self._scan, self._options, self._cut_marker):
            yield from self._send_ahead()
        self._scan.wait_hashed()
        self._tree = self._scan.tree
        put, removed = difference(base.files, self._tree) if base.id else (self._tree, [])
        if base.id:
            self._stream.difference(put, removed, len(self._tree))
        else:
            self._stream.tree(self._tree)
        answer = yield from self._send_unasked(list(self._likely_wanted(put)))
        last = "plan" if self._options.dry_run else "done"
        for _ in range(TURNS):
            if "ask" in answer:
                self._stream.tree(self._tree)
            elif "want" in answer and not self._options.dry_run:
                self._cut_marker.begin()
                yield from self._send_wanted(answer["want"])
            elif "conflicts" in answer or last in answer:
                return answer
            else:
                break
            answer = self._stream.end_turn()
        raise unexpected_reply("push does not finish")

    def _send_ahead(self) -> Story[None]:
        """Begin with the first files while the rest are still being read."""
        before = self._stream.sent_bytes
        contents = (
            Blob(entry.path, sha256, entry.size)
            for entry, sha256 in self._scan.new_files()
            if entry.size and sha256 not in self._sent
        )
        yield from self._send(contents, lambda: self._stream.sent_bytes - before > AHEAD_BYTES)

    def _send_unasked(self, likely: Sequence[Blob]) -> Story[PushReply]:
        """Contents go along at once; where they are many, until the VM says what it wants."""
        if sum(content.size for content in likely) <= LIKELY_BYTES:
            yield from self._send(likely)
            self._adopt_rsync()
            return self._stream.end_turn()
        self._stream.ask_early()
        yield from self._send(likely, self._stream.has_reply)
        answer = self._stream.reply()
        self._adopt_rsync()
        return answer

    def _likely_wanted(self, put: dict[str, TreeEntry]) -> Iterable[Blob]:
        """What the VM will most likely ask for."""
        if self._options.dry_run or self._options.via is not Via.STREAM or self._cut_marker.was:
            return
        base = self._base.files
        seen = {entry[1] for entry in base.values() if entry[0] == "f"} | self._sent.keys()
        for path in sorted(put):
            entry = put[path]
            if entry[0] != "f" or not entry[2] or entry[1] in seen:
                continue
            if is_sent_as_difference(entry, base.get(path)):
                continue
            seen.add(entry[1])
            yield Blob(path, entry[1], entry[2])

    def _adopt_rsync(self) -> None:
        """What rsync has brought before the VM could ask for it."""
        if self._rsync is None:
            return
        found = [(path, self._tree[path]) for path in self._rsync.paths]
        contents = [Blob(path, entry[1], entry[2]) for path, entry in found]
        self._stream.announce_rsync(contents)
        stats = self._rsync.wait()
        if stats is not None:
            self._stream.sent_bytes += stats.sent
            self._stream.announce_placed(contents)

    def _send_wanted(self, want: MissingFiles) -> Story[None]:
        """Everything that the VM asks for."""
        names = sorted(self._tree)
        paths = named(want["files"], names)
        if not paths or any(self._tree[path][0] != "f" for path in paths):
            raise unexpected_reply("push requests something that is not a file")
        held = {names[number]: size for number, size in want["held"].items()}
        again = [path for path in paths if self._tries[path]]
        self._tries.update(paths)
        changed = {path: entry for path in again if (entry := self._reread(path))}
        if changed:
            self._tree.update(changed)
            self._stream.difference(changed, [], len(self._tree))
            held = {path: size for path, size in held.items() if path not in changed}
        contents = []
        for path in paths:
            _, sha256, size, _, _ = self._tree[path]
            # what was sent unasked may still arrive; what was wrong is sent from its beginning
            sent = 0 if path in again else self._sent.get(sha256, 0)
            offset = max(held.get(path, 0), sent)
            if offset < size:
                contents.append(Blob(path, sha256, size, offset))
        self.missing_bytes = sum(one.size - one.offset for one in contents)
        self._total_bytes = self._done_bytes + self.missing_bytes
        differing = {names[number] for number in want["older"]}
        apart = [content for content in contents if self._is_sent_apart(content.path, differing)]
        yield from self._send_apart(apart, want["placed"])
        taken = {content.path for content in apart}
        yield from self._send(content for content in contents if content.path not in taken)

    def _is_sent_apart(self, path: str, differing: set[str]) -> bool:
        """Whether a file travels by another program than our stream."""
        if self._options.via is not Via.STREAM:
            return True
        return path in differing and self._tries[path] == 1 and find_program("rsync") is not None

    def _send_apart(self, contents: Sequence[Blob], placed: PlacedFolders) -> Story[None]:
        if not contents:
            return
        paths, folder = [content.path for content in contents], placed["folder"]
        if folder != PLACED.format(project=self._name) and not OTHER_DISK.fullmatch(folder):
            raise unexpected_reply("push names a folder that is not its own")
        if self._options.via is Via.SCP:
            count = "1 file" if len(paths) == 1 else f"{len(paths)} files"
            yield Info(
                f"scp needs about five round trips per file ({count} files) and cannot "
                "resume: without --via it is faster"
            )
            from vmctl.ssh.transfer.rsync import by_scp

            by_scp(self._stream.ssh, self._root, paths, folder)
            self._stream.sent_bytes += sum(content.size for content in contents)
        else:
            from vmctl.ssh.transfer.rsync import Rsync

            rsync = Rsync(self._stream.ssh, self._root, paths, folder, placed["older"])
            before = self._done_bytes

            def advanced(done: int) -> Advanced:
                self._done_bytes = before + done
                return self._advanced()

            try:
                stats = yield from as_story(rsync.progress(), advanced)
                self._stream.sent_bytes += stats.sent
            finally:
                rsync.close()
        self._stream.announce_placed(contents)

    def _reread(self, path: str) -> TreeEntry | None:
        """What a file is now whose bytes were not what they should be; None when it is the same."""
        if self._tries[path] > TRIES:
            raise Conflict(
                f"{one_line(path)} keeps changing while it is being pushed.",
                hint="Wait until it is complete, or exclude it: [push] exclude in vmctl.toml",
            )
        place = self._root / path
        try:
            found = place.lstat()
        except OSError as error:
            raise vanished_error(path) from error
        if not stat.S_ISREG(found.st_mode):
            raise vanished_error(path)
        entry = entry_of(path, str(place), found)
        sha256 = hash_file(self._root, path)
        now = ["f", sha256, entry.size, entry.mtime_ns, entry.mode]
        return None if now == self._tree[path] else now

    def _send(self, contents: Iterable[Blob], is_enough: Callable[[], bool] = bool) -> Story[None]:
        for sent in self._stream.send(self._root, contents, is_enough):
            self._sent[sent.content.sha256] = sent.end
            self._done_bytes += sent.bytes
            yield self._advanced()

    def _advanced(self) -> Advanced:
        return Advanced(STEP, done_bytes=self._done_bytes, total_bytes=self._total_bytes)


def is_sent_ahead(scan: Scan, options: PushOptions, cut_marker: CutMarker) -> bool:
    """Whether the VM will most likely ask for everything; the scan has listed."""
    return not (scan.base.id or cut_marker.was or options.dry_run) and options.via is Via.STREAM


def is_sent_as_difference(entry: TreeEntry, older: TreeEntry | None) -> bool:
    """Whether a file is large and replaces a large one."""
    if entry[0] != "f" or older is None or older[0] != "f":
        return False
    return bool(min(entry[2], older[2]) >= DELTA_BYTES)


class RsyncStarter:
    """Starts rsync for large files that changed here as soon as they are seen to have changed.

    That is before the VM has answered anything, and before their SHA-256 is known here.
    """

    def __init__(self, ssh: OpenSSH, name: str, scan: Scan, cut_marker: CutMarker) -> None:
        self._scan = scan
        self._rsync: SpeculativeRsync | None = None
        self._thread = threading.Thread(
            target=self._start, args=(ssh, name, cut_marker), daemon=True
        )
        self._thread.start()

    def rsync(self) -> SpeculativeRsync | None:
        """The rsync that runs, if there is anything for it."""
        self._thread.join()
        return self._rsync

    def close(self) -> None:
        """End it."""
        self._thread.join()
        if self._rsync is not None:
            self._rsync.close()

    def _start(self, ssh: OpenSSH, name: str, cut_marker: CutMarker) -> None:
        try:
            self._scan.wait_listed()
        except Exception:
            return  # wait_listed raises it for the main thread
        base = self._scan.base.files
        paths = [
            entry.path
            for entry in self._scan.unhashed
            if is_sent_as_difference(["f", "", entry.size], base.get(entry.path))
        ]
        if not paths or cut_marker.was or find_program("rsync") is None:
            return
        from vmctl.ssh.transfer.rsync import SpeculativeRsync

        cut_marker.begin()
        older, folder = [f"../../../../{WORKSPACES}/{name}"], PLACED.format(project=name)
        with contextlib.suppress(VmctlError, OSError):  # then they go as the VM asks for them
            self._rsync = SpeculativeRsync(ssh, self._scan.root, paths, folder, older)
