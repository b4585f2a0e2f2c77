"""`up` with a clock that is the emulator's: minutes of a boot are moments of a test."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.harness.fork_server import Forked, fork_server
from tests.harness.laptop import project
from tests.harness.stepped_clock import SteppedCloud

DRIVERLESS = "debian-cloud/debian-12"


@dataclass
class BringUpProcess:
    """One `up` under way, in a process of its own, and the file that it writes to."""

    process: Forked
    file: Path

    def document(self) -> dict[str, Any]:
        assert self.process.wait(120) == 0
        found: dict[str, Any] = json.loads(self.file.read_text())
        return found

    def result(self) -> dict[str, Any]:
        found = self.document()
        assert "result" in found, found
        return {**found["result"], "lines": found["lines"]}

    def error(self) -> dict[str, Any]:
        found = self.document()
        assert "error" in found, found
        error: dict[str, Any] = found["error"]
        return error


class BringUpCloud(SteppedCloud):
    """An emulator whose clock stands still until a program waits."""

    def __init__(self, base: Path, toml: str = f'[vm]\nimage = "{DRIVERLESS}"\n') -> None:
        super().__init__(base, "vm")
        project(self.folder, toml, {"here.txt": "pushed\n"})

    def start_up(self, image: str = DRIVERLESS, gpu: str = "t4", *more: str) -> BringUpProcess:
        """Begin `up` with a clock that is the emulator's."""
        assert sys.__stderr__ is not None
        file = self.base / "up.json"
        with file.open("wb") as out, Path(os.devnull).open("rb") as nothing:
            process = fork_server().start(
                [str(self.laptop.emulator_home), image, gpu, *more],
                cwd=self.folder,
                environ=self.laptop.environ,
                streams=[nothing.fileno(), out.fileno(), sys.__stderr__.fileno()],
                program="tests.harness.stepped_program:run",
            )
        return BringUpProcess(process, file)

    def up(self, image: str = DRIVERLESS, gpu: str = "t4") -> dict[str, Any]:
        return self.start_up(image, gpu).result()

    def fails(self, image: str = DRIVERLESS, gpu: str = "t4", *more: str) -> dict[str, Any]:
        return self.start_up(image, gpu, *more).error()

    def vm(self) -> dict[str, Any]:
        (found,) = self.endpoint.admin("GET", "status")["instances"]
        return dict(found)

    def set_metadata(self, **items: str) -> None:
        """As the console does it."""
        (path,) = self.paths().values()
        metadata = self.api("GET", path)["metadata"]
        kept = [one for one in metadata["items"] if one["key"] not in items]
        new = [{"key": key, "value": value} for key, value in items.items()]
        body = {"fingerprint": metadata["fingerprint"], "items": [*kept, *new]}
        self.api("POST", f"{path}/setMetadata", body)
