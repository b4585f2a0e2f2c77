"""`up` or `down` in a process of its own whose clock is the emulator's: waiting makes time pass.

python -m tests.e2e.climbing EMULATOR_URL up|down IMAGE GPU [spot]

Prints one JSON document: the result or the error, and every line that was told.
"""

from __future__ import annotations

import json
import sys
import threading
import urllib.request
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.config import Flags, load_project
from vmctl.domain.errors import VmctlError, exit_code_of
from vmctl.workflows.down import down
from vmctl.workflows.up import up


class Together(Clock):
    """The emulator's time and ours are one, and it passes only while we wait."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._passed = 0.0
        self._lock = threading.Lock()
        self._now = self._advanced(0.0)

    def now(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._passed

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self._now = self._advanced(seconds)
            self._passed += seconds

    def _advanced(self, seconds: float) -> datetime:
        body = json.dumps({"advance_s": seconds}).encode()
        request = urllib.request.Request(f"{self._url}/emulator/v1/clock", data=body)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return datetime.fromisoformat(json.load(answer)["now"])


def main(url: str, verb: str, image: str, gpu: str, *more: str) -> None:
    found = load_project(Path.cwd(), flags=Flags(gpu=gpu, image=image))
    found = replace(found, vm=replace(found.vm, spot="spot" in more))
    clock = Together(url)
    story: Any = up(found, clock=clock) if verb == "up" else down(found, delete=True, clock=clock)
    told: list[str] = []
    document: dict[str, Any] = {"told": told}
    try:
        while True:
            told.append(str(getattr(next(story), "text", "")))
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


if __name__ == "__main__":
    main(*sys.argv[1:])
