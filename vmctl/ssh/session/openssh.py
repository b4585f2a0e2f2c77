"""A VM reached over one warm OpenSSH master, which heals itself when it does not answer."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.domain.command import Command
from vmctl.domain.errors import AccessDenied, TimedOut, Unreachable
from vmctl.domain.login.ssh_target import Endpoint
from vmctl.domain.terminal import Sink, Sinks
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import after_mark, exchange, tail_of, without_noise
from vmctl.ssh.session.control_master import ONLY_THROUGH_MASTER, PROBE_S, ControlMaster, program
from vmctl.ssh.session.mux_client import SSH_FAILED, MuxClient, SessionState
from vmctl.ssh.session.remote import COMMAND_S, Result

if TYPE_CHECKING:
    from vmctl.ssh.session.reconnect import MasterReplacement, Resolve

HEDGE_S = 0.8  # without a sign of life until then, another connection is prepared
# until it takes the old one's place: a dozen round trips were possible by then
PATIENCE_S = 1.5
ASK_AFTER_S = 0.4  # with no master at all, the API is asked when the address seen last is slow
VERIFIED_FOR_S = 2.0
STEP_S = 0.02
TRIES = 4
CHUNK = 65536

__all__ = ["COMMAND_S", "SSH_FAILED", "MuxClient", "OpenSSH", "Result", "is_ssh_failure"]


class _ProcessStream:
    """A command over the master, as a RemoteStream."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.stdout = process.stdout
        self._process = process

    def outcome(self) -> tuple[bytes, int]:
        return tail_of(self._process)

    def close(self) -> None:
        end_process(self._process)


