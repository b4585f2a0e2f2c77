"""Pinned host keys, one file per instance id: data, not cache.

Keys come through the Compute API at first sight; from then on the pin wins, because any process
on the VM can overwrite what the API tells later.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from pathlib import Path

from vmctl.domain.errors import HostKeyChanged, Unreachable
from vmctl.files import atomic_write
from vmctl.folders import data_dir

PREFERRED = "ssh-ed25519"


def pin_file(instance_id: str) -> Path:
    """The known_hosts file of one VM."""
    folder = data_dir() / "hostkeys"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"compute.{instance_id}"


def pinned(instance_id: str) -> list[str]:
    """The keys pinned for a VM, as `ssh-ed25519 AAAA…`; none when it was never seen."""
    try:
        lines = pin_file(instance_id).read_text(encoding="ascii").splitlines()
    except FileNotFoundError:
        return []
    return [" ".join(line.split()[1:3]) for line in lines if len(line.split()) >= 3]


def pin(instance_id: str, keys: Sequence[str]) -> Path:
    """Pin keys at first sight; a later key that contradicts a pinned one raises HostKeyChanged.

    A type that was not pinned before is not added: what was seen first is what counts.
    """
    offered = [checked(key) for key in keys]
    if not offered:
        raise Unreachable("The VM has not published its host keys yet.", hint="Try again: vmctl up")
    known = pinned(instance_id)
    if known:
        by_type = dict(key.split() for key in known)
        for key in offered:
            kind, value = key.split()
            if by_type.get(kind, value) != value:
                raise HostKeyChanged(
                    f"The {kind} host key of instance {instance_id} is not the pinned one.",
                    hint="If you replaced it yourself, remove the pin: "
                    f"rm '{pin_file(instance_id)}'",
                )
        return pin_file(instance_id)
    target = pin_file(instance_id)
    lines = "".join(f"compute.{instance_id} {key}\n" for key in offered)
    atomic_write(target, lines.encode("ascii"))
    return target


def unpin(instance_id: str) -> None:
    """Forget a VM that no longer exists."""
    pin_file(instance_id).unlink(missing_ok=True)


def checked(key: str) -> str:
    """Type and base64 of a key that is well formed; anything else does not get pinned."""
    words = key.split()
    try:
        kind, value = words[0], words[1]
        blob = base64.b64decode(value, validate=True)
    except (IndexError, binascii.Error, ValueError) as error:
        raise HostKeyChanged(f"'{key[:60]}' is not a valid SSH host key.") from error
    length = int.from_bytes(blob[:4], "big")
    if blob[4 : 4 + length] != kind.encode("ascii", "replace"):
        raise HostKeyChanged(f"'{key[:60]}' is not a valid {kind} host key.")
    return f"{kind} {value}"
