"""Where things are on the VM."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .protocol import WORKSPACES, WORKSPACES_VARIABLE, GuestError
from .records import read_json

HOME = Path.home()
STATE = HOME / ".vmctl"
RUNS = STATE / "runs"


def ensure(folder: Path) -> Path:
    """The folder, made when missing, readable by the login user alone."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def workspace(project: str) -> Path:
    """The folder that holds a project's pushed tree."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", project):
        raise GuestError("invalid", f"'{project}' is not a valid project name.")
    elsewhere = os.environ.get(WORKSPACES_VARIABLE)
    return (Path(elsewhere).expanduser() if elsewhere else HOME / WORKSPACES) / project


def python_path() -> str:
    """PATH for jobs and services: `python` is the interpreter that set-up found."""
    machine = read_json(STATE / "machine.json") or {}
    interpreter = str(machine.get("python") or "")
    found = [str(STATE / "bin")]
    if interpreter:
        found.append(str(Path(interpreter).parent))
    found.append(str(HOME / ".local/bin"))
    found.append(str(machine.get("login_path") or os.environ.get("PATH") or os.defpath))
    return ":".join(found)
