"""The VM's watchdog as seen from here: its settings, its last report, and both in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from vmctl.domain.duration import duration_text, parse_duration
from vmctl.domain.errors import IntegrityError, InvalidInput
from vmctl.domain.text import format_time, printable

SETTINGS_ITEM = "vmctl-watchdog"
STARTUP_ITEM = "startup-script"
WATCHDOG_MARKER = "# Made by vmctl: the watchdog"
ATTRIBUTES = "vmctl/"  # guest attributes below it are the watchdog's
NEVER = {"off", "never", "none", "0"}
SHORTEST_IDLE_S = 60.0
CLOCKS_APART = timedelta(seconds=2)  # Google's and the VM's, and what it tells is rounded
STALE_S = 300.0  # an older report says nothing about now


def parse_idle(text: str, *, of: str = "--idle") -> float:
    """Seconds of idleness after which the VM stops; 0 for "off". Raises InvalidInput."""
    if text.strip().lower() in NEVER:
        return 0.0
    seconds = parse_duration(text, of=of)
    if seconds < SHORTEST_IDLE_S:
        raise InvalidInput(
            f"{of} must be at least a minute, not {text}: the VM would stop before you use it.",
            hint=f"Such as: {of} 30m; or {of} off",
        )
    return seconds


@dataclass(frozen=True, slots=True)
class WatchSettings:
    """What the VM's watchdog goes by; times are epoch seconds, 0 means that there is none."""

    idle_s: float = 0.0
    max_run_s: float = 0.0
    stop_at: float = 0.0  # when a budget ends that a running VM was given
    keep_until: float = 0.0

    def text(self) -> str:
        """The metadata item."""
        values = {
            "idle_s": self.idle_s,
            "max_run_s": self.max_run_s,
            "stop_at": self.stop_at,
            "keep_until": self.keep_until,
        }
        return json.dumps({key: round(value) for key, value in values.items() if value})

    @staticmethod
    def parse(text: str | None) -> WatchSettings:
        """From the item; what makes no sense there is ignored."""
        from vmctl.domain.guest_replies import WATCH_SETTINGS  # few commands need it
        from vmctl.domain.reply_shapes import checked, decoded

        try:
            found = checked(WATCH_SETTINGS, decoded((text or "{}").encode()), SETTINGS_ITEM)
        except (ValueError, IntegrityError):
            return WatchSettings()
        return WatchSettings(**{key: value or 0.0 for key, value in found.items()})


@dataclass(frozen=True, slots=True)
class WatchReport:
    """What the watchdog saw last; anybody on the VM can write it, so it is shown, never trusted."""

    at: str  # ISO 8601, as all times here
    busy: tuple[str, ...] = ()
    idle_since: str | None = None
    stops_at: str | None = None
    stops_why: str = ""
    stopped: str = ""  # why it powered the VM off
    missing: str = ""  # why there can be none on this VM

    @staticmethod
    def parse(text: str) -> WatchReport | None:
        """From the guest attribute; None where it makes no sense.

        Unlike a helper's answer it is no error: any process of the VM's may write it, and what it
        says is only shown.
        """
        from vmctl.domain.guest_replies import WATCH_REPORT  # few commands need it
        from vmctl.domain.reply_shapes import checked, decoded

        try:
            found = checked(WATCH_REPORT, decoded(text.encode("utf-8", "replace")), "watchdog")
        except (ValueError, IntegrityError):
            return None
        return WatchReport(
            at=_moment(found["at"]),
            busy=tuple(map(_words, found["busy"])),
            idle_since=_stamp(found["idle_from"]),
            stops_at=_stamp(found["stops_at"]),
            stops_why=_words(found["stops_why"]),
            stopped=_words(found["stopped"]),
            missing=_words(found["missing"]),
        )

    def is_since(self, start: datetime) -> bool:
        """Whether it is about what runs since then, as two clocks tell it."""
        return datetime.fromisoformat(self.at) >= start - CLOCKS_APART

    def is_fresh(self, now: datetime) -> bool:
        """Whether it is about now: a watchdog that tells nothing any more may be dead."""
        return abs((now - datetime.fromisoformat(self.at)).total_seconds()) <= STALE_S


def what_stops(
    settings: WatchSettings,
    report: WatchReport | None,
    google_stops_at: datetime | None,
    max_hours: float | None,
    now: datetime,
    started_at: datetime | None,
) -> str:
    """One line: what will stop a running VM, and when; `report` is None where none came yet."""
    limit = f" (max_hours: {max_hours:g} h)" if max_hours else ""
    google = f"Google stops it on {format_time(google_stops_at)}{limit}" if google_stops_at else ""
    if not settings.idle_s:
        ends = [google, _budget(settings)]
    elif report is None or not report.is_fresh(now):
        told_at = datetime.fromisoformat(report.at) if report else started_at
        if told_at is not None and abs((now - told_at).total_seconds()) > STALE_S:
            ends = [
                f"The watchdog has not reported since {format_time(told_at)}; do not rely on it"
            ]
        else:
            ends = [f"It stops once it is idle for {duration_text(settings.idle_s)} (--idle)"]
        ends += [_budget(settings), google]
    elif report.missing:
        ends = [f"It has no watchdog ({report.missing}): it does not stop when idle"]
        ends += [google]
    elif report.busy:
        busy = ", ".join(report.busy[:2]) + (" …" if len(report.busy) > 2 else "")
        ends = [f"In use ({busy}); idle for {duration_text(settings.idle_s)} stops it"]
        ends += [_budget(settings), google]
    else:
        since = format_time(report.idle_since) if report.idle_since else "now"
        stops = format_time(report.stops_at) if report.stops_at else "soon"
        if report.stops_why == "idle":
            ends = [f"Idle since {since}: stops on {stops} (longer: vmctl keep 1h)"]
            ends += [_budget(settings), google]
        else:
            ends = [f"Idle since {since}", _budget(settings), google]
    text = "; ".join(filter(None, ends))
    if not text:
        return "Nothing stops it by itself: vmctl down"
    return f"{text}. Stop it now: vmctl down"


def _budget(settings: WatchSettings) -> str:
    if not settings.stop_at:
        return ""
    return f"its budget ends on {format_time(datetime.fromtimestamp(settings.stop_at, UTC))}"


def _stamp(seconds: float | None) -> str | None:
    return _moment(seconds) if seconds else None


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _words(text: str | None) -> str:
    return " ".join(printable(text or "").split())[:120]
