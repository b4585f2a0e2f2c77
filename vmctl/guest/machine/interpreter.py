"""Set-up: sshd, and the interpreter that jobs get, remembered in ~/.vmctl/machine.json."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from ..paths import STATE, ensure
from ..protocol import GuestError
from ..records import read_json, write_bytes, write_json
from . import sshd_config

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from .messages import MachineRecord, PrepareRequest

WANTED = ("torch", "torchvision", "tensorboard", "jupyterlab")
SMALL = ("tensorboard", "jupyterlab")  # what may be added to an image that has torch
PLACES = ("/opt/python/bin/python", "/opt/conda/bin/python", "/usr/bin/python3")
VENV = STATE / "venv"
LIMIT_S = 20
INSTALL_LIMIT_S = 900

# find_spec only: importing torch takes seconds
PROBE = """
import json, sys
from importlib.util import find_spec
names = sys.argv[1:]
found = [name for name in names if find_spec(name) is not None]
print(json.dumps({"python": sys.executable, "version": sys.version.split()[0], "found": found}))
"""
LOGIN = 'printf "\\n@@%s\\n" "$PATH" "$(type -P python)" "$(type -P python3)"'


def prepare(request: PrepareRequest) -> MachineRecord:
    """The machine's record: interpreter, version, what it lacks; quick when nothing changed."""
    on_server = request.get("server", False)
    if not on_server:  # there nothing but the user's home is ours to change
        sshd_config.settle()
    path = STATE / "machine.json"
    found: Any = read_json(path)
    known: MachineRecord | None = found
    wanted = request.get("python", "")
    named, wanted = wanted, str(Path(wanted).expanduser()) if wanted else ""
    if known and not request.get("again") and _still_true(known, named):
        known["done_before"] = True
        return known
    ensure(STATE)
    login_path, candidates = _candidates()
    if wanted:
        candidates = [shutil.which(wanted, path=login_path) or wanted]
    best = _best(candidates)
    if best is None:
        raise GuestError(
            "conflict",
            f"{wanted or 'python3'} does not run on this machine.",
            "Name another one: python in the target's table of vmctl.toml",
        )
    added: list[str] = []
    trouble = ""
    lacking = [name for name in SMALL if name not in best["found"]]
    if lacking and "torch" in best["found"] and not on_server:
        added, trouble = _fill(best["python"], lacking)
        best = max([best, *filter(None, [_probe(str(VENV / "bin/python"))])], key=_worth)
    record: MachineRecord = {
        "python": best["python"],
        "version": best["version"],
        "missing": [name for name in WANTED if name not in best["found"]],
        "signature": _signature(best["python"]),
        "login_path": login_path,
        "wanted": named,
        "added": added,
        "trouble": trouble,
    }
    _shim(best["python"])
    write_json(path, record)
    return {**record, "done_before": False}


def _still_true(known: MachineRecord, named: str) -> bool:
    if known.get("wanted", "") != named or known.get("missing"):
        return False
    return known.get("signature") == _signature(str(known.get("python", "")))


def _signature(python: str) -> list[int]:
    """Changes when the interpreter is replaced or a package is installed for it."""
    try:
        real = Path(python).stat()
    except OSError:
        return []
    return [real.st_ino, real.st_size, int(real.st_mtime)]


def _worth(found: dict[str, Any]) -> tuple[bool, int]:
    return "torch" in found["found"], len(found["found"])


def _best(candidates: list[str]) -> dict[str, Any] | None:
    """The interpreter that imports the most; the first that imports everything ends the search."""
    probed = []
    for found in filter(None, map(_probe, candidates)):
        if len(found["found"]) == len(WANTED):
            return found
        probed.append(found)
    return max(probed, key=_worth, default=None)


def _candidates() -> tuple[str, list[str]]:
    """The login shell's PATH, and every interpreter worth asking, the first preferred."""
    login_path, by_login = os.environ.get("PATH", os.defpath), []
    try:
        answer = subprocess.run(
            ["/bin/bash", "-lc", LOGIN],
            stdin=subprocess.DEVNULL,  # some images ask a question at login
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        ).stdout
        lines = [line[2:] for line in answer.splitlines() if line.startswith("@@")]
        if lines:
            login_path, by_login = lines[0], lines[1:]
    except (OSError, subprocess.TimeoutExpired):
        pass
    places = [str(VENV / "bin/python"), *by_login, *PLACES, sys.executable]
    usable = [place for place in places if place and os.access(place, os.X_OK)]
    return login_path, list(dict.fromkeys(usable))


def _probe(python: str) -> dict[str, Any] | None:
    try:
        answer = subprocess.run(
            [python, "-c", PROBE, *WANTED],
            cwd="/",  # a project's file must not pass for a module
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIMIT_S,
            check=False,
        )
        found: dict[str, Any] = json.loads(answer.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return {**found, "python": python}


def _fill(python: str, lacking: list[str]) -> tuple[list[str], str]:
    """Add small packages in an environment that sees the image's own; torch is never touched."""
    steps = (
        [python, "-m", "venv", "--system-site-packages", str(VENV)],
        [str(VENV / "bin/python"), "-m", "pip", "install", "--quiet", *lacking],
    )
    for step in steps:
        try:
            done = subprocess.run(
                step,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=INSTALL_LIMIT_S,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return [], str(error)
        if done.returncode != 0:
            lines = (done.stderr or done.stdout).strip().splitlines()
            return [], lines[-1] if lines else f"{step[0]} failed"
    return lacking, ""


def _shim(python: str) -> None:
    """Where the interpreter's own folder has no `python`, ~/.vmctl/bin has one."""
    shims = ensure(STATE / "bin")
    for name in ("python", "python3"):
        shim = shims / name
        if (Path(python).parent / name).exists():
            shim.unlink(missing_ok=True)
            continue
        script = f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n'
        write_bytes(shim, script.encode(), mode=0o755, sync=False)
