"""Web services on the VM: TensorBoard, Jupyter or the user's own, each in a tmux session."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from pathlib import Path

from .. import tmux
from ..paths import RUNS, STATE, ensure, python_path, workspace
from ..protocol import GuestError
from ..records import locked, read_json, write_bytes, write_json
from ..tmux import sessions, start_session

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from ..messages import ServiceName, ServiceReply, ServiceRequest, ServiceState

LOCAL = "127.0.0.1"
END_S = 10.0
TAIL_BYTES = 4000


def ensure_running(request: ServiceRequest) -> ServiceReply:
    """Start a service unless it runs with these very settings; answers its token."""
    name = Path(request["name"]).name
    if request.get("run"):
        return _where(RUNS / Path(request["run"]).name, name)
    folder = workspace(request["project"]) / request["directory"]
    if not folder.is_dir():
        raise GuestError("not_found", "The project's folder is not on the VM.", "vmctl push")
    place = ensure(STATE / "services" / name)
    with locked(place / ".lock"):
        token = token_of(place) if request["token"] else ""
        session = f"service-{name}"
        running = session in sessions()
        if running and read_json(place / "spec.json") != request:
            _end(session)
            running = False
        if not running:
            write_json(place / "spec.json", request)
            write_bytes(place / "log", b"")
            start_session(session, "serve", name)
    return {"started": not running, "token": token}


def state(request: ServiceName) -> ServiceState:
    """Whether the service's session is alive, and the end of what it wrote."""
    name, run = Path(request["name"]).name, RUNS / Path(request.get("run", "")).name
    if request.get("run"):
        from .runs import alive_runs  # only of a cluster's

        # an interrupted one that the queue still has is started anew
        ended = (read_json(run / "exit") or {"interrupted": True}).get("interrupted") is not True
        running = run.name in alive_runs() and not ended
    else:
        running, run = f"service-{name}" in sessions(), STATE / "services" / name
    try:
        written = (run / "log").read_bytes()[-TAIL_BYTES:]
    except OSError:
        written = b""
    return {"running": running, "tail": written.decode("utf-8", "replace")}


def serve(name: str) -> int:
    """Carry the service inside tmux until it ends; what it writes goes to its log."""
    place = STATE / "services" / name
    spec = read_json(place / "spec.json") or {}
    environment = dict(os.environ)
    environment |= {"PATH": python_path(), "PYTHONUNBUFFERED": "1"}
    environment.pop("TMUX", None)
    if spec["token"]:  # in a file: a process list shows arguments to everyone
        environment["JUPYTER_TOKEN_FILE"] = str(place / "token")
    line = str(spec["command"]).replace("{port}", str(spec["port"])).replace("{ip}", LOCAL)
    # a child, because tmux ends a pane whose terminal nobody holds open any more
    with (place / "log").open("ab") as log:
        return subprocess.call(
            ["/bin/bash", "-c", line],
            cwd=workspace(spec["project"]) / spec["directory"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )


def _where(run: Path, name: str) -> ServiceReply:
    """Where a run serves; its token alone until that is known."""
    found = read_json(run / "service.json")
    token = token_of(ensure(STATE / "services" / name))
    if found is None:
        return {"started": False, "token": token}
    return {"started": False, "token": token, "host": found["host"], "port": found["port"]}


def token_of(place: Path) -> str:
    """A service's token, made when there is none yet."""
    path = place / "token"
    try:
        if known := path.read_text():
            return known
    except OSError:
        pass
    made = secrets.token_hex(24)
    write_bytes(path, made.encode())
    return made


def _end(session: str) -> None:
    tmux.end_session(session)
    limit = time.monotonic() + END_S
    while session in sessions() and time.monotonic() < limit:
        time.sleep(0.05)
