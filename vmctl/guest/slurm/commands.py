"""Slurm's own commands."""

from __future__ import annotations

import os
import re
import subprocess

from ..paths import STATE
from ..records import read_json

LIMIT_S = 30


def run_slurm(*words: str, keep: tuple[int, ...] = ()) -> tuple[int, str, str]:
    """One of them, found as the login shell finds it: exit code and both streams.

    `keep`: descriptors that it holds open, should we be killed meanwhile.
    """
    machine = read_json(STATE / "machine.json") or {}
    path = f"{machine.get('login_path') or ''}:{os.environ.get('PATH') or os.defpath}"
    try:
        done = subprocess.run(
            words,
            env={**os.environ, "PATH": path.strip(":"), "SLURM_TIME_FORMAT": "%s"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
            pass_fds=keep,
        )
    except subprocess.TimeoutExpired:
        return 124, "", f"{words[0]} does not answer"
    except OSError as error:
        return 127, "", f"{words[0]}: {error.strerror}"
    return done.returncode, done.stdout, done.stderr


def field(text: str, name: str) -> str:
    """What `scontrol -o show` says of one field; "" where it says nothing."""
    found = re.search(rf"\b{name}=(\S+)", text)
    return found[1] if found else ""
