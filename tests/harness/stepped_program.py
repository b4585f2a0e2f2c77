"""`up` or `down` in a process of its own whose clock is the emulator's: waiting makes time pass.

python -m tests.harness.stepped_program EMULATOR_HOME up|down IMAGE GPU [spot]

Prints one JSON document: the result or the error, and every line that was told.
"""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.harness.door import Door
from vmctl.clock import Clock
from vmctl.config import Flags, load_project
from vmctl.domain.errors import VmctlError, exit_code_of
from vmctl.workflows.down import down
from vmctl.workflows.up import up


class Together(Clock):
    """The emulator's time and ours are one, and it passes only while we wait."""

    def __init__(self, home: Path) -> None:
        self._door = Door(home)
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
        told = self._door.admin("POST", "clock", {"advance_s": seconds})
        return datetime.fromisoformat(told["now"])


def main(home: str, verb: str, image: str, gpu: str, *more: str) -> None:
    found = load_project(Path.cwd(), flags=Flags(gpu=gpu, image=image))
    found = replace(found, vm=replace(found.vm, spot="spot" in more))
    clock = Together(Path(home))
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
