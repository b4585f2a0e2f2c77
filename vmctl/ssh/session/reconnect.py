"""A master that answers in place of one that does not, wherever the VM is now."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from vmctl.clock import Clock
from vmctl.domain.errors import AccessDenied, Conflict, NotFound, Unreachable, VmctlError
from vmctl.domain.login.ssh_target import Target
from vmctl.ssh.session.control_master import Master

LOCK_WAIT_S = 30.0
LOCK_GAP_S = 0.02
KEY_WAIT_S = 60.0
KEY_GAP_S = 0.3

T = TypeVar("T")
Resolve = Callable[[], Target]  # asks the Compute API where the VM is; raises NotFound, Conflict, …


@dataclass(frozen=True, slots=True)
class Opened:
    """A master, and the process that is to take its place; None where one has done so already."""

    master: Master
    spare: Path | None

    def promote(self) -> Master:
        """Make it the one that every command takes."""
        if self.spare is not None:
            self.master.promote(self.spare)
        return self.master

    def discard(self) -> None:
        """It is not needed."""
        if self.spare is not None:
            self.master.discard(self.spare)


class MasterReplacement:
    """Opens, in a thread, what shall replace a master whose socket had the given inode.

    The address seen last is tried while the API is asked, which starts `ask_after_s` later: who
    shows the pinned host key there is the VM, and the API need not be waited for. Other vmctl
    processes wait for this one until `end` is called.
    """

    def __init__(
        self, old: Master, inode: int, resolve: Resolve | None, *, ask_after_s: float = 0.0
    ) -> None:
        self._old = old
        self._inode = inode
        self._resolve = resolve
        self._ask_after_s = ask_after_s
        self._given_up = threading.Event()
        self._handed_over = False
        self._guard = threading.Lock()
        self.opened: Opened | None = None
        self.error: VmctlError | None = None
        self._crash: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="reopening", daemon=True)
        self._thread.start()

    def done(self, timeout_s: float = 0.0) -> bool:
        """Whether it has ended, well or not, within this time."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def result(self) -> Opened:
        """What was opened; waits for it, raises why nothing could be."""
        while not self.done(1.0):
            pass
        if self._crash is not None:
            raise self._crash
        if self.error is not None:
            raise self.error
        with self._guard:
            self._handed_over = True
        assert self.opened is not None
        return self.opened

    def end(self) -> None:
        """Let others go on; what was opened for nothing is ended."""
        self._given_up.set()
        with self._guard:
            if self.opened is not None and not self._handed_over:
                self.opened.discard()
                self.opened = None
        self._old.lock.release()

    # -- in the thread -----------------------------------------------------------------------

    def _work(self) -> None:
        try:
            opened = self._opened()
        except VmctlError as error:
            self.error = error
            return
        except BaseException as error:  # raised by result(), in the thread that waits
            self._crash = error
            return
        with self._guard:
            if self._given_up.is_set():
                opened.discard()
            else:
                self.opened = opened

    def _opened(self) -> Opened:
        limit = time.monotonic() + LOCK_WAIT_S
        while not self._old.lock.acquire():
            if self._replaced():
                return Opened(self._old, None)
            if self._given_up.wait(LOCK_GAP_S) or time.monotonic() > limit:
                raise _busy()
        if self._given_up.is_set():
            self._old.lock.release()
            raise _busy()
        if self._replaced():
            return Opened(self._old, None)
        return self._race()

    def _replaced(self) -> bool:
        """Somebody else has put a new one in the old one's place."""
        return self._old.inode not in (0, self._inode)

    def _race(self) -> Opened:
        replies: queue.SimpleQueue[Path | Target | _Failed] = queue.SimpleQueue()
        here = _Attempt(replies, lambda: self._old.spawn_spare(), at_known_address=True)
        asked: _Attempt | None = None
        if self._resolve is None:
            refused = _Failed(Unreachable("no API to ask"), at_known_address=False)
        else:
            refused = None
        known: _Failed | None = None
        while True:
            try:
                # the API is asked when the known address has failed, or is slow
                reply = replies.get(timeout=None if asked or refused else self._ask_after_s)
            except queue.Empty:
                reply = None
            if isinstance(reply, Path):
                return Opened(self._old, reply)
            if isinstance(reply, Target):
                if reply != self._old.target:
                    here.abandon(self._old)
                    return _open_at(Master(reply))
                if known is None:
                    refused = _Failed(Unreachable("the same address"), at_known_address=False)
                elif isinstance(known.error, AccessDenied):
                    return _open_at(self._old)  # the key was renewed just now
                else:
                    raise known.error
            elif isinstance(reply, _Failed) and reply.at_known_address:
                known = reply
                if refused is not None:
                    raise known.error
            elif isinstance(reply, _Failed):
                if known is not None or isinstance(reply.error, NotFound | Conflict):
                    here.abandon(self._old)
                    raise reply.error
                refused = reply
            if asked is None and refused is None and self._resolve is not None:
                asked = _Attempt(replies, self._resolve, at_known_address=False)


@dataclass(frozen=True, slots=True)
class _Failed:
    error: VmctlError
    at_known_address: bool


class _Attempt:
    """One blocking call in a thread; its outcome goes into a queue."""

    def __init__(
        self,
        replies: queue.SimpleQueue[Path | Target | _Failed],
        ask: Callable[[], Path | Target],
        *,
        at_known_address: bool,
    ) -> None:
        self._replies = replies
        self._ask = ask
        self._at_known_address = at_known_address
        self._abandoned_by: Master | None = None
        threading.Thread(target=self._work, name="reconnect", daemon=True).start()

    def abandon(self, master: Master) -> None:
        """A master that still comes is ended."""
        self._abandoned_by = master

    def _work(self) -> None:
        try:
            reply: Path | Target | _Failed = self._ask()
        except VmctlError as error:
            reply = _Failed(error, self._at_known_address)
        except Exception as error:
            reply = _Failed(VmctlError(f"{type(error).__name__}: {error}"), self._at_known_address)
        master = self._abandoned_by
        if master is not None and isinstance(reply, Path):
            master.discard(reply)
        else:
            self._replies.put(reply)


def _open_at(master: Master) -> Opened:
    """At the address that the API gave."""
    if master.probe():
        return Opened(master, None)
    return Opened(master, await_key(master.spawn_spare, Clock()))


def await_key(login: Callable[[], T], clock: Clock) -> T:
    """Log in; a key that was just renewed may need a moment until the guest agent has written it.

    Raises AccessDenied when it is not accepted within KEY_WAIT_S.
    """
    limit = clock.monotonic() + KEY_WAIT_S
    while True:
        try:
            return login()
        except AccessDenied:
            if clock.monotonic() > limit:
                raise
            clock.sleep(KEY_GAP_S)


def _busy() -> Unreachable:
    return Unreachable(
        "Another vmctl command has been connecting to the VM for too long.",
        hint="Try again, or see what runs: ps aux | grep vmctl",
    )
