"""The VM's own dead-man's switch: looks every half minute, warns, and powers the VM off.

Started as root at every boot, with nobody's laptop needed. Its settings are the metadata item
`vmctl-watchdog`, which takes effect at once when it changes; it reports to those who may
read the VM's guest attributes.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import asdict
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from . import activity
from .idle_policy import IdleDecision, IdleState, Limits, Sample, decide, initial_state

SERVER = "169.254.169.254"  # asked without urllib, which takes half as long again to import
METADATA = "/computeMetadata/v1/instance/"
ITEM = "vmctl-watchdog"
ATTRIBUTE = "vmctl/watchdog"
PLACE = Path("/run/vmctl-watchdog")  # a boot starts without it
PROFILE = Path("/etc/profile.d/vmctl-watchdog.sh")
STEP_S = 30
NOTICE_LINE = f"""\
# Made by vmctl: shows at login what will stop this VM.
case $- in *i*) [ ! -s {PLACE}/notice ] || cat {PLACE}/notice ;; esac
"""


def main() -> int:
    """Watch until the VM goes down."""
    PLACE.mkdir(exist_ok=True)
    lock = _take_lock()
    watchdog = Watchdog()
    try:
        while True:
            watchdog.step()
    finally:
        lock.close()


def _take_lock() -> Any:
    """Hold the lock; an older watchdog, of an older vmctl perhaps, makes room."""
    lock = (PLACE / "lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        try:
            os.kill(int(lock.read()), signal.SIGTERM)
        except (ValueError, ProcessLookupError):
            pass
        fcntl.flock(lock, fcntl.LOCK_EX)
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock


class Watchdog:
    """What one boot of a VM is watched by."""

    def __init__(self) -> None:
        self.state = _load_state()
        self.etag = ""
        self.settings: dict[str, Any] = {}
        self.ahead_s = 0.0  # of the metadata server's clock before this computer's
        self.mark = self.active_at = 0.0

    def step(self) -> None:
        """Wait half a minute, or for a change of the metadata; look, decide, act."""
        self._read_settings()
        found = activity.sample()
        now = time.time() + self.ahead_s
        limits_at = [run.google_stops_at for run in found.runs if run.google_stops_at > now]
        sample = Sample(
            at=now,
            busy=found.busy,
            runs=tuple(run.id for run in found.runs),
            active_at=self._active_at(found.active_at),
            google_stops_at=min(limits_at, default=0.0),
        )
        self.state, decision = decide(
            self.state or initial_state(now), sample, limits_of(self.settings)
        )
        _write(PLACE / "state", json.dumps(asdict(self.state)))
        self._act(decision, found)
        self._report(sample, decision)
        if decision.power_off:
            _power_off(decision.power_off)

    def _active_at(self, mark: float) -> float:
        """A mark in this computer's time, which may jump, is turned into ours when it is new."""
        if mark and mark != self.mark:
            self.mark, self.active_at = mark, mark + self.ahead_s
        return self.active_at

    def _read_settings(self) -> None:
        """The item as it is now; as it was, half a minute later, where nobody answers."""
        known = f"&wait_for_change=true&timeout_sec={STEP_S}&last_etag={self.etag}"
        query = "attributes/?recursive=true&alt=json" + (known if self.etag else "")
        try:
            answer, body = _ask("GET", query, STEP_S + 30)
            found = json.loads(body)
            self.etag = answer.headers.get("ETag", "")
            date = answer.headers.get("Date")
            if date:
                self.ahead_s = parsedate_to_datetime(date).timestamp() - time.time()
            self.settings = json.loads(found.get(ITEM, "{}"))
        except (OSError, ValueError, TypeError, AttributeError, http.client.HTTPException):
            if self.state is not None:
                time.sleep(STEP_S)

    def _act(self, decision: IdleDecision, found: activity.ActivitySample) -> None:
        _write(PLACE / "notice", f"vmctl: {decision.notice}\n" if decision.notice else "")
        if not PROFILE.exists():
            _write(PROFILE, NOTICE_LINE)
        if decision.tell_logins:
            for terminal in found.terminals:
                _append(Path("/dev") / terminal, f"\r\nvmctl: {decision.tell_logins}\r\n")
        runs = {run.id: run for run in found.runs}
        for run_id, text in decision.tell_runs:
            _append(runs[run_id].directory / "log", f"[vmctl] {text}\n")
        for run_id in decision.end_runs:
            _terminate(runs[run_id])

    def _report(self, sample: Sample, decision: IdleDecision) -> None:
        """What is seen, for `status`, in a guest attribute; a project may forbid those."""
        assert self.state is not None
        seen = {
            "at": round(sample.at),
            "busy": list(sample.busy),
            "idle_from": None if sample.busy else round(self.state.idle_from),
            "stops_at": round(decision.stops_at) or None,
            "stops_why": decision.stops_why,
            "stopped": decision.power_off,
        }
        try:
            _ask("PUT", f"guest-attributes/{ATTRIBUTE}", 10, json.dumps(seen).encode())
        except (OSError, http.client.HTTPException):
            pass


def limits_of(settings: dict[str, Any]) -> Limits:
    """The limits in the metadata item; what makes no sense there limits nothing."""
    names = ("idle_s", "max_run_s", "stop_at", "keep_until")
    numbers = {
        name: float(settings[name])
        for name in names
        if isinstance(settings.get(name), int | float) and settings[name] > 0
    }
    return Limits(**numbers)


def _load_state() -> IdleState | None:
    """The state before a restart of the watchdog in this boot; None in a new one."""
    try:
        found = json.loads((PLACE / "state").read_bytes())
        for name in ("warned", "ended"):
            found[name] = tuple((str(run), float(at)) for run, at in found[name])
        return IdleState(**found)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _ask(
    method: str, path: str, timeout_s: float, data: bytes | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """What the metadata server answers; OSError where it refuses."""
    with closing(http.client.HTTPConnection(SERVER, timeout=timeout_s)) as connection:
        connection.request(method, METADATA + path, data, {"Metadata-Flavor": "Google"})
        answer = connection.getresponse()
        body = answer.read()
    if answer.status // 100 != 2:
        raise OSError(f"{path}: HTTP {answer.status}")
    return answer, body


def _write(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.new")
    part.write_text(text)
    part.chmod(0o644)
    part.replace(path)


def _append(path: Path, text: str) -> None:
    """Append to a log or a terminal; one that is closed or stuck is skipped."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_NOCTTY | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags)
        try:
            os.write(descriptor, text.encode())
        finally:
            os.close(descriptor)
    except OSError:
        pass


def _terminate(run: activity.Run) -> None:
    """SIGTERM to the job's processes; its runner stays and writes how it ended."""
    for process in activity.processes():
        if process.parent == run.pid:
            try:
                os.killpg(process.pid, signal.SIGTERM)  # each leads a group of its own
            except OSError:
                continue


def _power_off(reason: str) -> None:
    line = f"vmctl watchdog: power off: {reason}\n"
    sys.stdout.write(line)
    sys.stdout.flush()
    _append(Path("/dev/ttyS0"), line)
    environment = {**os.environ, "PATH": activity.PROGRAMS}
    subprocess.run(["shutdown", "-h", "now"], env=environment, check=False)
    time.sleep(STEP_S)  # it takes a moment; where it failed, the next step tries again
