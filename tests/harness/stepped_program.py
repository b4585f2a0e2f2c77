"""`up` in a process of its own whose clock is the emulator's: waiting makes time pass.

Run by the fork server, which imports it, as `EMULATOR_HOME IMAGE GPU [spot] [coarse]`.
Prints one JSON document: the result or the error, and every line that was printed.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.harness.endpoint import Endpoint
from vmctl.clock import Clock
from vmctl.config import Flags, load_project
from vmctl.domain.errors import VmctlError, exit_code_of
from vmctl.workflows.machine.up import up


class Together(Clock):
    """The emulator's time and this program's are one; it passes only while the program waits."""

    def __init__(self, home: Path, least_s: float = 0) -> None:
        self._endpoint = Endpoint(home)
        self._least_s = least_s  # that passes at each wait
        self._passed = 0.0
        self._lock = threading.Lock()
        self._now = self._advanced(0.0)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._passed

    def sleep(self, seconds: float) -> None:
        seconds = max(seconds, self._least_s)
        with self._lock:
            self._now = self._advanced(seconds)
            self._passed += seconds

    def _advanced(self, seconds: float) -> datetime:
        reply = self._endpoint.admin("POST", "clock", {"advance_s": seconds})
        return datetime.fromisoformat(reply["now"])


def run() -> None:
    home, image, gpu, *more = sys.argv[1:]
    found = load_project(Path.cwd(), flags=Flags(vm={"gpu": gpu, "image": image}))
    found = replace(found, vm=replace(found.vm, spot="spot" in more))
    story = up(found, clock=Together(Path(home), 1 if "coarse" in more else 0))
    lines: list[str] = []
    document: dict[str, Any] = {"lines": lines}
    try:
        while True:
            lines.append(str(getattr(next(story), "text", "")))
    except StopIteration as end:
        document["result"] = asdict(end.value)
    except VmctlError as error:
        document["error"] = {
            "message": error.message,
            "hint": error.hint,
            "evidence": list(error.evidence),
            "exit_code": exit_code_of(error),
        }
    print(json.dumps(document))
