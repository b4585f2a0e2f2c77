"""Machines where namespaces are refused: a supervised sshd as an ordinary process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .sandbox import Launch, find_program, guest_command, machine_uid
from .spawner import Spawner

LIMITS = (
    "machines share this computer's processes, network, /tmp and hostname, see its files, have no "
    "metadata server and no data disks, and let in this computer's own user name only"
)

# Root must not run machines as root, but sshd wants its login names in /etc/passwd: a mount
# namespace shows the machine's own /etc and /home in place of the computer's.
AS_UID = r"""
set -e
mount --bind "$2/etc" /etc
mount --bind "$2/home" /home
uid=$1
shift 2
exec setpriv --reuid "$uid" --regid "$uid" --clear-groups --inh-caps=-all --no-new-privs -- "$@"
"""


def paths(disk: Path, seed: Path, image: Path | None) -> dict[str, Any]:
    """Return the guest's folders, where it has no file system of its own."""
    return {
        "root": str(disk / "fs"),
        "seed": str(seed),
        "local": str(disk / "local"),
        "image": str(image) if image is not None else None,
        "python": str(disk / "fs/opt/python") if image is not None else None,
        "layer": str(disk / "layer"),
        "dns": None,
        "owns_names": machine_uid() is not None,
    }


def start(
    launch: Launch,
    spawner: Spawner,
    bind: Callable[[int], str],
    serial: int,
    control: socket.socket,
    accepted: socket.socket,
) -> subprocess.Popen[bytes]:
    """Starts the machine's init, which ends every descendant when this process ends."""
    argv = guest_command(launch.seed, launch.control_fd, launch.accepted_fd, "plain")
    uid = machine_uid()
    if uid is not None:
        root = str(launch.disk / "fs")
        argv = ["unshare", "--mount", "--", "/bin/sh", "-c", AS_UID, "sh", str(uid), root, *argv]
    return spawner.start_bound(
        argv, bind, stdout=serial, stderr=serial, pass_fds=(control.fileno(), accepted.fileno()),
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"},
    )  # fmt: skip


def kill(process: subprocess.Popen[bytes]) -> None:
    """Sends TERM: the machine's init kills its descendants, then itself."""
    try:
        os.kill(process.pid, signal.SIGTERM)
    except ProcessLookupError:
        pass


def find_obstacle() -> str | None:
    """Return why not even plain machines work here; None if they do."""
    for program in ("sshd", "ssh-keygen"):
        if find_program(program) is None:
            return f"{program} is not installed (Debian: sudo apt-get install openssh-server)"
    if machine_uid() is not None and not may_mount():
        return (
            "this root has no namespaces to lock machines into, and vmctl does not run them as "
            "root: start it as an ordinary user, or allow user namespaces (in Docker: "
            "--security-opt seccomp=unconfined)"
        )
    return None


def may_mount() -> bool:
    """Whether root can mount a separate /etc for a machine, as `AS_UID` does."""
    attempt = ["unshare", "--mount", "--", "mount", "--bind", "/etc", "/etc"]
    try:
        return subprocess.run(attempt, capture_output=True).returncode == 0
    except OSError:
        return False
