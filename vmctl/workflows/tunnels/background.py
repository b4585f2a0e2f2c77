"""The tunnels that are open: listed, opened in the background, closed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain import errors
from vmctl.domain.errors import InvalidInput, VmctlError
from vmctl.domain.events import Advanced, Finished, Info, Started, Story
from vmctl.domain.runs.tunnel import parse_forwarding
from vmctl.domain.text import last_lines
from vmctl.workflows.tunnels.registry import UP, TunnelRecord, end, log_file, open_tunnels

STEP = "tunnel"
POLL_S = 0.05
ALL = "all"
SUPERVISE = "--supervise"


def tunnels() -> list[TunnelRecord]:
    """Every tunnel of this user's, of all projects, by local port."""
    return open_tunnels()


def stop(
    project: Project, which: str | None, *, clock: Clock | None = None
) -> Story[list[TunnelRecord]]:
    """Close the project's tunnels, one of them, the one at a local port, or all of every project.

    A tunnel that is not open is not an error. The services on the VM keep running.
    """
    clock = clock or Clock()
    found = [record for record in open_tunnels() if _is_meant(record, project, which)]
    for record in found:
        yield Started(STEP, f"Closing the tunnel {record.leads}")
        end(record, clock)
        yield Info(f"The tunnel to {record.what} of {record.vm} is closed")
    return found


def _is_meant(record: TunnelRecord, project: Project, which: str | None) -> bool:
    if which == ALL:
        return True
    if which is not None and which == str(record.local_port):
        return True
    if (record.project, record.vm, record.local) != (
        project.name,
        project.instance_name,
        project.local,
    ):
        return False
    if which is None:
        return True
    services = [(service.name, service.port) for service in project.services.values()]
    return record.what == parse_forwarding(which, services, None).what


def background(
    project: Project,
    what: str,
    port: int | None = None,
    *,
    any_port: bool = False,
    clock: Clock | None = None,
) -> Story[TunnelRecord]:
    """Open a tunnel that outlives this terminal; returns when its URL answers.

    One that is open already is kept. Raises what the tunnel itself would raise.
    """
    clock = clock or Clock()
    services = [(service.name, service.port) for service in project.services.values()]
    wanted = parse_forwarding(what, services, port)
    for record in open_tunnels():
        is_same = _is_meant(record, project, wanted.what) and record.what == wanted.what
        fits = any_port or record.local_port == wanted.local_port
        if is_same and fits and record.background and record.url:
            yield Info(f"It is already open in the background (process {record.pid})")
            return record
    began = clock.monotonic()
    yield Started(STEP, f"Opening the tunnel to {what} in the background")
    log = log_file(project, wanted.what)
    child = _start(project, what, _port_word(port, any_port), log)
    ready = False
    try:
        shown = 0
        while True:
            for record in open_tunnels():
                if record.pid == child.pid and record.state == UP:
                    ready = True
                    seconds = clock.monotonic() - began
                    yield Finished(STEP, f"{record.leads}, in the background", seconds)
                    return record
            ended = child.poll() is not None
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
            for line in lines[shown:]:
                if line.startswith("… "):
                    yield Advanced(STEP, line.removeprefix("… "))
            shown = len(lines)
            if ended:
                raise _failure(lines, log)
            clock.sleep(POLL_S)
            yield Advanced(STEP)
    finally:
        if not ready and child.poll() is None:
            child.terminate()
            child.wait()


def _port_word(port: int | None, any_port: bool) -> list[str]:
    if any_port:
        return ["--port", "auto"]
    return [] if port is None else ["--port", str(port)]


def _start(project: Project, what: str, port: list[str], log: Path) -> subprocess.Popen[bytes]:
    """The same program again, detached: its own session, its words in a log, its URL in none."""
    where = "--local" if project.local else "--cloud"
    on = ["--on", project.target.name] if project.target is not None else []
    words = ["--name", project.name, where, *on, "--json", "tunnel", what, *port, SUPERVISE]
    with log.open("wb") as file:
        log.chmod(0o600)
        return subprocess.Popen(
            # -P: a file of the project's must not stand in for a module
            [sys.executable, "-P", "-m", "vmctl", *words],
            cwd=project.root,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=file,
            start_new_session=True,
        )


def _failure(lines: list[str], log: Path) -> VmctlError:
    """The error with which the tunnel in the background ended, from its log.

    Raises OSError itself where the log's disk is full.
    """
    for line in reversed(lines):
        try:
            record = json.loads(line)
            kind = getattr(errors, record["error"], VmctlError)
            return _to_error(kind, record["message"], record["hint"])
        except (ValueError, KeyError, TypeError):
            continue
    words = last_lines("\n".join(lines), 3)
    if not words:  # it could not even write why, if the disk is full
        with log.open("ab") as file:
            file.write(b"\n")
    return VmctlError(f"The background tunnel ended: {words}", hint=f"Its log: {log}")


def _to_error(kind: object, message: str, hint: str) -> VmctlError:
    known = isinstance(kind, type) and issubclass(kind, VmctlError)
    made = kind if known and kind is not errors.JobFailed else VmctlError
    error: VmctlError = made(message, hint=hint)  # type: ignore[operator]
    return error


def refuse_second_word(what: str, which: str | None) -> None:
    """`vmctl tunnel X Y` means nothing."""
    if which is not None:
        raise InvalidInput(
            f"One tunnel at a time: '{which}' stands after '{what}'.",
            hint=f"Such as: vmctl tunnel {what}, or: vmctl tunnel stop {what}",
        )
