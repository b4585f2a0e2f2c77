"""vmctl's own key pair: made once, never a key of the user's."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from vmctl.domain.errors import NotFound, VmctlError
from vmctl.files import FileLock, atomic_write
from vmctl.folders import data_dir


class KeyPair(NamedTuple):
    """Where the private key is, and the public one as `ssh-ed25519 AAAA…`."""

    private_path: Path
    public_line: str


def ensure_keypair() -> KeyPair:
    """The ed25519 pair in the data folder, made by ssh-keygen when it is not there yet."""
    folder = data_dir()
    private = folder / "id_ed25519"
    public = folder / "id_ed25519.pub"
    if not (private.exists() and public.exists()):
        with FileLock(folder / ".keys.lock"):  # two first commands at once make one pair
            if not private.exists():
                _generate(private)
            elif not public.exists():
                atomic_write(public, _keygen("-y", "-P", "", "-f", str(private)))
    if private.stat().st_mode & 0o077:
        private.chmod(0o600)
    words = public.read_text(encoding="utf-8").split()
    if len(words) < 2 or not words[0].startswith("ssh-"):
        raise VmctlError(
            f"{public} does not contain a public key.",
            hint=f"Move it away; a new one is made from {private}.",
        )
    return KeyPair(private, " ".join(words[:2]))


def _generate(private: Path) -> None:
    part = private.with_name(f".{private.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    _keygen("-q", "-t", "ed25519", "-N", "", "-C", "vmctl", "-f", str(part))
    part_public = part.with_name(f"{part.name}.pub")
    part_public.replace(private.with_name(f"{private.name}.pub"))
    part.replace(private)


def _keygen(*words: str) -> str:
    try:
        done = subprocess.run(
            ["ssh-keygen", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
    except FileNotFoundError as error:
        raise NotFound(
            "OpenSSH is not installed on this computer (no ssh-keygen).",
            hint="Install it: sudo apt-get install openssh-client",
        ) from error
    if done.returncode != 0:
        raise VmctlError(f"ssh-keygen failed: {done.stderr.strip()}")
    return done.stdout
