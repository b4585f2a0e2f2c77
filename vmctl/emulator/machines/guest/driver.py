"""NVIDIA's driver as one boot has it: there, being installed, failed, or missing for good.

An installation is a process of its own that holds the package manager's lock, as on a real
machine whose image brings no driver and installs it at its first boot; when it ends is the
script's business, not the process's.
"""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

from . import system
from .processes import Job, Processes

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

PYTHON = "/usr/bin/python3"


class Driver:
    """Puts nvidia-smi where this boot's `trouble` has it, now or when the host says `arrive`."""

    def __init__(
        self,
        processes: Processes,
        say: Callable[[str], None],
        shims: Path,
        local: Path,
        root: Path,
        spec: Mapping[str, Any],
    ) -> None:
        self._processes = processes
        self._say = say
        self._shims = shims
        self._bin = local / "bin"
        self._root = root
        self._gpus: list[str] = spec["gpus"]
        self._trouble: Mapping[str, Any] = spec.get("trouble", {})
        self._installer: Job | None = None
        self._holder: Job | None = None

    def begin(self) -> None:
        """What the machine has at boot; an installation goes on in the background."""
        system.install_shims(self._shims, self._bin)
        (self._bin / "driver.state").unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        if self._trouble.get("lock"):
            # whoever holds it calls itself as Debian's own upgrades do
            self._holder = self._hold("unattended-upgr", "no wait", self._root / "dev/null")
        state = self._trouble.get("driver", "ready") if self._gpus else "missing"
        if state == "ready":
            self._install()
        elif state in ("installing", "failed"):
            (self._bin / "driver.state").write_text("installing\n")
            self._installer = self._hold("nvidia-installer", "wait", self._log)
            threading.Thread(target=self._until_installed, args=(state,), daemon=True).start()

    def arrive(self) -> None:
        """The installation has done its work and ends, once it has had the lock."""
        self._let_go(self._installer)

    def unlock(self) -> None:
        """Whoever else held the package manager's lock lets go of it."""
        self._let_go(self._holder)

    @property
    def _log(self) -> Path:
        return self._root / "var/log/nvidia-installer.log"

    def _until_installed(self, state: str) -> None:
        assert self._installer is not None
        self._installer.done.wait()
        if state == "failed":
            with self._log.open("a", encoding="utf-8") as log:
                log.write(
                    "ERROR: Unable to build the NVIDIA kernel module (simulated).\n"
                    "ERROR: Installation has failed.\n"
                )
            self._say("nvidia-installer: ERROR: Installation has failed.")
        else:
            self._say("nvidia-installer: the driver is installed (simulated)")
            self._install()
        (self._bin / "driver.state").unlink(missing_ok=True)

    def _install(self) -> None:
        shown = self._gpus[: int(self._trouble.get("count", len(self._gpus)))]
        cuda = str(self._trouble.get("cuda", "SIMULATED"))
        system.install_driver(self._shims, self._bin, shown, cuda)

    def _hold(self, name: str, patience: str, log: Path) -> Job:
        """A process that waits for the package manager's lock and holds it until it is told."""
        folder = self._root / "var/lib/dpkg"
        folder.mkdir(parents=True, exist_ok=True)
        script = self._shims / "package_lock.py"
        words = [PYTHON, "-IS", str(script), "hold", str(folder / "lock-frontend"), name, patience]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            job = self._processes.spawn(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
            )
        assert job.process.stdout is not None
        with job.process.stdout as told:
            told.readline()  # it has the lock, or waits for it: nobody overtakes it
        return job

    def _let_go(self, job: Job | None) -> None:
        if job is not None and job.process.stdin is not None:
            job.process.stdin.close()
