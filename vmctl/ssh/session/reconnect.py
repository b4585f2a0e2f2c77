"""A master that answers in place of one that does not, wherever the VM is now."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from vmctl.clock import Clock
from vmctl.domain.errors import AccessDenied, Conflict, NotFound, Unreachable
from vmctl.domain.login.ssh_target import Endpoint
from vmctl.ssh.session.control_master import ControlMaster

LOCK_WAIT_S = 30.0
LOCK_GAP_S = 0.02
KEY_WAIT_S = 60.0
KEY_GAP_S = 0.3

T = TypeVar("T")
Resolve = Callable[[], Endpoint]  # asks the API; raises NotFound, Conflict, …


@dataclass(frozen=True, slots=True)
class Opened:
    """A master, and the process that is to take its place; None where one has done so already."""

    master: ControlMaster
    spare: Path | None

    def promote(self) -> ControlMaster:
        """Make it the one that every command takes."""
        if self.spare is not None:
            self.master.promote(self.spare)
        return self.master

    def discard(self) -> None:
        """It is not needed."""
        if self.spare is not None:
            self.master.discard(self.spare)


class _Call(Generic[T]):
    """One call in a daemon thread; `changed` is set at its end."""

    def __init__(self, call: Callable[[], T], changed: threading.Event) -> None:
        self.value: T | None = None
        self.error: BaseException | None = None  # as it was raised: a full disk has its own words
        self._call = call
        self._changed = changed
        threading.Thread(target=self._run, name="reconnect", daemon=True).start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:
            self.error = error
        self._changed.set()


class MasterReplacement:
    """Opens, in a thread, what shall replace a master whose socket had the given inode.

    The cached address is tried while the API is asked, which starts `ask_after_s` later: a machine
    that shows the pinned host key there is the VM, and the API need not be waited for. Other vmctl
    processes wait for this one until `end` is called.
    """

    def __init__(
        self, old: ControlMaster, inode: int, resolve: Resolve | None, *, ask_after_s: float = 0.0
    ) -> None:
        self._old = old
        self._inode = inode
        self._resolve = resolve
        self._ask_after_s = ask_after_s
        self._given_up = threading.Event()
        self._guard = threading.Lock()
        self._unused: Opened | None = None
        self._ended = threading.Event()
        self._call = _Call(self._work, self._ended)

    def done(self) -> bool:
        """Whether `result` would return, or raise, at once."""
        return self._ended.is_set()

    @property
    def error(self) -> BaseException | None:
        """Why nothing could be opened, once that is known."""
        return self._call.error

    def result(self) -> Opened:
        """What was opened; waits for it, raises why nothing could be."""
        self._ended.wait()
        if self._call.error is not None:
            raise self._call.error
        with self._guard:
            self._unused = None
        assert self._call.value is not None
        return self._call.value

    def end(self) -> None:
        """Let others go on; what was opened for nothing is ended."""
        with self._guard:
            self._given_up.set()
            if self._unused is not None:
                self._unused.discard()
                self._unused = None
        self._old.lock.release()

    # -- in the thread -----------------------------------------------------------------------

    def _work(self) -> Opened:
        opened = self._open()
        with self._guard:
            if self._given_up.is_set():
                opened.discard()
            else:
                self._unused = opened
        return opened

    def _open(self) -> Opened:
        limit = time.monotonic() + LOCK_WAIT_S
        while not self._old.lock.acquire():
            if self._is_replaced():
                return Opened(self._old, None)
            if self._given_up.wait(LOCK_GAP_S) or time.monotonic() > limit:
                raise _busy()
        if self._given_up.is_set():
            self._old.lock.release()
            raise _busy()
        if self._is_replaced():
            return Opened(self._old, None)
        return self._race()

    def _is_replaced(self) -> bool:
        """Another process has put a new master in the old one's place."""
        return self._old.inode not in (0, self._inode)

    def _race(self) -> Opened:
        """At the cached address, or where the API says that the VM is now."""
        changed, too_late = threading.Event(), threading.Event()

        def spawn() -> Path:
            spare = self._old.spawn_spare()
            if too_late.is_set():
                self._old.discard(spare)
            return spare

        here = _Call(spawn, changed)
        # the API is asked when the cached address has failed, or is slow
        changed.wait(self._ask_after_s if self._resolve else None)
        if self._resolve is not None and here.value is None:
            asked = _Call(self._resolve, changed)
            while not (here.value or asked.value or asked.error):
                changed.wait()
                changed.clear()
            has_moved = asked.value is not None and asked.value != self._old.target
            is_final = here.error is not None or isinstance(asked.error, NotFound | Conflict)
            if here.value is None and asked.value is not None and has_moved:
                too_late.set()
                return _open_at(ControlMaster(asked.value))
            if here.value is None and asked.error is not None and is_final:
                too_late.set()
                raise asked.error
            if asked.value is not None and isinstance(here.error, AccessDenied):
                return _open_at(self._old)  # the key was renewed just now
        while not (here.value or here.error):
            changed.wait()
            changed.clear()
        if here.value is None:
            assert here.error is not None
            raise here.error
        return Opened(self._old, here.value)


def _open_at(master: ControlMaster) -> Opened:
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
