"""Whether a connection lives, and when a lost one is tried again."""

from __future__ import annotations

from dataclasses import dataclass, replace

# A dead link is noticed within BEAT_S + SILENCE_S. OpenSSH's own keepalive, which counts from the
# last answer, needs between two and three intervals of 3 s.
BEAT_S = 1.5
SILENCE_S = 5.5
DOUBT_S = 2.0  # after a sleep or in another network the answer is there or it will not come


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Whether the VM still answers: a byte goes there and must come back; seconds of one clock."""

    beat_at: float  # when the next byte is to go
    late_at: float | None = None  # when its answer is overdue; None: none is awaited
    patience_s: float = SILENCE_S  # how long the next answer may take

    def is_due(self, now: float) -> bool:
        """Whether a byte is to go now: one at a time is under way."""
        return self.late_at is None and now >= self.beat_at

    def is_dead(self, now: float) -> bool:
        """Whether the answer is overdue."""
        return self.late_at is not None and now >= self.late_at

    def sent(self, now: float) -> Heartbeat:
        """A byte was sent."""
        return Heartbeat(now + BEAT_S, now + self.patience_s)

    def answered(self) -> Heartbeat:
        """It came back."""
        return Heartbeat(self.beat_at)

    def heard(self, now: float) -> Heartbeat:
        """Something else came over the same connection: the answer may be queued behind it."""
        return self if self.late_at is None else replace(self, late_at=now + SILENCE_S)

    def doubted(self, now: float) -> Heartbeat:
        """This computer slept, or its network is another one: the awaited answer gets new time."""
        late_at = None if self.late_at is None else now + DOUBT_S
        return Heartbeat(now, late_at, DOUBT_S)

    def wait_s(self, now: float) -> float:
        """Until there is something to do."""
        return max(0.0, (self.beat_at if self.late_at is None else self.late_at) - now)


def backoff_s(attempt: int) -> float:
    """Seconds to wait before try number `attempt` (from 0): a link that returns is used at once."""
    return min(0.2 * 2**attempt, 0.5) if attempt < 8 else 0.5


def asking_gap_s(times: int) -> float:
    """Seconds until the API is asked again, after `times` times: a stopped VM may stay stopped."""
    return min(1.0 * 1.6**times, 20.0) if times < 10 else 20.0
