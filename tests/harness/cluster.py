"""A real Slurm cluster behind a login node, and a laptop that works there."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.harness.laptop import Laptop, project
from tests.harness.slurm import Slurm
from tests.harness.sshd import Sshd


@dataclass
class Cluster:
    """A cluster, its login node, and a laptop that works there."""

    slurm: Slurm
    login: Sshd
    laptop: Laptop
    folder: Path

    def __call__(self, *words: str, code: int | None = 0) -> tuple[str, str]:
        done = self.laptop(*words, cwd=self.folder, code=code)
        return done.stdout, done.stderr

    def run_state(self) -> str:
        return str(self.laptop.json("ps", cwd=self.folder)[0]["state"])

    def stop(self) -> None:
        self.slurm.stop()
        for note in (self.login.sockets / "vmctl").glob("*.pid"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(note.read_text()), signal.SIGKILL)
        self.login.power_off()
        shutil.rmtree(self.login.sockets, ignore_errors=True)


@contextlib.contextmanager
def cluster_with(
    folder: Path, toml: str, files: Mapping[str, str], *, gpu: str = "t4"
) -> Iterator[Cluster]:
    """With a project on the laptop that has been pushed; nothing of it is left running."""
    sockets = Path(tempfile.mkdtemp(prefix="vms", dir="/tmp"))
    slurm = Slurm(folder / "slurm", sockets, gpu)
    login = Sshd(folder / "login", sockets)
    login.environ = slurm.environ
    home = folder / "user"
    # programs of $HOME/bin come first, as on any login node
    (login.home / ".bash_profile").write_text('export PATH="$HOME/bin:$PATH" PS1="type: "\n')
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    key = home / ".ssh" / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    login.authorized.write_text(Path(f"{key}.pub").read_text())
    extra = {"HOME": str(home), "XDG_RUNTIME_DIR": str(sockets), "VMCTL_LOCAL": "0"}
    work = project(folder / "work", toml, files)
    made = Cluster(slurm, login, Laptop(folder / "vmctl", folder / "none", extra), work)
    (home / ".ssh" / "config").write_text(
        f"Host alvis\n HostName 127.0.0.1\n Port {login.port}\n User {login.user}\n"
        f" IdentityFile {key}\n UserKnownHostsFile {home}/.ssh/known\n"
    )
    (home / ".ssh" / "known").write_text(f"[127.0.0.1]:{login.port} {login.host_key}\n")
    try:
        slurm.start()
        login.start()
        made("push", "--yes")
        yield made
    finally:
        made.stop()
