"""One warm OpenSSH master per VM, and everything that rides on it."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vmctl.domain.command import Command
from vmctl.domain.errors import NotFound, TimedOut, Unreachable
from vmctl.domain.target import CONNECT_TIMEOUT_S, Target, ssh_config, ssh_failure
from vmctl.folders import runtime_dir

PROBE_S = 2.0
OPEN_S = 20.0
SSH_FAILED = 255  # ssh's own failure, not the remote command's


@dataclass(frozen=True, slots=True)
class Result:
    """How a command on the VM ended."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "surrogateescape")

    @property
    def error_text(self) -> str:
        """Standard error as text."""
        return self.stderr.decode("utf-8", "replace")


class OpenSSH:
    """A VM reached through OpenSSH under a configuration of vmctl's own."""

    def __init__(self, target: Target) -> None:
        self.target = target
        folder = runtime_dir()
        self.socket = folder / f"{target.digest}.s"
        self._config = folder / f"{target.digest}.conf"
        self._lock = folder / f"{target.digest}.lock"
        self._dead_inode = 0
        _write_when_new(self._config, ssh_config(target, str(self.socket)))

    # -- the master --------------------------------------------------------------------------

    def probe(self, timeout_s: float = PROBE_S) -> bool:
        """Whether a command gets through the master in time; asks the VM, not the socket.

        Without a master it is False at once: the command cannot fall back to a new connection.
        """
        inode = self._inode()
        if inode in (0, self._dead_inode):  # a dead one is not waited for twice
            return False
        argv = self.argv("true", options=("-n", "-o", "ProxyCommand=false"))
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=timeout_s,
                check=False,
            )
            alive = done.returncode == 0
        except subprocess.TimeoutExpired:
            alive = False
        self._dead_inode = 0 if alive else inode
        return alive

    def _inode(self) -> int:
        """The control socket's identity; 0 when there is none."""
        try:
            return self.socket.lstat().st_ino
        except FileNotFoundError:
            return 0

    def open(self, timeout_s: float = OPEN_S, connect_timeout_s: int = CONNECT_TIMEOUT_S) -> None:
        """Make sure that a master answers: keep a live one, replace a stale one.

        Raises Unreachable, HostKeyChanged or AccessDenied.
        """
        with self._exclusive():
            if self.probe():
                return
            self.close()
            self._start(timeout_s, connect_timeout_s)

    def _start(self, timeout_s: float, connect_timeout_s: int) -> None:
        # the master inherits these descriptors and outlives us: a pipe would never end
        with tempfile.TemporaryFile() as errors:
            options = ("-o", "ControlMaster=yes", "-o", f"ConnectTimeout={connect_timeout_s}")
            argv = self.argv(None, options=(*options, "-N", "-f"))
            try:
                code = subprocess.run(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=timeout_s,
                    check=False,
                    start_new_session=True,  # Ctrl-C in the terminal is not for the master
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise Unreachable(
                    f"The VM at {self.target.address} does not finish the SSH handshake.",
                    hint="See whether it runs: vmctl status",
                ) from error
            errors.seek(0)
            told = errors.read().decode("utf-8", "replace")
        if code != 0:
            raise ssh_failure(told, self.target)

    def close(self) -> None:
        """End the master if there is one; nothing of it is left."""
        if not self.socket.exists():
            return
        try:
            subprocess.run(
                self.argv(None, options=("-O", "exit")),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                timeout=PROBE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            pass
        self.socket.unlink(missing_ok=True)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Two vmctl processes at once open one master, not two."""
        with self._lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # -- command lines -----------------------------------------------------------------------

    def argv(self, command: str | None, *, options: Sequence[str] = ()) -> list[str]:
        """An ssh command line for this VM; `command` is one line for the login shell there."""
        base = [_program("ssh"), "-F", str(self._config), *options, self.target.alias]
        return base if command is None else [*base, command]

    @property
    def config_file(self) -> Path:
        """The configuration that scp and rsync's ssh take too."""
        return self._config

    def run(
        self,
        command: str | Command,
        *,
        input: bytes | None = None,
        timeout_s: float | None = None,
    ) -> Result:
        """Run one command on the VM and wait; its exit code is data, ssh's own failure an error."""
        try:
            done = subprocess.run(
                self.argv(str(command), options=("-T",)),
                input=b"" if input is None else input,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(
                f"A command on the VM took longer than {timeout_s:g} s.",
                hint="See whether it runs: vmctl status",
            ) from error
        if done.returncode == SSH_FAILED and is_ssh_failure(done.stderr):
            raise ssh_failure(done.stderr.decode("utf-8", "replace"), self.target)
        return Result(done.returncode, done.stdout, done.stderr)

    def popen(self, command: str | Command) -> subprocess.Popen[bytes]:
        """Start a command on the VM with pipes on its three streams; the caller ends it."""
        return subprocess.Popen(
            self.argv(str(command), options=("-T",)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is ours to handle
        )

    def interactive(self, command: str | Command | None, *, tty: bool) -> int:
        """Run with this terminal's streams; returns the remote exit code."""
        line = None if command is None else str(command)
        return subprocess.call(self.argv(line, options=("-t" if tty else "-T",)))

    def scp(self, words: Sequence[str]) -> int:
        """Run scp under the same configuration; returns its exit code."""
        return subprocess.call([_program("scp"), "-F", str(self._config), *words])


def is_ssh_failure(stderr: bytes) -> bool:
    """Exit code 255 is ssh's own when it says so, or when nothing was said at all."""
    signs = (
        b"ssh:",
        b"mux_client",
        b"kex_",
        b"Permission denied (",
        b"Host key verification",
        b"host key is known for",
        b"Connection ",
        b"Shared connection",
        b"client_loop",
        b"Timeout, server",
        b"Control socket",
    )
    return not stderr.strip() or any(sign in stderr for sign in signs)


def _write_when_new(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    part = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _program(name: str) -> str:
    """OpenSSH's program, wherever PATH has it."""
    found = shutil.which(name)
    if found is None:
        raise NotFound(
            f"'{name}' is not installed on this computer.",
            hint="Install it: sudo apt-get install openssh-client rsync",
        )
    return found
