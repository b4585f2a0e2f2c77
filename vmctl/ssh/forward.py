"""One forwarded port on a connection of its own, and who holds a port here."""

from __future__ import annotations

import http.client
import os
import re
import select
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from vmctl.clock import Clock
from vmctl.domain.errors import Conflict, Unreachable
from vmctl.domain.target import ssh_failure
from vmctl.domain.tunnel import Forwarding
from vmctl.ssh.openssh import OpenSSH
from vmctl.ssh.transfer import end_process

# a dead link is noticed within about 8 s
ALIVE = ("-o", "ServerAliveInterval=3", "-o", "ServerAliveCountMax=2")
CONNECT = ("-o", "ConnectTimeout=3")
READY = b"ready\n"
HTTP_S = 3.0


class Forward:
    """A local port that leads to the VM's own 127.0.0.1, while its ssh process lives."""

    def __init__(self, ssh: OpenSSH, forwarding: Forwarding) -> None:
        self._ssh = ssh
        self.forwarding = forwarding
        self._process: subprocess.Popen[bytes] | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  closed in close()

    def open(self, timeout_s: float) -> None:
        """Connect and listen; raises Unreachable, HostKeyChanged, AccessDenied or Conflict."""
        pair = self.forwarding
        options = (
            "-T",
            *("-o", "ControlPath=none", "-o", "ExitOnForwardFailure=yes"),
            *ALIVE,
            *CONNECT,
            *("-L", f"127.0.0.1:{pair.local_port}:127.0.0.1:{pair.remote_port}"),
        )
        # A session beside the forward: with -N alone small replies stall. `cat` ends with us,
        # because its input does.
        argv = self._ssh.argv("echo ready; exec cat", options=options)
        self._process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
        )
        if not self._says_ready(timeout_s):
            raise self._failure()

    def _says_ready(self, timeout_s: float) -> bool:
        """Whether the session beside the forward runs; a login file may print before it does."""
        assert self._process is not None
        assert self._process.stdout is not None
        deadline, said = time.monotonic() + timeout_s, b""
        while not said.endswith(READY):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self._process.stdout], [], [], max(left, 0))
            data = os.read(self._process.stdout.fileno(), 4096) if readable else b""
            if not data:
                return False
            said = (said + data)[-256:]
        return True

    def alive(self, seconds: float) -> bool:
        """Wait that long at most; False as soon as the connection has ended."""
        if self._process is None:
            return False
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def close(self) -> None:
        """Stop listening; nothing of it is left."""
        if self._process is not None:
            end_process(self._process)
        self._errors.close()

    def _failure(self) -> Exception:
        assert self._process is not None
        ended = self._process.poll() is not None
        end_process(self._process)
        self._errors.seek(0)
        told = self._errors.read().decode("utf-8", "replace")
        if "cannot listen" in told or "Address already in use" in told:
            return taken(self.forwarding.local_port)
        if not ended and not told.strip():
            return Unreachable("The VM does not answer.", hint="See whether it runs: vmctl status")
        return ssh_failure(told, self._ssh.target)


def answers_http(port: int) -> bool:
    """Whether something speaks HTTP at this port of 127.0.0.1; any status counts."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_S)
    try:
        connection.request("GET", "/", headers={"Host": f"127.0.0.1:{port}"})
        connection.getresponse().read(1)
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def wait_until_free(port: int, clock: Clock, seconds: float) -> bool:
    """Whether the local port is free, now or soon."""
    limit = clock.monotonic() + seconds
    while not is_free(port):
        if clock.monotonic() >= limit:
            return False
        clock.sleep(0.05)
    return True


def is_free(port: int) -> bool:
    """Whether we may listen on this port of 127.0.0.1."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except PermissionError as error:
            raise Conflict(
                f"Port {port} of this computer is for the administrator only.",
                hint="Choose a higher one: --port 8080",
            ) from error
        except OSError:
            return False
    return True


def next_free(port: int) -> int:
    """The next port above that is free."""
    return next((found for found in range(port + 1, min(port + 200, 65535)) if is_free(found)), 0)


def taken(port: int) -> Conflict:
    """The error for a local port in use: it names the holder and the next free port."""
    holder = holder_of(port)
    by = f" by {holder}" if holder else ""
    return Conflict(
        f"Port {port} on this computer is taken{by}.",
        hint=f"Use the next free one: --port {next_free(port)}",
    )


def holder_of(port: int) -> str:
    """Who listens on a local port, as far as this user may see; "" when nobody can tell."""
    inodes = _listening_inodes(port)
    links = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        if not links.isdisjoint(_open_files(process)):
            words = (process / "cmdline").read_bytes().split(b"\0")
            name = " ".join(word.decode("utf-8", "replace") for word in words[:3]).strip()
            return f"'{name[:60]}' (process {process.name})"
    return _lsof(port) if not Path("/proc/net/tcp").exists() else ""


def _open_files(process: Path) -> Iterator[str]:
    """What a process has open; nothing where it has ended or is somebody else's."""
    try:
        descriptors = list((process / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield str(descriptor.readlink())
        except OSError:  # closed meanwhile
            continue


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(fields[9])
    return found


def _lsof(port: int) -> str:
    """macOS has no /proc."""
    try:
        told = subprocess.run(
            ["lsof", "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"],
            capture_output=True,
            text=True,
            timeout=3,
            check=False,
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"^p(\d+)\nc(.+)$", told, re.MULTILINE)
    return f"'{found.group(2)}' (process {found.group(1)})" if found else ""
