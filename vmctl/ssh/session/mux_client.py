"""A command handed to the master: whether the VM has started it, by ssh's own log.

The master sends the command only after the VM has confirmed the session, and ssh logs that
confirmation. So no round trip is spent on asking whether the master lives: without confirmation
the command has certainly not started, and it may be started again elsewhere.
"""

from __future__ import annotations

import contextlib
import enum
import itertools
import os
import subprocess
import time
from collections.abc import Sequence
from typing import IO

from vmctl.folders import runtime_dir

SSH_FAILED = 255  # ssh's own failure, or a remote command's that chose the same number
STEP_S = 0.05
FIRST_STEP_S = 0.001  # of a look at the log: finer than any round trip
STEP_GROWTH = 1.1
LOG_LIMIT = 1 << 16

_CONFIRMED = b"mux_client_request_session: master session id:"
_REFUSED = (b"Session open refused", b"session request failed")
# with ProxyCommand=false this is how ssh ends that found no master to hand the command to
_NOT_HANDED_OVER = (
    b"_exchange_identification",
    b"Connection closed by UNKNOWN",
    b"Can't open user config file",  # `down` elsewhere tidied it away
)
_REMOTE_CODE = b"Received exit status from master"
_MASTER_ENDED = b"master terminated unexpectedly"

_numbers = itertools.count()


class SessionState(enum.Enum):
    """What is known about the session of a command that was handed to the master."""

    CONFIRMED = "the VM has confirmed its session"
    PENDING = "nothing is known"
    NO_MASTER = "it was not handed over: no master took it"
    REFUSED = "the VM has no session to spare on this connection"


class MuxClient(subprocess.Popen[bytes]):
    """An ssh client and, apart from the remote's standard error, ssh's own output."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        stdin: int | IO[bytes] | None = subprocess.PIPE,
        stdout: int | IO[bytes] | None = subprocess.PIPE,
        stderr: int | IO[bytes] | None = subprocess.PIPE,
        new_session: bool = True,
        logged: bool = True,
    ) -> None:
        self._log = -1
        self._output = b""
        self._log_file = ""
        words = list(argv)
        if logged:
            self._log_file = str(runtime_dir() / f"{os.getpid()}.{next(_numbers)}.log")
            with contextlib.suppress(FileNotFoundError):  # of an earlier process with our number
                os.unlink(self._log_file)  # noqa: PTH108
            # a file, no pipe: an ssh whose vmctl was killed would wait for a reader for ever
            flags = os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._log = os.open(self._log_file, flags, 0o600)
            # through the master that is a dozen lines; a connection of its own says much more
            words[1:1] = ["-vv", "-E", self._log_file]
        try:
            # in a session of its own Ctrl-C does not reach it
            super().__init__(
                words, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=new_session
            )
        except BaseException:
            self._close_log()
            raise

    def state(self, timeout_s: float) -> SessionState:
        """Wait until it is known whether the VM has confirmed the session, or the time is over."""
        deadline, step = time.monotonic() + timeout_s, FIRST_STEP_S
        while True:
            over = super().poll() is not None  # asked before reading: then all of it is there
            if self.is_confirmed:
                return SessionState.CONFIRMED
            if over or self._log < 0:
                if any(sign in self._output for sign in _REFUSED):
                    return SessionState.REFUSED
                lost = any(sign in self._output for sign in _NOT_HANDED_OVER)
                if lost and self.returncode == SSH_FAILED:
                    return SessionState.NO_MASTER
                return SessionState.CONFIRMED
            left = deadline - time.monotonic()
            if left <= 0:
                return SessionState.PENDING
            time.sleep(min(left, step))
            step = min(step * STEP_GROWTH, STEP_S)

    @property
    def is_confirmed(self) -> bool:
        """Whether the VM has confirmed the session, so that the command may have started."""
        self._read()
        return _CONFIRMED in self._output

    def abandon(self) -> None:
        """End the client; after the master's end its log is complete."""
        if super().poll() is None:
            try:
                super().wait(STEP_S)  # of itself, because its master has ended
            except subprocess.TimeoutExpired:
                self.kill()
                super().wait()
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    @property
    def ssh_output(self) -> str:
        """The output of ssh itself; "" where it is not kept apart."""
        self._read()
        return self._output.decode("utf-8", "replace")

    @property
    def is_link_failure(self) -> bool | None:
        """Whether ssh's exit code 255 is its own, not the remote's; None where it did not say."""
        if self.returncode != SSH_FAILED:
            return False
        self._read()
        if _REMOTE_CODE in self._output:
            return False
        return True if _MASTER_ENDED in self._output else None

    def poll(self) -> int | None:
        """As of any process; ssh's own output is kept when it ends."""
        code = super().poll()
        if code is not None:
            self._close_log()
        return code

    def wait(self, timeout: float | None = None) -> int:
        """As of any process; ssh's own output is kept when it ends."""
        code = super().wait(timeout)
        self._close_log()
        return code

    def __del__(self) -> None:
        self._close_log()
        super().__del__()

    def _read(self) -> None:
        while self._log >= 0:
            data = os.read(self._log, 4096)
            if not data:
                break
            self._output = (self._output + data)[-LOG_LIMIT:]
        if self._output and self._log_file:  # ssh has opened it: its name is not needed any more
            with contextlib.suppress(OSError):
                os.unlink(self._log_file)  # noqa: PTH108
            self._log_file = ""

    def _close_log(self) -> None:
        self._read()
        descriptor, self._log = self._log, -1
        if descriptor >= 0:
            os.close(descriptor)
        if self._log_file:
            with contextlib.suppress(OSError):
                os.unlink(self._log_file)  # noqa: PTH108
            self._log_file = ""
