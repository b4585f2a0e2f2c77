"""A tunnel to a port or a service of the VM that comes back by itself."""

from __future__ import annotations

from typing import Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import AccessDenied, Conflict, NotFound, TimedOut, Unreachable, VmctlError
from vmctl.domain.events import Advanced, Finished, Noted, Ready, Started, Story, Warned
from vmctl.domain.probe import last_lines
from vmctl.domain.tunnel import Forwarding, backoff_s, parse_forwarding, url
from vmctl.ssh import guest
from vmctl.ssh.forward import Forward, answers_http, is_free, taken, wait_until_free
from vmctl.workflows.session import Session, connect

STEP = "tunnel"
OPEN_S = 15.0
HTTP_LIMIT_S = 90.0  # Jupyter's first start on a slow disk
HTTP_GAP_S = 0.15
LOOK_S = 1.0  # how often a starting service is asked whether it still lives
RELEASE_S = 3.0


def tunnel(
    project: Project,
    what: str,
    port: int | None = None,
    *,
    clock: Clock | None = None,
) -> Story[None]:
    """Reach a service or port of the VM at 127.0.0.1 here; Ready tells the URL.

    A service is started when it is not running and has answered HTTP before the URL is told.
    Then the tunnel is kept up until the story is closed: over lost links, stops and starts of
    the VM, new addresses. Ends with an error only when the VM is gone.
    """
    clock = clock or Clock()
    ports = [(service.name, service.port) for service in project.services.values()]
    forwarding = parse_forwarding(what, ports, port)
    if not is_free(forwarding.local_port):
        raise taken(forwarding.local_port)
    session = yield from connect(project, clock=clock)
    yield Started(STEP, f"Opening the tunnel to {what}")
    began = clock.monotonic()
    token = _ensure_service(project, session, forwarding)
    forward = Forward(session.ssh, forwarding)
    try:
        forward.open(OPEN_S)
        while forwarding.service and not (yield from _answers(session, forward, clock)):
            yield Warned("The tunnel's connection was lost; coming back by itself")
            forward.close()
            forward = yield from _come_back(project, forwarding, clock)
        seconds = clock.monotonic() - began
        leads = f"127.0.0.1:{forwarding.local_port} leads to port {forwarding.remote_port}"
        yield Finished(STEP, f"{leads} of the VM", seconds)
        if not forwarding.service and not _listens(session, forwarding.remote_port):
            yield Warned(f"Nothing listens on port {forwarding.remote_port} of the VM yet")
        yield Ready(url(forwarding, token))
        while True:
            while forward.alive(LOOK_S):
                # a moment in which the consumer may close us
                yield Advanced(STEP)
            lost_at = clock.monotonic()
            yield Warned("The tunnel's connection was lost; coming back by itself")
            forward.close()
            forward = yield from _come_back(project, forwarding, clock)
            yield Noted(f"The tunnel is back after {clock.monotonic() - lost_at:.1f} s")
    finally:
        forward.close()


def _come_back(project: Project, forwarding: Forwarding, clock: Clock) -> Story[Forward]:
    """A new connection, however long it takes; a VM that no longer exists ends the tunnel."""
    attempt, said = 0, ""
    while True:
        clock.sleep(backoff_s(attempt))
        attempt += 1
        forward: Forward | None = None
        try:
            # what was seen last may be an old address: the API is asked when it fails
            session = yield from connect(project, clock=clock)
            _ensure_service(project, session, forwarding)
            if not wait_until_free(forwarding.local_port, clock, RELEASE_S):
                raise taken(forwarding.local_port)
            forward = Forward(session.ssh, forwarding)
            forward.open(OPEN_S)
            return forward
        except NotFound:
            raise
        except (Unreachable, AccessDenied, Conflict, TimedOut) as error:
            if forward is not None:
                forward.close()
            if error.message != said:
                said = error.message
                yield Advanced(STEP, f"Not back yet: {said}")


def _ensure_service(project: Project, session: Session, forwarding: Forwarding) -> str:
    """Start the service unless it runs; returns its token, "" where it has none."""
    if not forwarding.service:
        return ""
    settings = project.services[forwarding.service]
    request: dict[str, Any] = {
        "project": project.name,
        "name": settings.name,
        "command": settings.command,
        "port": settings.port,
        "directory": settings.directory,
        "token": settings.token,
    }
    return str(guest.call(session.ssh, "service", request)["token"])


def _listens(session: Session, port: int) -> bool:
    """Whether a program of the VM listens on a port, asked without disturbing that program."""
    # /proc/net/tcp: the local address and port in hex, then the remote one, then 0A for LISTEN
    row = f": [0-9A-F]*:{port:04X} [0-9A-F]*:0000 0A "
    return session.ssh.run(command("grep", "-qs", row, "/proc/net/tcp", "/proc/net/tcp6")).code == 0


def _answers(session: Session, forward: Forward, clock: Clock) -> Story[bool]:
    """Wait until the service answers through the tunnel; False when the tunnel itself broke.

    A service that died tells why.
    """
    forwarding = forward.forwarding
    limit = clock.monotonic() + HTTP_LIMIT_S
    look_at = clock.monotonic() + LOOK_S
    yield Advanced(STEP, f"Waiting for {forwarding.service} to answer")
    while not answers_http(forwarding.local_port):
        if not forward.alive(HTTP_GAP_S):
            return False
        now = clock.monotonic()
        if now >= look_at:
            state = guest.call(session.ssh, "service-state", {"name": forwarding.service})
            if not state["running"]:
                raise _died(forwarding.service, str(state["tail"]))
            if now > limit:
                raise TimedOut(
                    f"{forwarding.service} has not answered on the VM after {HTTP_LIMIT_S:g} s: "
                    f"{last_lines(str(state['tail']))}",
                    hint=f"Its log: vmctl exec cat '~/.vmctl/services/{forwarding.service}/log'",
                )
            look_at = now + LOOK_S
    return True


def _died(service: str, tail: str) -> VmctlError:
    hint = f"Mend [services.{service}] in vmctl.toml, then: vmctl tunnel {service}"
    if "command not found" in tail:
        hint = 'Install it on the VM (vmctl ssh), or use a VM with image = "pytorch".'
    return Conflict(
        f"{service} ended as soon as it was started: {last_lines(tail) or 'it said nothing'}",
        hint=hint,
    )
