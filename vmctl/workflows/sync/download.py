"""Files come here over as many connections as it takes: what fetch and pull have in common."""

from __future__ import annotations

import hashlib
import stat
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, TimedOut, Unreachable
from vmctl.domain.events import Advanced, Info, Story
from vmctl.domain.text import one_line
from vmctl.ssh.transfer.destination import Destination
from vmctl.ssh.transfer.download import (
    DownloadStream,
    FileChanged,
    FileRequest,
    Partial,
    ReceivedFile,
)
from vmctl.workflows.base.stories import as_story
from vmctl.workflows.session.reconnect import Reconnector
from vmctl.workflows.session.session import Session

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

    from vmctl.guest.messages import RemoteListing
    from vmctl.guest.protocol import Verb

SHOW_S = 0.05
THREADS = 8
WAIT_SHOW_S = 0.3  # between two reasons for waiting
WAIT_LIMIT_S = 7 * 86400.0  # no run that Google limits is longer, and no other is waited for
WAITING = 32  # files that have come and are not on the disk yet


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """Which files of a listing are wanted, and where they land.

    `instead_of` names, by path, the SHA-256 of what must stand there until it is replaced.
    """

    destination: Destination
    wants: Sequence[FileRequest]
    files: int  # that the VM would send unasked
    instead_of: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Download:
    """One transfer with all its attempts; each listing is planned again."""

    project: Project
    verb: Verb[Any, RemoteListing]
    request: Mapping[str, Any]
    plan: Callable[[Mapping[str, Any]], Story[DownloadPlan]]
    clock: Clock
    step: str
    changing_ok: bool = False
    waits: bool = False
    received: dict[str, ReceivedFile] = field(default_factory=dict)
    _done: int = 0
    _total: int = 0
    _shown_at: float = 0.0
    _waited: bool = False
    _waits_until: float | None = None

    def run(self, session: Session, ask: bool) -> Story[list[ReceivedFile]]:
        """Every file that the plan wants; without `ask` they are sent before they are asked for.

        A lost link is come back over for ten minutes, counted from the last byte that came.
        """
        reconnector = Reconnector(self.project, self.clock)
        while True:
            before, self._waited = self._done, False
            try:
                if not (yield from self._one_connection(session, ask)):
                    ask = True
                    continue
                return sorted(self.received.values(), key=lambda found: found.want.number)
            except FileChanged as error:
                if not self.waits:
                    raise
                yield Info(f"{error.message} Waiting for it")
                reconnector.connected()
            except (Unreachable, AccessDenied) as error:
                progressed = self._done > before or self._waited
                yield from reconnector.connection_lost(error, progressed=progressed)
            ask = True
            # where there is no new one the old one is tried, and counted
            session = (yield from reconnector.session()) or session

    def _one_connection(self, session: Session, ask: bool) -> Story[bool]:
        """Whether all that is wanted came; not where more comes unasked than is wanted."""
        request = {**self.request, "ask": ask}
        with DownloadStream(session.ssh, self.verb, request) as stream:
            listing = yield from self._listing(stream)
            plan = yield from self.plan(listing)
            if not ask and len(plan.wants) != plan.files:
                return False
            wants = [want for want in plan.wants if not self._is_received(want)]
            self._total = sum(want.size for want in plan.wants)
            self._done = self._total - sum(want.size for want in wants)
            yield self._progress()
            partials = [Partial(changing_ok=self.changing_ok)] * len(wants)
            if ask:
                partials = [self._find_partial(plan.destination, want) for want in wants]
                asked = [
                    (want.number, partial.offset, partial.sha256)
                    for want, partial in zip(wants, partials, strict=True)
                ]
                plan.destination.require(
                    sum(want.size for want in wants) - sum(o for _, o, _ in asked)
                )
                stream.ask(asked)
            else:
                plan.destination.require(self._total)
            with _Writeback(self.received, len(wants)) as writeback:
                for want, partial in zip(wants, partials, strict=True):
                    yield from self._receive(stream, plan, want, partial, writeback)
                stream.finish()
        return True

    def _listing(self, stream: DownloadStream) -> Story[dict[str, Any]]:
        words = stream.listing(waits=self.waits)
        shown, shown_at = "", 0.0
        if self._waits_until is None:
            self._waits_until = self.clock.monotonic() + WAIT_LIMIT_S

        def waiting(why: str) -> Advanced | None:
            nonlocal shown, shown_at
            self._waited = True
            now = self.clock.monotonic()
            assert self._waits_until is not None
            if now > self._waits_until:
                raise TimedOut(
                    f"Waited for {WAIT_LIMIT_S / 86400:.0f} days: {one_line(why)}",
                    hint="See what runs: vmctl ps",
                )
            if why != shown and now - shown_at > WAIT_SHOW_S:
                shown, shown_at = why, now
                return Advanced(self.step, f"Waiting: {one_line(why)} (Ctrl-C only stops waiting)")
            return None

        return (yield from as_story(words, waiting))

    def _is_received(self, want: FileRequest) -> bool:
        """Whether this very file came over an earlier connection."""
        known = self.received.get(want.relative)
        return known is not None and (
            (known.want.remote, known.want.size, known.want.mtime_ns)
            == (want.remote, want.size, want.mtime_ns)
        )

    def _find_partial(self, destination: Destination, want: FileRequest) -> Partial:
        """What is here of it: the rest of a cut fetch, or a file of its size and time."""
        offset, digest = destination.partial(want.relative, want.size)
        if offset:
            return Partial(offset, digest.hexdigest(), digest, changing_ok=self.changing_ok)
        found = destination.look(want.relative)
        if (
            found is not None
            and stat.S_ISREG(found.st_mode)
            and (found.st_size, found.st_mtime_ns) == (want.size, want.mtime_ns)
            and (sha256 := destination.sha256_of(want.relative))
        ):
            return Partial(want.size, sha256, whole=True)
        return Partial(changing_ok=self.changing_ok, digest=hashlib.sha256())

    def _receive(
        self,
        stream: DownloadStream,
        plan: DownloadPlan,
        want: FileRequest,
        partial: Partial,
        writeback: _Writeback,
    ) -> Story[None]:
        base = self._done

        def progress(received: int) -> Advanced | None:
            self._done += received
            due = self.clock.monotonic() - self._shown_at > SHOW_S
            return self._progress() if due else None

        incoming = stream.receive(
            plan.destination, want, partial, plan.instead_of.get(want.relative)
        )
        writeback.add((yield from as_story(incoming, progress)))
        self._done = base + want.size

    def _progress(self) -> Advanced:
        self._shown_at = self.clock.monotonic()
        return Advanced(self.step, done_bytes=self._done, total_bytes=self._total)


