"""Runs: one directory each under ~/.vmctl/runs, a tmux session of the same name while it lasts."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import time
from pathlib import Path

from .. import tmux
from ..paths import RUNS, STATE, ensure, workspace
from ..protocol import GuestError
from ..records import locked, read_json, write_json
from ..tmux import sessions, start_session
from . import job_environment, snapshot
from .run_tree import run_directories

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from ..messages import (
        CancelReply,
        ProjectRequest,
        Refusal,
        RunRecord,
        RunRequest,
        RunsReply,
        SlurmRequest,
        StartReply,
        StartRequest,
    )

# what makes two requests the same run
SAME = ("project", "job", "directory", "command", "args", "setup", "outputs", "installs")
CANCEL_S = 15.0


def start(request: StartRequest) -> StartReply:
    """Start a job, or name the run of it that goes on already with the very same request.

    The answer comes when the run has its snapshot: what is pushed from then on is not its code.
    """
    from . import runner  # noqa: F401  fails here if what will carry the run cannot be imported

    machine = read_json(STATE / "machine.json")
    if machine is None or machine.get("wanted", "") != request.get("python", ""):
        return {"unprepared": True}
    root = workspace(request["project"])
    slurm = request.get("slurm")
    folder = root / request["directory"]
    needs = [request["directory"], *request.get("needs", [])]
    missing = [path for path in needs if not (root / path).exists()]
    if missing or not folder.is_dir():
        named = f"~/Workspace/{request['project']}/{[*missing, request['directory']][0]}"
        raise GuestError("not_found", f"{named.rstrip('/')} is not on the VM.", "vmctl push")
    ensure(RUNS)
    with locked(RUNS / ".lock") as lock:
        alive = alive_runs(fresh=slurm is not None)
        job_environment.tidy(alive)
        for directory in run_directories():
            if directory.name not in alive or (directory / "exit").exists():
                continue
            spec = read_json(directory / "spec.json") or {}
            if (spec.get("project"), spec.get("job")) != (request["project"], request["job"]):
                continue
            same = all(spec.get(key) == request.get(key) for key in SAME)
            if same and job_environment.is_same(spec.get("env"), request["env"]):
                return {"id": directory.name, "existing": True}
            raise GuestError(
                "conflict",
                f"{request['job']} is already running with other arguments ({directory.name}).",
                f"vmctl logs -f {request['job']}, or stop it: vmctl cancel {request['job']}",
            )
        snapshot.sweep(alive)
        run_id = _new_directory(request)
        try:
            if slurm is None:
                start_session(run_id, "job", run_id)
            else:
                slurm = {**slurm, "args": request["args"], "folder": str(folder)}
                refused = _submit(RUNS / run_id, slurm, lock)
                if refused is not None:
                    return {"refused": refused}
        except GuestError:
            job_environment.drop(RUNS / run_id)
            write_json(RUNS / run_id / "exit", {"code": 1, "ended_at": time.time()})
            raise
    return {"id": run_id, "existing": False}


def _submit(run: Path, slurm: SlurmRequest, lock: int) -> Refusal | None:
    """Hand a run to Slurm; why it refuses, and then nothing of the run is left."""
    from ..slurm.submission import NotTaken, submit

    try:
        submit(run, slurm, lock)
    except NotTaken as error:
        snapshot.discard(run)
        shutil.rmtree(run, ignore_errors=True)
        return error.refusal
    return None


def alive_runs(*, fresh: bool = False) -> set[str]:
    """The runs that go on: in a session here, or in Slurm's queue; `fresh`: as that is now."""
    if not (STATE / "slurm").is_dir():
        return sessions()
    from ..slurm import queue  # only where a job was ever handed to Slurm

    return sessions() | queue.alive(run_directories(), fresh=fresh)


def _new_directory(request: StartRequest) -> str:
    """A fresh directory with its spec and its snapshot, visible only when it is whole."""
    created = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(created))
    name = re.sub(r"[^A-Za-z0-9_-]", "_", request["job"])
    run_id = f"{name}-{stamp}-{secrets.token_hex(2)}"
    part = RUNS / f".{run_id}"
    part.mkdir(mode=0o700)
    try:
        (part / "log").touch(mode=0o600)
        job_environment.leave(part, request["env"])
        sealed = {"env": job_environment.seal(request["env"])}
        write_json(part / "spec.json", {**request, **sealed, "id": run_id, "created_at": created})
        slurm = request.get("slurm")
        own = slurm is not None and slurm["own"]
        if not own and not request.get("serves"):  # these work in the workspace itself
            snapshot.take(part, request)
        part.rename(RUNS / run_id)
    except BaseException:
        snapshot.discard(part)
        shutil.rmtree(part, ignore_errors=True)
        raise
    return run_id


def facts(directory: Path, alive: set[str], spec: dict[str, Any] | None = None) -> RunRecord:
    """What is there of one run, less the values of its environment.

    `alive` must have been read before: a session that ended meanwhile has written its `exit`.
    """
    spec = spec or read_json(directory / "spec.json") or {}
    job = None
    if (directory / "slurm.json").exists():
        from ..slurm import queue

        if directory.name not in alive:
            queue.settle(directory)
        job = queue.job_of(directory)
    try:
        log_bytes = (directory / "log").stat().st_size
    except OSError:
        log_bytes = 0
    shown = ("project", "job", "directory", "command", "args", "outputs", "created_at")
    return {
        "id": directory.name,
        "spec": {key: spec.get(key) for key in shown},
        "phase": read_json(directory / "phase"),
        "exit": read_json(directory / "exit"),
        "cancel_asked": (directory / "cancel").exists(),
        "session": directory.name in alive,
        "log_bytes": log_bytes,
        "now": time.time(),
        "slurm": job,
    }


def listing(request: ProjectRequest) -> RunsReply:
    """Every run of a project that is on this VM; of a cluster's home, those of its own kind."""
    alive = alive_runs()
    found: list[RunRecord] = []
    for directory in run_directories():
        spec = read_json(directory / "spec.json") or {}
        is_of_project = spec.get("project") in (request["project"], None)
        if not spec or (is_of_project and bool(spec.get("slurm")) == request.get("slurm", False)):
            found.append(facts(directory, alive, spec))
    return {"runs": found}


def cancel(request: RunRequest) -> CancelReply:
    """End a run: SIGTERM to its processes, SIGKILL if that does not help; can be repeated."""
    directory = RUNS / Path(request["id"]).name
    if not directory.is_dir():
        raise GuestError("not_found", f"There is no run {request['id']}.", "vmctl ps")
    already = (directory / "exit").exists() or directory.name not in alive_runs()
    if not already:
        (directory / "cancel").touch(mode=0o600)
        _terminate(directory)
    return {"already": already, "run": facts(directory, alive_runs())}


def _terminate(directory: Path) -> None:
    if (directory / "slurm.json").exists():
        from ..slurm.submission import cancel as cancel_job

        cancel_job(directory)
    else:
        _end_session(directory)
    if not (directory / "exit").exists():  # its runner died before it could write
        record = {"code": 143, "cancelled": True, "ended_at": time.time()}
        write_json(directory / "exit", record)


def _end_session(directory: Path) -> None:
    for pid in tmux.processes(directory.name):
        try:
            os.kill(pid, signal.SIGTERM)
        except ProcessLookupError:
            continue
    limit = time.monotonic() + CANCEL_S
    while time.monotonic() < limit and not (directory / "exit").exists():
        if directory.name not in sessions():
            break
        time.sleep(0.05)
    tmux.end_session(directory.name)
