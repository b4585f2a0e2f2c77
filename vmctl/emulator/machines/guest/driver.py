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
    """Installs nvidia-smi as this boot's `trouble` asks, now or when the host sends `arrive`."""

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
        """Sets up what the machine has at boot; an installation continues in the background."""
        system.install_shims(self._shims, self._bin)
        (self._bin / "driver.state").unlink(missing_ok=True)
        self._log.unlink(missing_ok=True)
        if self._trouble.get("lock"):
            # the holder has the process name of Debian's own upgrades
            self._holder = self._hold("unattended-upgr", "no wait", self._root / "dev/null")
        state = self._trouble.get("driver", "ready") if self._gpus else "missing"
        if state == "ready":
            self._install()
        elif state in ("installing", "failed"):
            (self._bin / "driver.state").write_text("installing\n")
            self._installer = self._hold("nvidia-installer", "wait", self._log)
            threading.Thread(target=self._until_installed, args=(state,), daemon=True).start()

    def arrive(self) -> None:
        """Ends the installation, once it has had the lock."""
        self._release(self._installer)

    def unlock(self) -> None:
        """Releases the package manager's lock that the simulated upgrade holds."""
        self._release(self._holder)

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
        """Starts a process that takes the package manager's lock and holds it until `_release`."""
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
        with job.process.stdout as output:
            output.readline()  # it has the lock or is first in the queue for it
        return job

    def _release(self, job: Job | None) -> None:
        if job is not None and job.process.stdin is not None:
            job.process.stdin.close()
