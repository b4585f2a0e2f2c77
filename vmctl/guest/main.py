"""One program, many verbs: `python3 -ISB LIB VERB`, the request as JSON on standard input."""

from __future__ import annotations

import importlib
import json
import os
import sys

from . import protocol
from .paths import STATE
from .protocol import BROKEN, REFUSED, GuestError

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

# verb: (module, function); imported when asked for, because every start is waited for
VERBS = {
    protocol.PREPARE: ("machine.interpreter", "prepare"),
    protocol.PUSH: ("sync.receiver", "push"),
    protocol.PUSH_ACCEPT: ("sync.record", "accept"),
    protocol.START: ("runs.runs", "start"),
    protocol.RUNS: ("runs.runs", "listing"),
    protocol.CANCEL: ("runs.runs", "cancel"),
    protocol.FOLLOW: ("runs.log_stream", "follow"),
    protocol.FETCH: ("files.sender", "fetch"),
    protocol.PULL: ("files.pull", "pull"),
    protocol.SERVICE: ("runs.services", "ensure_running"),
    protocol.SERVICE_STATE: ("runs.services", "state"),
    protocol.SERVER: ("machine.server_report", "report"),
}
# these only look: the watchdog (watchdog/activity.py) reads when any other was last called
LOOKING = (protocol.RUNS, protocol.FOLLOW, protocol.SERVICE, protocol.SERVICE_STATE)
# started inside tmux: words, no request
INSIDE = {"job": ("runs.runner", "main"), "serve": ("runs.services", "serve")}


class Broken(Exception):
    """A helper's file cannot be imported."""


def main() -> int:
    """Carry out one verb; a refusal or a failure is reported as JSON."""
    try:
        return _main()
    except Broken:
        return BROKEN


def _main() -> int:
    verb = sys.argv[1]
    if verb in INSIDE:
        module, function = INSIDE[verb]
        code: int = _function(module, function)(*sys.argv[2:])
        return code
    module, function = VERBS[verb]
    try:
        # before anything is read: what a dead link delivers late belongs to an earlier turn
        turn = _function("sync.lock", "draw_number")() if verb == protocol.PUSH else 0
        line = sys.stdin.buffer.readline()
        if not line.endswith(b"\n"):  # the other side left before its request was complete
            return 1
        request: dict[str, Any] = json.loads(line)
        if turn:
            request["turn"] = turn
        if verb not in LOOKING:
            _mark_active()
        answer = _function(module, function)(request)
    except GuestError as refusal:
        return _report_error(refusal.kind, refusal.message, refusal.hint)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the other side has left
        return 1
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        kind = "disk_full" if error.errno in (28, 122) else "failed"
        return _report_error(kind, f"{error.strerror}{where}", "")
    if answer is not None:
        text = json.dumps(answer).encode()
        sys.stdout.buffer.write(b"%s%d\n%s\n" % (protocol.REPLY, len(text), text))
        sys.stdout.flush()
    return 0


def _mark_active() -> None:
    """Note that somebody did something now; a full disk is reported by what comes next."""
    try:
        descriptor = os.open(STATE / "active", os.O_WRONLY | os.O_CREAT, 0o600)
        os.utime(descriptor)
        os.close(descriptor)
    except OSError:
        pass


def _function(module: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(f"{__package__}.{module}"), name)
    except Exception as error:  # whatever half a file makes of an import
        raise Broken from error


def _report_error(kind: str, message: str, hint: str) -> int:
    error = {"error": {"kind": kind, "message": message, "hint": hint}}
    sys.stderr.write(json.dumps(error) + "\n")
    return REFUSED
