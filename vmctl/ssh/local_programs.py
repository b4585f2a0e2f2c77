"""The local programs that vmctl calls, and what for."""

from __future__ import annotations

import os
import shutil
import subprocess

from vmctl.domain.readiness.checks import Program

ANSWER_S = 10

# name, what for, Debian's package, how it tells its version, whether nothing works without it
_CALLED = (
    ("ssh", "every connection to the VM", "openssh-client", ("-V",), True),
    ("ssh-keygen", "vmctl's own key", "openssh-client", (), True),
    ("scp", "vmctl scp, and push --via scp", "openssh-client", (), False),
    ("rsync", "differences of large files, and push --via rsync", "rsync", ("--version",), False),
)
_FOR_MACHINES = (
    ("sshd", "the embedded Compute Engine's machines", "openssh-server", (), True),
    ("bwrap", "machines apart from this computer", "bubblewrap", ("--version",), False),
    ("slirp4netns", "machines with a network of their own", "slirp4netns", ("--version",), False),
    ("ip", "machines with a network of their own", "iproute2", (), False),
    ("tmux", "runs on the machines", "tmux", ("-V",), True),
)
_FOR_IAP = (
    ("gcloud", "the tunnel through Google's Identity-Aware Proxy", "google-cloud-cli", (), True),
)
_MORE_PLACES = ":/usr/sbin:/sbin:/usr/local/sbin"


def installed(*, machines_here: bool, proxied: bool = False) -> list[Program]:
    """What is there of the programs that vmctl calls.

    `machines_here`: for rehearsals, too; `proxied`: for VMs without an external address.
    """
    return [
        Program(name, purpose, package, _version(name, question), needed)
        for name, purpose, package, question, needed in (
            *_CALLED,
            *(_FOR_MACHINES if machines_here else ()),
            *(_FOR_IAP if proxied else ()),
        )
    ]


def _version(name: str, question: tuple[str, ...]) -> str | None:
    """The program's version, "" where it tells none, None where it is not installed."""
    path = shutil.which(name, path=os.environ.get("PATH", os.defpath) + _MORE_PLACES)
    if path is None or not question:
        return None if path is None else ""
    try:
        done = subprocess.run(
            [path, *question],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=ANSWER_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return version_in(done.stdout or done.stderr)


def version_in(text: str) -> str:
    """The first word of a program's answer that begins a number: "9.2p1" of "OpenSSH_9.2p1 …"."""
    for word in text.replace("_", " ").split():
        if word[:1].isdigit():
            return word.rstrip(",")
    return ""
