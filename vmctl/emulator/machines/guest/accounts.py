"""Login names and keys, from ssh-keys metadata, as Compute Engine's guest agent keeps them."""

from __future__ import annotations

import json
import re
import shutil
from datetime import datetime, timezone
from pathlib import Path

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

MARK = "# Added by Google"
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
NOBODY_YET = "machine"  # ssh-keygen and others refuse to run under a uid that has no name
RESERVED = frozenset({"root", "daemon", "sshd", "nobody", NOBODY_YET})


class Keys:
    """Keys that are valid now, by login name, and when the next of them expires (Unix time)."""

    def __init__(self) -> None:
        self.by_user: dict[str, list[str]] = {}
        self.next_expiry: float | None = None


def read_key_lines(tree: dict[str, Any]) -> list[str]:
    """The `user:key` lines that count for this instance, in Compute Engine's precedence."""
    instance = (tree.get("instance") or {}).get("attributes") or {}
    project = (tree.get("project") or {}).get("attributes") or {}
    login = instance.get("enable-oslogin", project.get("enable-oslogin", ""))
    if str(login).lower() == "true":
        return []  # OS Login says who may log in; the agent ignores all keys in metadata
    texts = [instance.get("ssh-keys", "")]
    if instance.get("sshKeys"):
        texts.append(instance["sshKeys"])
    elif str(instance.get("block-project-ssh-keys", "")).lower() != "true":
        texts += [project.get("ssh-keys", ""), project.get("sshKeys", "")]
    return [line.strip() for text in texts for line in str(text).splitlines() if line.strip()]


def parse_expiry(key: str) -> float | None:
    """Unix time from `google-ssh {"expireOn":...}`; None for a key that never expires;
    ValueError when the comment claims an expiry that cannot be read."""
    fields = key.split(None, 3)
    if len(fields) < 4 or fields[2] != "google-ssh":
        return None
    document = json.loads(fields[3])
    if not isinstance(document, dict) or "expireOn" not in document:
        return None
    moment = datetime.strptime(str(document["expireOn"]), "%Y-%m-%dT%H:%M:%S%z")
    return moment.astimezone(timezone.utc).timestamp()  # noqa: UP017 (Python 3.10)


def select_valid(lines: Iterable[str], now: float) -> Keys:
    """Sorts lines by user and leaves out what is malformed or has expired at `now`."""
    keys = Keys()
    for line in lines:
        user, colon, key = line.partition(":")
        if not colon or not NAME.fullmatch(user) or user in RESERVED or len(key.split()) < 2:
            continue
        try:
            ends = parse_expiry(key)
        except ValueError:
            continue  # the agent does not trust a key whose expiry it cannot read
        if ends is not None:
            if ends <= now:
                continue
            keys.next_expiry = min(ends, keys.next_expiry or ends)
        keys.by_user.setdefault(user, []).append(key.strip())
    return keys


def merge_keys(present: str, keys: list[str]) -> str:
    """authorized_keys with the metadata's keys marked, and the user's own lines kept."""
    own: list[str] = []
    lines = iter(present.splitlines())
    for line in lines:
        if line.strip() == MARK:
            next(lines, None)
        else:
            own.append(line)
    return "".join(f"{line}\n" for line in own) + "".join(f"{MARK}\n{key}\n" for key in keys)


class Accounts:
    """Writes passwd and authorized_keys below `root`; `owned`: names are its own."""

    def __init__(self, root: Path, uid: int, owned: bool = True) -> None:
        self.root = root
        self.uid = uid
        self.owned = owned
        self._register = root / "var/lib/google/google_users"

    def apply(self, keys: Keys) -> None:
        """Makes accounts and keys match; a name without keys cannot log in any more."""
        self._register.parent.mkdir(parents=True, exist_ok=True)
        known = self._register.read_text().split() if self._register.exists() else []
        names = list(dict.fromkeys([*keys.by_user, *known]))
        if self.owned:
            self._write_passwd(names)
        for name in names:
            home = self.root / "home" / name
            if not home.is_dir():
                home.mkdir(mode=0o755, parents=True)
                for source in (self.root / "etc/skel").glob("*"):
                    shutil.copy(source, home / source.name)
            file = home / ".ssh/authorized_keys"
            if name in keys.by_user:
                file.parent.mkdir(mode=0o700, exist_ok=True)
                present = file.read_text(errors="replace") if file.exists() else ""
                replace(file, merge_keys(present, keys.by_user[name]), 0o600)
            elif name in known:
                file.unlink(missing_ok=True)
        replace(self._register, "".join(f"{name}\n" for name in keys.by_user), 0o644)

    def _write_passwd(self, names: list[str]) -> None:
        passwd = self.root / "etc/passwd"
        present = passwd.read_text().splitlines() if passwd.exists() else []
        kept = [line for line in present if line.split(":")[2] != str(self.uid)]
        old = [line.split(":")[0] for line in present if line.split(":")[2] == str(self.uid)]
        users = [name for name in dict.fromkeys([*names, *old]) if name != NOBODY_YET]
        users = users or [NOBODY_YET]
        lines = [*kept, *(f"{n}:x:{self.uid}:{self.uid}::/home/{n}:/bin/bash" for n in users)]
        replace(passwd, "".join(f"{line}\n" for line in lines), 0o644)
        group = self.root / "etc/group"
        present = group.read_text().splitlines() if group.exists() else []
        kept = [line for line in present if line.split(":")[2] != str(self.uid)]
        lines = [*kept, *(f"{name}:x:{self.uid}:" for name in users)]
        lines = [line for line in lines if not line.startswith("google-sudoers:")]
        lines.append(f"google-sudoers:x:900:{','.join(users)}")
        replace(group, "".join(f"{line}\n" for line in lines), 0o644)


def replace(path: Path, text: str, mode: int) -> None:
    """Writes a file so that readers see the old or the new one, whole."""
    partial = path.with_name(f".{path.name}.new")
    partial.write_text(text)
    partial.chmod(mode)
    partial.replace(path)
