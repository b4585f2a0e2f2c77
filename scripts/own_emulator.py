"""An embedded Compute Engine of its own, and the installed `vmctl` that works with it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

VMCTL = str(Path(sys.executable).with_name("vmctl"))


class OwnEmulator:
    """One that serves, and a project folder whose commands all go to it."""

    image = "debian-cloud/debian-12"

    def __init__(self, base: Path) -> None:
        self.base = base
        self.folder = base / "bench"
        self.folder.mkdir()
        toml = f'[vm]\nimage = "{self.image}"\n'
        (self.folder / "vmctl.toml").write_text(toml, encoding="utf-8")
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("VMCTL_")},
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(base / "home"),
            "VMCTL_EMULATOR_HOME": str(base / "emulator"),
            "VMCTL_OWNER": "bench",
        }
        self.vmctl("emulator", "start")

    @classmethod
    @contextlib.contextmanager
    def opened(cls) -> Iterator[Self]:
        """One in a folder of its own, stopped and gone when the block ends."""
        base = Path(tempfile.mkdtemp(prefix="vmctl-bench-", dir="/var/tmp"))
        base.chmod(0o755)
        try:
            made = cls(base)
            try:
                yield made
            finally:
                made.vmctl("emulator", "stop")
        finally:
            shutil.rmtree(base, ignore_errors=True)

    @property
    def record(self) -> dict[str, Any]:
        """What it says of itself: its pid, port, url and project."""
        path = self.base / "emulator" / "emulator.json"
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    def start(self, *argv: str) -> subprocess.Popen[str]:
        """Any program, in the folder, with nothing to read and its words kept."""
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
        return finished(self.start(VMCTL, *words))


def finished(process: subprocess.Popen[str]) -> str:
    """What a program prints until its end; RuntimeError with its words when it fails."""
    out, err = process.communicate()
    if process.returncode:
        raise RuntimeError(f"{process.args!r} ended with {process.returncode}:\n{err}")
    return out
