"""The values that a run gets from the user's environment: its job has them, no record keeps them.

They wait in a file of their own until the run has started, and its first act is to take that file
away. The spec keeps the names, and a digest by which a second request is known to be the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path

from ..paths import RUNS
from ..records import read_json, write_json
from .run_tree import run_directories

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from collections.abc import Container, Mapping
    from typing import Any

FILE = "environment"
SEALED = ".sealed"  # no spec of an earlier version is left that holds values
ROUNDS = 20_000  # a short value is not found by trying all of them


def seal(values: Mapping[str, Any]) -> dict[str, Any]:
    """What a spec says of them: nothing from which they follow."""
    if not values:
        return {}
    salt = secrets.token_hex(16)
    return {"names": sorted(values), "salt": salt, "digest": _digest(values, salt)}


def is_same(sealed: object, values: Mapping[str, Any]) -> bool:
    """Whether a spec's are these."""
    if not isinstance(sealed, dict) or not sealed or not values:
        return not sealed and not values
    if not _is_sealed(sealed):
        return sealed == values  # written by an earlier version of this helper
    salt = str(sealed.get("salt"))
    return sealed["names"] == sorted(values) and sealed.get("digest") == _digest(values, salt)


def leave(run: Path, values: Mapping[str, Any]) -> None:
    """Put them where the run that is about to begin finds them."""
    if not values:
        return
    # not forced to the disk: with luck they are taken away before they ever get there
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(run / FILE, flags, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(values), file)


def take(run: Path) -> dict[str, str]:
    """The values; from now on only the caller has them."""
    values = read_json(run / FILE) or {}
    drop(run)
    return {str(name): str(value) for name, value in values.items()}


def drop(run: Path) -> None:
    """Nobody will take them any more."""
    with contextlib.suppress(FileNotFoundError):
        (run / FILE).unlink()


def tidy(alive: Container[str]) -> None:
    """Take away values that nobody will take any more: of runs that died before they began.

    The caller holds the lock of the runs.
    """
    directories = run_directories()
    for directory in directories:
        if directory.name not in alive:
            drop(directory)
    if (RUNS / SEALED).exists():
        return
    sealed = [_seal_spec(run, alive) for run in directories]
    if all(sealed):
        (RUNS / SEALED).touch(mode=0o600)


def _seal_spec(run: Path, alive: Container[str]) -> bool:
    """Whether a spec holds no values; those of earlier versions did."""
    spec = read_json(run / "spec.json") or {}
    values = spec.get("env")
    if not isinstance(values, dict) or not values or _is_sealed(values):
        return True
    if run.name in alive and not (run / "phase").exists():
        return False  # it has not read its spec yet
    write_json(run / "spec.json", {**spec, "env": seal(values)})
    return True


def _is_sealed(found: dict[str, Any]) -> bool:
    return isinstance(found.get("names"), list)


def _digest(values: Mapping[str, Any], salt: str) -> str:
    import hashlib  # only where there are any

    text = json.dumps(values, sort_keys=True).encode()
    return hashlib.pbkdf2_hmac("sha256", text, bytes.fromhex(salt), ROUNDS).hex()
