"""A real sshd on 127.0.0.1, as the current user, with a home of its own."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from tests.harness.eventually import eventually

# What a VM's login has. In the tester's own, python3 may be a script that takes half a second to
# find the real one.
LOGIN_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
LOGIN = """#!/bin/sh
cd "$HOME" || exit 1
case "$SSH_ORIGINAL_COMMAND" in
"") exec bash -l ;;
internal-sftp*|*/sftp-server*) exec /usr/lib/openssh/sftp-server ;;
*) exec sh -c "$SSH_ORIGINAL_COMMAND" ;;
esac
"""


class Sshd:
    """One machine to log in to; `stop` leaves nothing of it running."""

    def __init__(self, folder: Path, sockets: Path, path: str = LOGIN_PATH) -> None:
        self.path = path
        self.environ: dict[str, str] = {}  # what a login has besides
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir(parents=True)
        self.sockets = sockets
        self.user = getpass.getuser()
        self.authorized = folder / "authorized_keys"
        self.authorized.write_text("")
        self.key = folder / "host_key"
        self.new_host_key()
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def new_host_key(self) -> str:
        """Another host key from now on, as `ssh-ed25519 AAAA…`."""
        self.key.unlink(missing_ok=True)
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)]
        subprocess.run(make, check=True)
        return self.host_key

    @property
    def host_key(self) -> str:
        words = Path(f"{self.key}.pub").read_text().split()
        return " ".join(words[:2])

    def start(self) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)
        login = self.folder / "login.sh"
        login.write_text(LOGIN)
        login.chmod(0o755)
        config = self.folder / "sshd_config"
        given = " ".join(f'"{name}={value}"' for name, value in self.environ.items())
        config.write_text(
            f"""Port {self.port}
ListenAddress 127.0.0.1
HostKey "{self.key}"
AuthorizedKeysFile "{self.authorized}"
PidFile none
UsePAM no
StrictModes no
PermitRootLogin yes
PasswordAuthentication no
Subsystem sftp internal-sftp
SetEnv "HOME={self.home}" "TMUX_TMPDIR={self.sockets}" PATH={self.path} {given}
ForceCommand "{login}"
"""
        )
        program = shutil.which("sshd") or "/usr/sbin/sshd"
        with (self.folder / "sshd.log").open("ab") as log:
            self.process = subprocess.Popen(
                [program, "-D", "-e", "-f", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        eventually(self._listens, "sshd listens")

    def _listens(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False

    def sessions(self) -> list[int]:
        """The processes that carry logged-in connections."""
        assert self.process is not None
        return _children(self.process.pid)

    def cut(self) -> None:
        """End every connection, as a lost link does; what runs in tmux goes on."""
        for pid in self.sessions():
            for child in [*_children(pid), pid]:
                try:
                    os.kill(child, signal.SIGKILL)
                except ProcessLookupError:
                    continue

    def stop(self) -> None:
        """End sshd, its connections and the tmux server of this machine."""
        if self.process is None:
            return
        self.cut()
        self.process.terminate()
        self.process.wait()
        self.process = None

    def power_off(self) -> None:
        """What a VM loses when it stops: its processes."""
        self.stop()
        self.end_tmux()

    def end_tmux(self) -> None:
        """End what runs in tmux."""
        kill = ["tmux", "-L", "vmctl", "kill-server"]
        environment = {**os.environ, "TMUX_TMPDIR": str(self.sockets)}
        subprocess.run(kill, env=environment, capture_output=True, check=False)


def _children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
