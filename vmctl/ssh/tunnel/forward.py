"""One forwarded port on a connection of its own, which notices when it is dead."""

from __future__ import annotations

import json
import os
import re
import select
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.domain.errors import Unreachable
from vmctl.domain.login.ssh_target import Endpoint, GuestPlace, Target
from vmctl.domain.reply_shapes import unexpected_reply
from vmctl.domain.runs.heartbeat import Heartbeat
from vmctl.domain.runs.tunnel import Forwarding
from vmctl.guest.protocol import SERVICE
from vmctl.ssh import rpc
from vmctl.ssh.processes import end_process
from vmctl.ssh.remote_output import Tail
from vmctl.ssh.session.control_master import ALONE, ControlMaster
from vmctl.ssh.session.openssh import OpenSSH

if TYPE_CHECKING:
    from vmctl.guest.messages import ServiceReply, ServiceRequest

# OpenSSH's own keepalive stands behind our Heartbeat, and watches while a connection is being made
ALIVE = ("-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2")
CONNECT = ("-o", "ConnectTimeout=3")
READY = b"vmctl-tunnel-ready "
MAX_REPLY = 64 * 1024
ERRORS_S = 0.5  # for errors that are on their way, while the connection goes on
HTTP_S = 3.0
LOOK_S = 0.5  # how often we look whether this computer slept or its network changed
SLEPT_S = 2.0  # a look that comes so late means that it did
MUCH_BYTES = 64 * 1024
STATUS_LINE = re.compile(rb"HTTP/[0-9.]+ [0-9]{3}")


class LibraryAbsent(Exception):
    """The VM does not have this vmctl's helpers, or not whole: they are to be installed first."""