class _Writeback:
    """Writes finished files to the disk while others still arrive, if there are many.

    Waiting for the disk once per file is most of what a folder of small files costs.
    """

    def __init__(self, received: dict[str, ReceivedFile], count: int) -> None:
        self._received = received
        self._pending: deque[Future[ReceivedFile]] = deque()
        self._pool: ThreadPoolExecutor | None = None
        if count > 1:
            from concurrent.futures import ThreadPoolExecutor

            self._pool = ThreadPoolExecutor(THREADS)

    def __enter__(self) -> _Writeback:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Finish all of them; raises the first error unless another is being raised."""
        errors = []
        while self._pending:
            try:
                self._take()
            except Exception as error:
                errors.append(error)
        if self._pool is not None:
            self._pool.shutdown()
        if errors and kind is None:
            raise errors[0]

    def add(self, finish: Callable[[], ReceivedFile]) -> None:
        """One more, now or in a moment; raises the error of an earlier one."""
        if self._pool is None:
            self._keep(finish())
            return
        if len(self._pending) >= WAITING:
            self._take()
        self._pending.append(self._pool.submit(finish))

    def _take(self) -> None:
        self._keep(self._pending.popleft().result())

    def _keep(self, found: ReceivedFile) -> None:
        self._received[found.want.relative] = found
