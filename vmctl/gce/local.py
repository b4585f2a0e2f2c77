"""The embedded Compute Engine as a process: found through its record, started when needed."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vmctl.clock import Clock
from vmctl.domain.errors import InvalidInput, TimedOut, Unreachable, VmctlError

START_LIMIT_S = 60.0
POLL_S = 0.03
DEBIAN_PACKAGES = "openssh-server bubblewrap slirp4netns iproute2 rsync tmux"


@dataclass(frozen=True, slots=True)
class Running:
    """An embedded Compute Engine that answers."""

    pid: int
    port: int
    project: str
    mode: str  # "sandbox", or "plain" where namespaces are not allowed
    note: str
    iap: str = ""  # where its Identity-Aware Proxy answers
    iap_certificate: str = ""
    iap_token: str = ""

    @property
    def endpoint(self) -> str:
        """The Compute API's base address."""
        return f"http://127.0.0.1:{self.port}/compute/v1/"


def home() -> Path:
    """The folder that holds its machines and its record."""
    chosen = os.environ.get("VMCTL_EMULATOR_HOME")
    if chosen:
        return Path(chosen).resolve()
    if os.geteuid() == 0:
        # its machines run under unprivileged users, who cannot pass through /root
        return Path("/var/lib/vmctl-emulator")
    import platformdirs

    return Path(platformdirs.user_data_dir("vmctl")) / "emulator"


def find(folder: Path) -> Running | None:
    """The one that serves this folder; None when none answers."""
    try:
        record = json.loads((folder / "emulator.json").read_text(encoding="utf-8"))
        running = Running(
            pid=int(record["pid"]),
            port=int(record["port"]),
            project=str(record.get("project", "vmctl-local")),
            mode=str(record.get("mode", "")),
            note=str(record.get("note") or ""),
            iap=str(record.get("iap") or ""),
            iap_certificate=str(record.get("iap_certificate") or ""),
            iap_token=str(record.get("iap_token") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # A record can outlive its process, and another folder's emulator may have its port by now.
    return running if (_ask_status(running.port) or {}).get("pid") == running.pid else None


def status(running: Running) -> dict[str, Any]:
    """What it says about itself; {} when it went away."""
    return _ask_status(running.port) or {}


def admin(running: Running, method: str, route: str, body: object = None) -> dict[str, Any]:
    """What its admin route answers; raises InvalidInput with its words when it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(
            method, f"/emulator/v1/{route}", data, {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        said = json.loads(response.read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise Unreachable(
            "The embedded Compute Engine does not answer.", hint="vmctl emulator status"
        ) from error
    finally:
        connection.close()
    if response.status != 200:
        message = str(said.get("error", {}).get("message", f"HTTP {response.status}"))
        raise InvalidInput(
            f"The embedded Compute Engine says: {message}", hint="See: vmctl emulator fault --help"
        )
    return dict(said)


def start(folder: Path, clock: Clock, time_kind: str | None = None) -> Running:
    """Start one as a program of its own and wait until it answers; one that runs is kept.

    `time_kind` is how its time passes: real (the default), scaled:RATE or stepped.
    Raises InvalidInput when a program that it needs is missing, VmctlError with the end of its
    log when it ends, TimedOut.
    """
    running = find(folder)
    if running:
        return running
    if not _which("sshd"):
        raise InvalidInput(
            "The embedded Compute Engine needs OpenSSH's server, which is not installed.",
            hint=f"sudo apt-get install -y {DEBIAN_PACKAGES}",
        )
    child = _spawn(folder, ["--clock", time_kind] if time_kind else [])
    deadline = clock.monotonic() + START_LIMIT_S
    ended_at: float | None = None
    while clock.monotonic() < deadline:
        running = find(folder)
        if running:
            return running
        if child.poll() is not None:
            # Another command may have started one at the same moment: then ours gives way.
            ended_at = ended_at or clock.monotonic()
            if clock.monotonic() - ended_at > 3 or child.returncode not in (0, 4):
                break
        clock.sleep(POLL_S)
    log = folder / "emulator.log"
    if child.poll() is None:
        raise TimedOut(
            f"The embedded Compute Engine did not answer within {START_LIMIT_S:g} s.",
            hint=f"Its log: {log}",
        )
    raise VmctlError(
        f"The embedded Compute Engine ended at its start: {_tail(log)}", hint=f"Its log: {log}"
    )


def stop(running: Running, folder: Path, clock: Clock, limit_s: float = 30.0) -> None:
    """Ask it to stop and wait until its process is gone; its machines' disks stay."""
    import signal

    try:
        os.kill(running.pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise InvalidInput(
            f"The embedded Compute Engine in {folder} is run by another user.",
            hint="Stop it as that user.",
        ) from error
    deadline = clock.monotonic() + limit_s
    while clock.monotonic() < deadline:
        if not _is_alive(running.pid):
            return
        clock.sleep(POLL_S)
    raise TimedOut(
        f"The embedded Compute Engine (process {running.pid}) did not stop in {limit_s:g} s.",
        hint=f"Its log: {folder / 'emulator.log'}",
    )


def _spawn(folder: Path, more: Sequence[str]) -> subprocess.Popen[bytes]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "emulator.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(folder), *more],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,  # neither the user's folder in use, nor a module of the user's found
                start_new_session=True,
            )
    except OSError as error:
        raise InvalidInput(
            f"The embedded Compute Engine cannot use {folder}: {error.strerror}.",
            hint="Set VMCTL_EMULATOR_HOME to a folder that you can write to.",
        ) from error


def _ask_status(port: int) -> dict[str, Any] | None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/emulator/v1/status")
        response = connection.getresponse()
        if response.status != 200:
            return None
        said = json.loads(response.read())
        return said if isinstance(said, dict) else None
    except (OSError, http.client.HTTPException, ValueError):
        return None
    finally:
        connection.close()


def _which(program: str) -> str | None:
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/sbin"
    return shutil.which(program, path=places)


def _is_alive(pid: int) -> bool:
    """Whether the process still runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return not Path("/proc/self/stat").exists()
    return state != "Z"


def _tail(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return lines[-1].strip() if lines else "it left no log"
