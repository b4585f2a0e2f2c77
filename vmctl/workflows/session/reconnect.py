"""Reconnecting after a lost link, with back-off and a time limit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, HostKeyChanged, Unreachable
from vmctl.domain.events import Event, Info, Story
from vmctl.workflows.session.session import Session, connect

LINK_LOST_S = 600.0  # how long a transfer or a follower tries to reconnect
ACCESS_LOST_S = 60.0  # how long missing access is taken for a part of that


@dataclass(slots=True)
class Reconnector:
    """How long a link has been lost, and how it is replaced."""

    project: Project
    clock: Clock
    notice: Callable[[str], Event] = Info
    _lost_at: float | None = None
    _attempt: int = 0

    @property
    def is_lost(self) -> bool:
        """Whether nothing has arrived since the link was lost."""
        return self._lost_at is not None

    def connected(self) -> None:
        """The VM has answered: the next loss is a new one."""
        self._lost_at, self._attempt = None, 0

    def connection_lost(
        self, error: Unreachable | AccessDenied, *, progressed: bool
    ) -> Story[None]:
        """Note the loss; raises the error where reconnecting is of no use, or takes too long.

        `progressed`: something has arrived since the last loss.
        """
        if isinstance(error, HostKeyChanged):
            raise error  # another machine answers: reconnecting is of no use
        if progressed:
            self.connected()
        if self._lost_at is None:
            if isinstance(error, AccessDenied):
                raise error
            self._lost_at = self.clock.monotonic()
            yield self.notice(f"Connection lost, reconnecting: {error.message}")
        patience_s = ACCESS_LOST_S if isinstance(error, AccessDenied) else LINK_LOST_S
        if self.clock.monotonic() - self._lost_at > patience_s:
            raise error

    def session(self, *, verify: bool = False) -> Story[Session | None]:
        """A new connection, after a moment; None where there is none yet."""
        from vmctl.domain.runs.heartbeat import backoff_s  # a link that holds does without it

        self.clock.sleep(backoff_s(self._attempt))
        self._attempt += 1
        try:
            return (yield from connect(self.project, clock=self.clock, verify=verify))
        except HostKeyChanged:
            raise
        except Unreachable:
            return None
        except AccessDenied:  # Google may be out of reach, too
            lost_at = self._lost_at
            if lost_at is None or self.clock.monotonic() - lost_at > ACCESS_LOST_S:
                raise
            return None