class Forward:
    """A Unix socket here that leads to a port of the VM's own 127.0.0.1, while ssh lives.

    A session on the same connection carries the Heartbeat; without one, small replies stall.
    """

    def __init__(
        self, ssh: OpenSSH, forwarding: Forwarding, path: Path, moved: Callable[[], tuple[int, int]]
    ) -> None:
        self.ssh = ssh
        self.target = ssh.target
        self.forwarding = forwarding
        self.path = path
        self._moved = moved  # bytes received and sent through the forward so far
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: Tail | None = None
        self._heartbeat = Heartbeat(0.0)
        self._seen = (0, 0)
        self._looked = (0.0, 0.0)
        self._source = ""
        # a server may have asked a person at login: there is no other connection to have
        self._is_alone = not self.target.place.is_server

    def open(self, timeout_s: float, request: ServiceRequest | None = None) -> ServiceReply | None:
        """Connect and listen, and carry out the verb `service` with this request; its answer.

        Raises Unreachable, HostKeyChanged, AccessDenied, LibraryAbsent, or what the verb refused.
        """
        self.path.unlink(missing_ok=True)
        options = (
            "-T",
            *("-o", "ExitOnForwardFailure=yes"),
            *((*ALONE, *ALIVE, *CONNECT) if self._is_alone else ()),
            *self._words,
        )
        self._process = subprocess.Popen(
            ControlMaster(self.target).argv(
                _line(request is not None, self.target.place), options=options
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        self._errors = Tail(self._process.stderr)
        if request is not None:
            self._write(json.dumps(request).encode() + b"\n")
        reply = self._read_reply(timeout_s)
        if reply is None:
            raise self._failure()
        answer, code = reply
        now = time.monotonic()
        self._heartbeat, self._seen = Heartbeat(now), self._moved()
        self._looked = (now, time.time())
        self._source = source_address(self.target)
        if request is None:
            return None
        if code in (rpc.ABSENT, rpc.BROKEN):
            raise LibraryAbsent
        return rpc.parse_reply(SERVICE, code, answer, self._error_text().encode() if code else b"")

    @property
    def _words(self) -> tuple[str, str]:
        return "-L", f"{self.path}:{self.forwarding.host}:{self.forwarding.remote_port}"

    def _read_reply(self, timeout_s: float) -> tuple[bytes, int] | None:
        """The verb's answer and its exit code; None when the connection did not come about.

        A login file on the VM may print before it.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, received = time.monotonic() + timeout_s, b""
        while True:
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            data = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not data:
                return None
            received = (received + data)[-MAX_REPLY:]
            before, mark, code = received.rpartition(READY)
            if mark and code.endswith(b"\n"):
                if not re.fullmatch(rb"[0-9]{1,3}\n", code):
                    raise unexpected_reply("service ends with no exit code")
                return before, int(code)

    def alive(self, seconds: float) -> bool:
        """Wait that long at most; False as soon as the connection has ended, or is of no use."""
        if self._process is None:
            return False
        assert self._process.stdout is not None
        limit = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            wait = min(limit - now, self._heartbeat.wait_s(now), LOOK_S)
            readable, _, _ = select.select([self._process.stdout], [], [], max(wait, 0))
            if readable:
                if not os.read(self._process.stdout.fileno(), 4096):
                    return False
                self._heartbeat = self._heartbeat.answered()
            now = time.monotonic()
            self._look(now, wait)
            if self._heartbeat.is_dead(now) or not self.path.exists():
                return False  # or the socket was swept away
            if self._heartbeat.is_due(now):
                self._write(b"\n")
                self._heartbeat = self._heartbeat.sent(now)
            if now >= limit:
                return True

    def _look(self, now: float, waited: float) -> None:
        """What has happened meanwhile that makes the connection more, or less, likely to live."""
        last, last_wall = self._looked
        wall = time.time()  # goes on while the computer sleeps, which the other clock does not
        self._looked = (now, wall)
        if max(now - last, wall - last_wall) > max(waited, 0) + SLEPT_S or self._moved_away():
            self._heartbeat = self._heartbeat.doubted(now)
        received, sent = self._moved()
        if received > self._seen[0] or sent - self._seen[1] > MUCH_BYTES:
            self._heartbeat = self._heartbeat.heard(now)
        self._seen = (received, sent)

    def _moved_away(self) -> bool:
        """Whether this computer would now reach the VM from another of its addresses."""
        source = source_address(self.target)
        changed = bool(source and self._source and source != self._source)
        self._source = source or self._source
        return changed

    def _write(self, data: bytes) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            os.write(self._process.stdin.fileno(), data)
        except BrokenPipeError:
            pass  # it has ended: the next read says so

    def answers_http(self) -> bool:
        """Whether something speaks HTTP at the VM's port; any status counts."""
        ask = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{self.forwarding.local_port}\r\n"
        limit, reply = time.monotonic() + HTTP_S, b""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.settimeout(HTTP_S)
                connection.connect(str(self.path))
                connection.sendall(f"{ask}Connection: close\r\n\r\n".encode())
                while not STATUS_LINE.match(reply):
                    connection.settimeout(max(limit - time.monotonic(), 0.01))
                    data = connection.recv(4096)
                    if not data or len(reply) > MAX_REPLY or time.monotonic() > limit:
                        return False
                    reply += data
            except OSError:
                return False
        return True

    def close(self) -> None:
        """Stop listening; nothing of it is left."""
        if not self._is_alone:  # the master goes on, and would go on listening
            ControlMaster(self.target).cancel_forward(self._words)
        if self._process is not None:
            end_process(self._process)
        self.path.unlink(missing_ok=True)

    def _error_text(self) -> str:
        return self._errors.text(ERRORS_S) if self._errors is not None else ""

    def _failure(self) -> Exception:
        assert self._process is not None
        ended = self._process.poll() is not None
        if not ended:
            self._process.terminate()
        errors = self._error_text()
        end_process(self._process)
        if not ended and not errors.strip():
            return Unreachable("The VM does not answer.", hint="See whether it runs: vmctl status")
        return self.target.failure(errors)


def _line(with_service: bool, place: GuestPlace) -> str:
    """What the session does on the VM: the verb, then every byte comes back.

    By its argument the VM's watchdog (guest/watchdog/activity.py) tells this `cat` from a transfer.
    """
    verb = ":"
    if with_service:  # the request is the first line of what comes in: a process list shows words
        verb = f"IFS= read -r asked; printf '%s\\n' \"$asked\" | ({rpc.verb_line(SERVICE, place)})"
    return f'{verb}; echo "{READY.decode()}$?"; exec cat -'


def source_address(target: Endpoint) -> str:
    """The address of this computer from which it would reach the VM; "" without a network.

    Nothing is sent: connecting a datagram socket only asks the routing table.
    """
    if not isinstance(target, Target) or target.proxy:
        return ""
    family = socket.AF_INET6 if ":" in target.address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.connect((target.address, target.port))
            return str(asking.getsockname()[0])
    except OSError:
        return ""
