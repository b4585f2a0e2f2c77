"""A real Slurm cluster on 127.0.0.1: a controller and two compute nodes with simulated GPUs."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import socket
import subprocess
from pathlib import Path

from tests.harness.eventually import eventually
from tests.harness.sshd import free_port
from vmctl.emulator.machines.guest import slurm


class Slurm:
    """One cluster; `stop` leaves nothing of it running. Accounting is off, as on many clusters."""

    def __init__(self, folder: Path, sockets: Path, gpu: str = "t4") -> None:
        """`sockets` is a folder with a short path; `gpu` is the type of those on each node."""
        self.folder = folder
        self.conf = folder / "slurm.conf"
        self._munge = sockets / "munge"
        self._processes: list[subprocess.Popen[bytes]] = []
        host = socket.gethostname().partition(".")[0]
        ports = [free_port() for _ in range(3)]
        slurm.configure(
            folder, folder, self._munge, ports, host, getpass.getuser(),
            listening=",NoInAddrAny,NoCtldInAddrAny",
        )  # fmt: skip
        for file in (self.conf, folder / "gres.conf"):
            file.write_text(re.sub(r"(gpu:|Type=)t4\b", rf"\g<1>{gpu}", file.read_text()))

    @property
    def environ(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        self._spawn(*slurm.munge_command(self.folder / "munge", self._munge))
        eventually(self._munge.exists, "munged listens")
        for command in slurm.daemon_commands():
            self._spawn(*command)
        eventually(lambda: self("sinfo", "-h", "-o", "%T %D") == "idle 2\n", "idle nodes")

    def _spawn(self, *words: str) -> None:
        with (self.folder / f"{Path(words[0]).name}.out").open("ab") as log:
            self._processes.append(
                subprocess.Popen(
                    words,
                    env={**os.environ, **self.environ},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    def __call__(self, *words: str) -> str:
        """What one of Slurm's own commands prints."""
        done = subprocess.run(
            words, env={**os.environ, **self.environ}, capture_output=True, text=True, check=False
        )
        return done.stdout

    def stop(self) -> None:
        """End the jobs and the daemons."""
        self("scancel", "--me")
        self("scancel", "-u", getpass.getuser())
        with contextlib.suppress(Exception):
            eventually(lambda: self("squeue", "-h") == "", "an empty queue", within_s=15)
        for process in reversed(self._processes):
            process.terminate()
        for process in self._processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        self._processes.clear()
