"""Tunnels: what a word on the command line means, the URL, whether one lives, when to try again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from urllib.parse import quote

from vmctl.domain.errors import InvalidInput, NotFound
from vmctl.domain.names import nearest

# A dead link is noticed within BEAT_S + SILENCE_S. OpenSSH's own keepalive, which counts from the
# last answer, needs between two and three intervals of 3 s.
BEAT_S = 1.5
SILENCE_S = 5.5
DOUBT_S = 2.0  # after a sleep or in another network the answer is there or it will not come
AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Forwarding:
    """A port of this computer that leads to one of the VM; `service` is "" for a bare port."""

    local_port: int
    remote_port: int
    service: str = ""

    @property
    def what(self) -> str:
        """The word that opens it."""
        return self.service or str(self.remote_port)


@dataclass(frozen=True, slots=True)
class Pulse:
    """Whether the VM still answers: a byte goes there and must come back; seconds of one clock."""

    beat_at: float  # when the next byte is to go
    late_at: float | None = None  # when its answer is overdue; None: none is awaited
    patience_s: float = SILENCE_S  # how long the next answer may take

    def is_due(self, now: float) -> bool:
        """Whether a byte is to go now: one at a time is on its way."""
        return self.late_at is None and now >= self.beat_at

    def is_dead(self, now: float) -> bool:
        """Whether the answer is overdue."""
        return self.late_at is not None and now >= self.late_at

    def sent(self, now: float) -> Pulse:
        """A byte went."""
        return Pulse(now + BEAT_S, now + self.patience_s)

    def answered(self) -> Pulse:
        """It came back."""
        return Pulse(self.beat_at)

    def heard(self, now: float) -> Pulse:
        """Something else came over the same connection: the answer may be queued behind it."""
        return self if self.late_at is None else replace(self, late_at=now + SILENCE_S)

    def doubted(self, now: float) -> Pulse:
        """This computer slept, or its network is another one: what was awaited counts anew."""
        late_at = None if self.late_at is None else now + DOUBT_S
        return Pulse(now, late_at, DOUBT_S)

    def wait_s(self, now: float) -> float:
        """Until there is something to do."""
        return max(0.0, (self.beat_at if self.late_at is None else self.late_at) - now)


def parse_port(word: str | None) -> tuple[int | None, bool]:
    """The value of --port: the port where one was given, and whether the next free one will do."""
    if word is None:
        return None, False
    if word.strip().lower() == AUTO:
        return None, True
    if not re.fullmatch(r"[0-9]{1,9}", word.strip()):
        raise InvalidInput(
            f"'{word}' is no port.", hint="Such as: --port 8080, or the next free one: --port auto"
        )
    return _check(int(word), word), False


def parse_forwarding(
    what: str, service_ports: Iterable[tuple[str, int]], port: int | None
) -> Forwarding:
    """`tensorboard`, `8000` or `8000:80`; `port` is the local one where it was given."""
    services = dict(service_ports)
    if port is not None:
        _check(port, str(port))
    if what in services:
        return Forwarding(port or services[what], services[what], what)
    found = re.fullmatch(r"([0-9]{1,9})(?::([0-9]{1,9}))?", what)
    if not found:
        known = ", ".join(sorted(services))
        close = nearest(what, services)
        meant = f"vmctl tunnel {close}" if close else f"One of: {known}, or PORT[:REMOTE]."
        raise NotFound(f"There is no service '{what}'.", hint=meant)
    first = _check(int(found.group(1)), what)
    second = _check(int(found.group(2)), what) if found.group(2) else first
    return Forwarding(port or first, second)


def _check(port: int, shown: str) -> int:
    if not 1 <= port <= 65535:
        raise InvalidInput(
            f"A port is from 1 to 65535, not {shown}.", hint="Such as: vmctl tunnel 8000:80"
        )
    return port


def url(forwarding: Forwarding, token: str = "") -> str:
    """What to open in the browser."""
    base = f"http://127.0.0.1:{forwarding.local_port}/"
    return f"{base}?token={quote(token)}" if token else base


def backoff_s(attempt: int) -> float:
    """Seconds to wait before try number `attempt` (from 0): a link that returns is used at once."""
    return min(0.2 * 2**attempt, 0.5) if attempt < 8 else 0.5


def asking_gap_s(times: int) -> float:
    """Seconds until the API is asked again, after so many times: a stopped VM may stay stopped."""
    return min(1.0 * 1.6**times, 20.0) if times < 10 else 20.0
