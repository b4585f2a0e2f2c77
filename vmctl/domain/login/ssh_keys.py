"""Login keys in the form that Compute Engine's guest agent reads, with their end in them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

KEY_LIFETIME = timedelta(hours=24)

OS_LOGIN_ITEM = "enable-oslogin"  # a VM's own word beats its project's

_STAMP = "%Y-%m-%dT%H:%M:%S%z"


def key_entry(user: str, public_key: str, expires_at: datetime) -> str:
    """One line of the `ssh-keys` value; the guest agent removes the user when it expires.

    `public_key` is "ssh-ed25519 AAAA… comment"; the comment is replaced by Google's marker.
    """
    kind, blob = public_key.split()[:2]
    stamp = expires_at.astimezone(UTC).strftime(_STAMP)
    # The agent wants userName first and no spaces: it splits the line at them.
    marker = json.dumps({"userName": user, "expireOn": stamp}, separators=(",", ":"))
    return f"{user}:{kind} {blob} google-ssh {marker}"


def expiry_of(entry: str) -> datetime | None:
    """When a line's key ends; None for one that never does, or that cannot be read."""
    head, brace, rest = entry.partition("google-ssh {")
    if not brace or not head:
        return None
    try:
        return datetime.strptime(json.loads("{" + rest)["expireOn"], _STAMP).astimezone(UTC)
    except (ValueError, KeyError, TypeError):
        return None


def merged_keys(existing: str, entry: str, now: datetime) -> str:
    """The `ssh-keys` value with `entry` in it: the same key's older lines and expired ones go."""
    same = _identity(entry)
    kept = [
        line
        for line in existing.splitlines()
        if line.strip() and _identity(line) != same and not _is_over(line, now)
    ]
    return "\n".join([*kept, entry])


def time_left(ssh_keys: str, user: str, public_key: str, now: datetime) -> timedelta:
    """How long this user's key still opens the VM; zero when it is not among the keys."""
    wanted = (user, *public_key.split()[:2])
    left = timedelta(0)
    for line in ssh_keys.splitlines():
        if _identity(line) != wanted:
            continue
        ends = expiry_of(line)
        left = max(left, ends - now if ends else timedelta.max)
    return left


def _identity(line: str) -> tuple[str, ...]:
    user, _, rest = line.strip().partition(":")
    return (user, *rest.split()[:2])


def _is_over(line: str, now: datetime) -> bool:
    ends = expiry_of(line)
    return ends is not None and ends <= now
