"""One OpenSSH master: its control socket, its process, how it is opened, replaced and ended."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from vmctl.domain.command import for_any_shell
from vmctl.domain.errors import NotFound, Unreachable
from vmctl.domain.login.ssh_target import CONNECT_TIMEOUT_S, Endpoint, Target
from vmctl.files import FileLock, atomic_write, find_program
from vmctl.folders import runtime_dir

PROBE_S = 2.0
OPEN_S = 20.0
MARGIN_S = 10.0  # for the key exchange, once a connection is made
EXIT_S = 0.5  # a master that is stopped or swamped does not answer, and is killed
# Without a master ssh would make a connection of its own, unseen: it must fail instead.
ONLY_THROUGH_MASTER = ("-o", "ProxyCommand=false")
ALONE = ("-o", "ControlPath=none")
LOGIN_ALIVE_COUNT = 12  # a login that asked a person is worth a minute's silence

_numbers = itertools.count()


class ControlMaster:
    """The shared connection to one target; the process of ssh behind it may or may not live."""

    def __init__(self, target: Endpoint) -> None:
        self.target = target
        folder = runtime_dir()
        self.socket = folder / f"{target.digest}.s"
        self.config = folder / f"{target.digest}.conf"
        self.lock = FileLock(folder / f"{target.digest}.lock")
        self._pid = folder / f"{target.digest}.pid"
        self._configure()

    def _configure(self) -> None:
        _write_when_new(self.config, self.target.ssh_config(str(self.socket)))

    def argv(self, command: str | None, *, options: Sequence[str] = ()) -> list[str]:
        """An ssh command line for this machine; `command` is one POSIX line."""
        base = [program("ssh"), "-F", str(self.config), *options, self.target.alias]
        return base if command is None else [*base, for_any_shell(command)]

    @property
    def inode(self) -> int:
        """The control socket's identity; 0 when there is none."""
        try:
            return self.socket.lstat().st_ino
        except FileNotFoundError:
            return 0

    def probe(self, timeout_s: float = PROBE_S) -> bool:
        """Whether a command gets through the master in time; asks the VM, not the socket.

        Without a master it is False at once: the command cannot fall back to a new connection.
        """
        if not self.inode:
            return False
        with self.ping() as ping:
            try:
                return ping.wait(timeout_s) == 0
            except subprocess.TimeoutExpired:
                ping.kill()
                return False

    def ping(self) -> subprocess.Popen[bytes]:
        """Start a harmless command over the master; exit code 0 means that the VM answers."""
        return subprocess.Popen(
            self.argv("true", options=("-n", *ONLY_THROUGH_MASTER)),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    # -- opening -----------------------------------------------------------------------------

    def spawn_spare(
        self, timeout_s: float = OPEN_S, connect_timeout_s: int = CONNECT_TIMEOUT_S
    ) -> Path:
        """Start another process for the same target; its socket waits to be promoted.

        Raises Unreachable, HostKeyChanged or AccessDenied.
        """
        self._configure()  # `down` in another terminal may have removed it
        spare = self.socket.with_name(f"{self.target.digest}.{os.getpid()}.{next(_numbers)}")
        import tempfile  # only where something is opened

        # the master inherits these descriptors and outlives us: a pipe would never end
        with tempfile.TemporaryFile() as errors:
            slow = 0 if self.target.is_direct else self.target.connect_timeout_s
            connect_s = max(connect_timeout_s, slow)
            options = ("-o", "ControlMaster=yes", "-o", f"ConnectTimeout={connect_s}")
            try:
                code = subprocess.run(
                    self.argv(None, options=(*options, "-S", _literal(spare), "-N", "-f")),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=errors,
                    timeout=max(timeout_s, connect_s + MARGIN_S),
                    check=False,
                    start_new_session=True,  # Ctrl-C in the terminal is not for the master
                ).returncode
            except subprocess.TimeoutExpired as error:
                raise Unreachable(
                    f"The VM at {self.target.address} does not complete the SSH handshake.",
                    hint="See whether it runs: vmctl status",
                ) from error
            errors.seek(0)
            output = errors.read().decode("utf-8", "replace")
        if code != 0:
            raise self.target.failure(f"{self._proxy_errors()}{output}{self._shown_key(output)}")
        return spare

    def login(self, persist_s: float) -> None:
        """Open the master in this terminal, where ssh asks for what it needs; it stays that long.

        Raises Unreachable, HostKeyChanged or AccessDenied; ssh itself has said more.
        """
        self._configure()
        spare = self.socket.with_name(f"{self.target.digest}.{os.getpid()}.{next(_numbers)}")
        options = {
            "BatchMode": "no",
            "ControlMaster": "yes",
            "ControlPersist": f"{persist_s:.0f}",
            "ServerAliveCountMax": str(LOGIN_ALIVE_COUNT),
            "LogLevel": "INFO",
        }
        words = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
        import tempfile

        with tempfile.TemporaryFile() as errors:
            # what it asks it asks the terminal itself, not these
            code = subprocess.call(
                self.argv(None, options=(*words, "-S", _literal(spare), "-N", "-f")),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
            )
            errors.seek(0)
            output = errors.read().decode("utf-8", "replace")
        if code != 0:
            raise self.target.failure(f"{output}{self._shown_key(output)}")
        self.promote(spare)

    def _shown_key(self, output: str) -> str:
        """What ssh says of a host key that it does not know, with the key itself."""
        if "host key is known for" not in output and "Host key verification" not in output:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(
                self.argv("true", options=("-n", "-v", "-o", "LogLevel=DEBUG1", *ALONE)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=OPEN_S,
                check=False,
                start_new_session=True,
            ).stderr.decode("utf-8", "replace")
        return ""

    def _proxy_errors(self) -> str:
        """Why the proxy lets nothing through: a master in the background does not print it."""
        if not isinstance(self.target, Target) or not self.target.proxy:
            return ""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return subprocess.run(
                ["sh", "-c", f"exec {self.target.proxy}"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=self.target.connect_timeout_s,
                check=False,
            ).stderr.decode("utf-8", "replace")
        return ""

    def promote(self, spare: Path) -> None:
        """A spare process takes this master's place, at once for every vmctl process."""
        found = re.search(r"pid=(\d+)", self._control("check", spare))
        atomic_write(self._pid, found.group(1) if found else "0")
        spare.replace(self.socket)

    def discard(self, spare: Path) -> None:
        """End a spare process that is not needed."""
        self._control("exit", spare)
        spare.unlink(missing_ok=True)

    # -- ending ------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The master's process; 0 where it is not known or no longer that process."""
        try:
            pid = int(self._pid.read_text(encoding="ascii"))
        except (OSError, ValueError):
            return 0
        return pid if pid > 0 and str(self.config) in words_of(pid) else 0

    def kill(self) -> None:
        """End the process whatever state it is in; commands that wait in it never start."""
        pid = self.pid
        if pid:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        else:
            self._control("exit", self.socket)
        self._pid.unlink(missing_ok=True)

    def close(self) -> None:
        """End the master if there is one; neither process nor socket is left."""
        if self.inode:
            self._control("exit", self.socket)
        self.kill()
        self.socket.unlink(missing_ok=True)

    def remove(self) -> None:
        """End the master and leave no file of it."""
        self.close()
        for path in (self.config, self.lock.path):
            path.unlink(missing_ok=True)

    def cancel_forward(self, words: Sequence[str]) -> None:
        """End a forwarding that was asked for with these words."""
        self._control("cancel", self.socket, words)

    def _control(self, word: str, socket: Path, words: Sequence[str] = ()) -> str:
        """Ask the local process, not the VM; "" when it does not answer."""
        try:
            return subprocess.run(
                self.argv(None, options=("-S", _literal(socket), "-O", word, *words)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=EXIT_S,
                check=False,
            ).stderr.decode("utf-8", "replace")
        except subprocess.TimeoutExpired:
            return ""


def _literal(path: Path) -> str:
    """A path for ssh's -S, where '%' would begin a token."""
    return str(path).replace("%", "%%")


def words_of(pid: int) -> str:
    """A process's command line, "" when there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        if Path("/proc/self").exists():
            return ""
    try:  # macOS
        asked = subprocess.run(["ps", "-o", "args=", "-p", str(pid)], capture_output=True)
    except OSError:
        return ""
    return asked.stdout.decode("utf-8", "surrogateescape")


def _write_when_new(path: Path, text: str) -> None:
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except (OSError, ValueError):
        pass
    atomic_write(path, text)


def program(name: str) -> str:
    """OpenSSH's program, wherever PATH has it."""
    found = find_program(name)
    if found is None:
        raise NotFound(
            f"'{name}' is not installed on this computer.",
            hint="Install it: sudo apt-get install openssh-client rsync",
        )
    return found