class OpenSSH:
    """A VM reached through OpenSSH under a configuration of vmctl's own.

    A command is started at once, without asking first whether the master lives. Where the VM
    does not confirm it within two seconds or so, a new master takes the old one's place and the
    command is started there; it never runs twice. `resolve` tells where the VM is now; without it
    only the address in `target` is tried. After any command `target` and `config_file` are the
    ones that answered.
    """

    is_noisy = False  # whether a start file there prints, as far as is known

    def __init__(self, target: Endpoint, resolve: Resolve | None = None) -> None:
        self._master = ControlMaster(target)
        self._resolve = resolve
        self._alive_at = 0.0

    @property
    def target(self) -> Endpoint:
        """Where the VM answered last."""
        return self._master.target

    @property
    def socket(self) -> Path:
        """The control socket."""
        return self._master.socket

    @property
    def config_file(self) -> Path:
        """The configuration that scp and rsync's ssh take too; verify() first, or run a command."""
        return self._master.config

    def argv(self, command: str | None, *, options: Sequence[str] = ()) -> list[str]:
        """An ssh command line for this VM, verified a moment ago; `command` is one shell line."""
        self.verify()
        return self._master.argv(command, options=options)

    # -- the master --------------------------------------------------------------------------

    def probe(self, timeout_s: float = PROBE_S) -> bool:
        """Whether a command gets through the master in time; heals nothing."""
        alive = self._master.probe(timeout_s)
        self._alive_at = time.monotonic() if alive else 0.0
        return alive

    def verify(self) -> None:
        """Make sure that the VM answers, for what does not start through us; heals if need be.

        Raises Unreachable, HostKeyChanged, AccessDenied, or what the API says of a VM that is off.
        """
        if time.monotonic() - self._alive_at > VERIFIED_FOR_S:
            self.run("true")

    def open(self) -> None:
        """Make sure that there is a master, new or old, without asking the VM through it."""
        if not self._master.inode:
            self._reopen(0)

    def close(self) -> None:
        """End the master if there is one; nothing of it is left."""
        self._alive_at = 0.0
        self._master.remove()

    def release(self) -> None:
        """Nothing: the master stays for the next command."""

    # -- commands ----------------------------------------------------------------------------

    def popen(self, command: str | Command) -> MuxClient:
        """Start a command on the VM with pipes on its three streams; the caller ends it.

        Returns when the VM has confirmed it, one round trip later. Its output begins with BEGIN,
        which a start file's noise may precede (remote_output.skip_noise).
        """
        return self._begin(after_mark(str(command)))

    def stream(self, command: str | Command) -> _ProcessStream:
        """Start a command on the VM and read what it writes."""
        return _ProcessStream(self.popen(command))

    def run(
        self,
        command: str | Command,
        *,
        input: bytes | None = None,
        timeout_s: float = COMMAND_S,
    ) -> Result:
        """Run one command on the VM and wait; its exit code is data, ssh's own failure an error.

        Raises TimedOut, and IntegrityError where it says more than a helper ever does.
        """
        with self.popen(command) as process:
            try:
                stdout, stderr = exchange(process, input or b"", timeout_s)
            except subprocess.TimeoutExpired as error:
                process.kill()
                raise TimedOut(
                    f"A command on the VM took longer than {timeout_s:g} s.",
                    hint="See whether it runs: vmctl status",
                ) from error
            except BaseException:
                process.kill()
                raise
        if process.is_link_failure or (process.is_link_failure is None and is_ssh_failure(stderr)):
            words = process.ssh_output or stderr.decode("utf-8", "replace")
            raise self.target.failure(_last_words(words))
        self._alive_at = time.monotonic()
        return Result(process.returncode, without_noise(stdout), stderr)

    def interactive(
        self, command: str | Command | None, *, tty: bool, sinks: Sinks | None = None
    ) -> int:
        """Run with this terminal's streams; returns the remote exit code.

        Without a terminal of its own the command's output goes to the sinks, where there are any.
        Raises Unreachable where the connection was lost meanwhile.
        """
        line = None if command is None else str(command)
        if tty or line is None:
            self.verify()  # a terminal is only changed for a session that will come
            code = subprocess.call(self._master.argv(line, options=("-t" if tty else "-T",)))
            lost = code == SSH_FAILED and not self.probe()
        else:
            code, lost = self._inherited(line, sinks or Sinks())
        if lost:
            raise Unreachable(
                "The connection to the VM was lost.", hint="See whether it runs: vmctl status"
            )
        return code

    def _inherited(self, line: str, sinks: Sinks) -> tuple[int, bool]:
        """Run with our own three streams; the exit code, and whether it was the link's."""
        process = self._begin(line, inherit=sinks)
        try:
            _pump(process, sinks)
            code = process.wait()
        except BaseException:  # Ctrl-C: ssh has had it, too
            process.abandon()
            raise
        lost = process.is_link_failure
        return code, not self.probe() if lost is None else lost

    def scp(self, words: Sequence[str], stderr: Sink | None = None) -> int:
        """Run scp under the same configuration; returns its exit code."""
        sinks = Sinks(stderr=stderr)
        argv = [program("scp"), "-F", str(self._master.config), *words]
        with subprocess.Popen(argv, stderr=_streams(sinks)["stderr"]) as process:
            _pump(process, sinks)
            return process.wait()

    # -- the rule by which a command starts --------------------------------------------------

    def _begin(self, line: str, *, inherit: Sinks | None = None) -> MuxClient:
        """Start a command, exactly once, on a master that answers."""
        for _ in range(TRIES):
            inode = self._master.inode
            if not inode:
                self._reopen(0)
                inode = self._master.inode
            process = self._spawn(line, inherit=inherit)
            try:
                known = process.state(HEDGE_S)
                if known is SessionState.PENDING:
                    known = self._hedge(process, inode)
                elif known is SessionState.NO_MASTER:
                    self._reopen(inode)
            except BaseException:
                process.kill()
                process.abandon()
                raise
            if known is SessionState.CONFIRMED:
                self._alive_at = time.monotonic()
                return process
            process.abandon()
            if known is SessionState.REFUSED:
                _note("all sessions of this connection are in use: opening another one")
                return self._spawn(line, inherit=inherit, alone=True)
        raise Unreachable(
            "The connection to the VM breaks as soon as it is established.",
            hint="Check it: vmctl status",
        )

    def _spawn(self, line: str, *, inherit: Sinks | None, alone: bool = False) -> MuxClient:
        route = ("-o", "ControlPath=none") if alone else ONLY_THROUGH_MASTER
        return MuxClient(
            self._master.argv(line, options=("-T", *route)),
            stdin=subprocess.PIPE if inherit is None else None,
            **_streams(inherit),
            new_session=inherit is None,
            logged=not alone,
        )

    def _reopen(self, inode: int) -> None:
        """A new master where there is none that takes commands."""
        from vmctl.ssh.session.reconnect import MasterReplacement  # a warm command does without it

        attempt = MasterReplacement(self._master, inode, self._resolve, ask_after_s=ASK_AFTER_S)
        try:
            self._master = attempt.result().promote()
        finally:
            attempt.end()

    def _is_irreplaceable(self, attempt: MasterReplacement) -> bool:
        """Whether the old connection is all there is: a login that asked a person for something."""
        return self.target.place.is_server and isinstance(attempt.error, AccessDenied)

    def _hedge(self, process: MuxClient, inode: int) -> SessionState:
        """The VM is late: prepare another connection and take whichever answers.

        The old master is ended before the command is started again, so that it cannot start there;
        one that carries a transfer is waited for.
        """
        from vmctl.ssh.session.liveness import SocketActivity
        from vmctl.ssh.session.reconnect import MasterReplacement

        began, activity = time.monotonic() - HEDGE_S, SocketActivity(self._master.pid)
        attempt = MasterReplacement(self._master, inode, self._resolve)
        ping = self._master.ping()
        try:
            while True:
                known = process.state(STEP_S)
                activity.sample()
                if known is SessionState.NO_MASTER:  # another vmctl process has replaced it
                    self._master = attempt.result().promote()
                if known is not SessionState.PENDING:
                    return known
                if time.monotonic() - began < PATIENCE_S or not attempt.done():
                    continue
                if ping.poll() == 0:
                    return SessionState.CONFIRMED  # it answers, though its log is not as we know it
                if activity.is_recent() or self._is_irreplaceable(attempt):
                    continue
                try:
                    opened = attempt.result()
                finally:
                    self._master.kill()
                    process.abandon()
                if process.is_confirmed:
                    raise Unreachable(
                        "The connection to the VM was lost just as the command started.",
                        hint="See what it did, then try again.",
                    )
                self._master = opened.promote()
                return SessionState.NO_MASTER
        finally:
            attempt.end()
            if ping.poll() is None:
                ping.kill()
            ping.wait()


def _streams(sinks: Sinks | None) -> dict[str, int | None]:
    """The program's standard output and error, for Popen; one pipe at most for sinks."""
    if sinks is None:
        return {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if sinks.stdout is None:
        return {"stdout": None, "stderr": subprocess.PIPE if sinks.stderr else None}
    return {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT if sinks.stderr else None}


def _pump(process: subprocess.Popen[bytes], sinks: Sinks) -> None:
    """Hand on what the program writes until it has ended."""
    source, sink = (
        (process.stdout, sinks.stdout) if sinks.stdout else (process.stderr, sinks.stderr)
    )
    if source is not None and sink is not None:
        while data := os.read(source.fileno(), CHUNK):
            sink(data)


def is_ssh_failure(stderr: bytes) -> bool:
    """Exit code 255 is ssh's own when it says so, or when there was no message at all."""
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


def _last_words(log: str) -> str:
    """What ssh's log says to a person."""
    lines = [line.strip() for line in log.splitlines() if not line.startswith(("debug", "OpenSSH"))]
    return "\n".join(line for line in lines if line)


def _note(text: str) -> None:
    """Log a detail for --verbose; without that nobody pays for the import."""
    import logging

    logging.getLogger("vmctl").info(text)
