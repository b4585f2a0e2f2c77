"""A machine's outbound network: slirp4netns, a network stack in an unprivileged process."""

from __future__ import annotations

import os
import select
import subprocess
import threading
from pathlib import Path

from ..sandbox import find_program
from ..spawner import Spawner

# Not 10.0.2.0/24: the forwarded ports of this computer are at 10.0.2.2.
NETWORK = "10.213.98.0/24"
DNS = "10.213.98.3"  # slirp4netns's own resolver, which asks the computer's
READY_S = 5.0

# Root may open /dev/net/tun but slirp4netns must not be root: in a mount namespace of its own it
# gets a node that its uid may open. A subshell replaced by exec, so that one process is left.
AS_UID = r"""
set -e
mount -t tmpfs -o mode=755 tmpfs /dev/net
mknod -m 666 /dev/net/tun c 10 200
uid=$1
shift
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all --no-new-privs \
  --pdeathsig KILL -- "$@"
"""


def find_obstacle() -> str | None:
    """Return why machines have no outbound network on this computer; None if they have one."""
    if find_program("slirp4netns") is None:
        return "slirp4netns is not installed"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "this user may not open /dev/net/tun"
    return None


class Uplink:
    """One slirp4netns for one machine; ends with `close`, or when this process ends."""

    def __init__(self, spawner: Spawner, pid: int, uid: int | None, log: Path) -> None:
        """Attaches the network that the process pid is in; OSError with the reason if it cannot.

        slirp4netns's messages go to the file `log`."""
        self._log = log
        self._closing = threading.Lock()
        exit_read, self._exit_write = os.pipe()
        ready_read, ready_write = os.pipe()
        argv = [
            find_program("slirp4netns") or "slirp4netns", "--enable-sandbox", "--configure",
            "--disable-host-loopback", f"--cidr={NETWORK}",
            "--mtu=65520", f"--exit-fd={exit_read}", f"--ready-fd={ready_write}", str(pid), "tap0",
        ]  # fmt: skip
        if uid is not None:
            argv = ["unshare", "--mount", "--", "/bin/sh", "-c", AS_UID, "sh", str(uid), *argv]
        try:
            with log.open("wb") as words:
                self._process = spawner.start(
                    argv, pass_fds=(exit_read, ready_write), stderr=words,
                    env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                )  # fmt: skip
        except OSError:
            os.close(self._exit_write)
            os.close(ready_read)
            raise
        finally:
            os.close(exit_read)
            os.close(ready_write)
        self._ready = ready_read

    def wait_ready(self) -> None:
        """Once, right after the start: returns when packets flow.

        OSError with slirp4netns's last message otherwise."""
        try:
            readable, _, _ = select.select([self._ready], [], [], READY_S)
            ready = bool(readable) and os.read(self._ready, 1) == b"1"
        finally:
            os.close(self._ready)
        if not ready:
            self.close()
            words = self._log.read_text(errors="replace").strip().splitlines()
            raise OSError(words[-1] if words else "slirp4netns did not start")

    def close(self) -> None:
        """Ends slirp4netns; returns when its process has ended."""
        with self._closing:
            if self._exit_write >= 0:
                os.close(self._exit_write)
                self._exit_write = -1
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def find_resolver() -> str | None:
    """Return the machines' nameserver; None if they have no outbound network."""
    return DNS if find_obstacle() is None and Path("/etc/resolv.conf").exists() else None
