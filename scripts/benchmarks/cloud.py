"""An embedded Compute Engine of a bench's own, and the installed `vmctl` that works with it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.harness.cloud import LocalCloud
from tests.harness.laptop import PROGRAM

VMCTL = str(PROGRAM)


class BenchCloud(LocalCloud):
    """Every command is the installed program, a process of its own, as users start it."""

    image = "debian-cloud/debian-12"

    def __init__(self, base: Path) -> None:
        super().__init__(base, "bench", f'[vm]\nimage = "{self.image}"\n')
        self.laptop.extra["VMCTL_OWNER"] = "bench"
        self.laptop.extra["VMCTL_EMULATOR_CHECK_REPLIES"] = ""  # as users have it
        self.environ = self.laptop.environ

    def start(self) -> None:
        self.vmctl("emulator", "start")

    def stop(self) -> None:
        self.vmctl("emulator", "stop")

    def start_program(self, *argv: str) -> subprocess.Popen[str]:
        """Any program, in the project's folder, without input, its output kept."""
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def vmctl(self, *words: str) -> str:
        """What one command prints; RuntimeError with its words when it fails."""
        return output_of(self.start_program(VMCTL, *words))


def output_of(process: subprocess.Popen[str]) -> str:
    """What a program prints until its end; RuntimeError with its words when it fails."""
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{err}")
    return out
