"""A tunnel to a port or a service of the VM that reconnects by itself."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import (
    Conflict,
    HostKeyChanged,
    TimedOut,
    Unreachable,
    VmctlError,
)
from vmctl.domain.events import Advanced, Finished, Info, Started, Story, UrlReady, Warned
from vmctl.domain.login.ssh_target import Endpoint
from vmctl.domain.runs.tunnel import Forwarding, parse_forwarding, url
from vmctl.domain.text import last_lines
from vmctl.guest.protocol import SERVICE_STATE
from vmctl.ssh import rpc
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.ssh.tunnel import local_ports
from vmctl.ssh.tunnel.forward import Forward, LibraryAbsent
from vmctl.ssh.tunnel.local_proxy import LocalProxy
from vmctl.workflows.session.address_poller import AddressPoller, ReconnectRoute
from vmctl.workflows.session.session import cached_target, connect
from vmctl.workflows.tunnels.job_service import LOOK_S as JOB_LOOK_S
from vmctl.workflows.tunnels.job_service import JobService, is_in_job, start_in_job
from vmctl.workflows.tunnels.registry import RECONNECTING, UP, OwnRecord, open_tunnels

if TYPE_CHECKING:
    from vmctl.guest.messages import ServiceName, ServiceRequest

STEP = "tunnel"
OPEN_S = 15.0
HTTP_LIMIT_S = 90.0  # Jupyter's first start on a slow disk
HTTP_GAP_S = 0.15
LOOK_S = 1.0  # how often a starting service is asked whether it still lives
LOST = "The tunnel's connection was lost; reconnecting"


def tunnel(
    project: Project,
    what: str,
    port: int | None = None,
    *,
    any_port: bool = False,
    background: bool = False,
    clock: Clock | None = None,
) -> Story[None]:
    """Reach a service or port of the VM at 127.0.0.1 here; UrlReady has the URL.

    A service is started when it is not running and has answered HTTP before its URL is.
    Then the tunnel is kept up until the story is closed: over lost links, sleep, stops and starts
    of the VM, new addresses. The local port stays open all the time. Ends with an error only when
    the VM no longer exists.
    """
    clock = clock or Clock()
    services = [(service.name, service.port) for service in project.services.values()]
    forwarding = parse_forwarding(what, services, port)
    local = LocalProxy(_listen(forwarding.local_port, any_port))
    record: OwnRecord | None = None
    try:
        forwarding = replace(forwarding, local_port=local.port)
        record = OwnRecord(project, forwarding, background=background)
        yield from _Tunnel(project, forwarding, local, record, clock).story(what)
    finally:
        local.close()
        if record is not None:
            record.close()


def _listen(port: int, any_port: bool) -> Any:
    """The local port; a port that another tunnel holds is named with that tunnel's URL."""
    if any_port:
        return local_ports.listen_from(port)
    try:
        return local_ports.listen(port)
    except Conflict as error:
        held = next((found for found in open_tunnels() if found.local_port == port), None)
        if held is None:
            raise
        at = f" It answers at {held.url}." if held.url else ""
        raise Conflict(
            f"Port {port} is taken by your tunnel to {held.what} of {held.vm} "
            f"(process {held.pid}).{at}",
            hint=f"Close it: vmctl tunnel stop {port}\n"
            f"Or use the next free one: --port {local_ports.next_free(port)} (or --port auto)",
        ) from error


class _Tunnel:
    """One tunnel's life: connect, wait for the service, watch, reconnect."""

    def __init__(
        self,
        project: Project,
        forwarding: Forwarding,
        local: LocalProxy,
        record: OwnRecord,
        clock: Clock,
    ) -> None:
        self.project = project
        self.forwarding = forwarding
        self.local = local
        self.record = record
        self.clock = clock
        self.token = ""
        self.job: JobService | None = None
        self._forward: Forward | None = None
        self._last: Endpoint  # the endpoint that was tried last
        self._note = ""

    def story(self, what: str) -> Story[None]:
        """See `tunnel`."""
        forwarding = self.forwarding
        try:
            session = yield from connect(self.project, clock=self.clock, verify=True)
            if is_in_job(self.project, forwarding.service):
                self.job = yield from start_in_job(
                    self.project, session, forwarding.service, self.clock
                )
                forwarding = self._lead_to(self.job)
            yield Started(STEP, f"Opening the tunnel to {what}")
            began = self.clock.monotonic()
            try:
                yield from self._connect_first(session.ssh)
            except LinkLost:
                yield Warned(LOST)
                yield from self._reconnect()
            leads = f"127.0.0.1:{forwarding.local_port} leads to port {forwarding.remote_port}"
            where = self.job.host if self.job else "the VM"
            yield Finished(STEP, f"{leads} of {where}", self.clock.monotonic() - began)
            if not forwarding.service and not self._is_listening():
                yield Warned(f"Nothing listens on port {forwarding.remote_port} of the VM yet")
            self._record_up()
            yield UrlReady(url(forwarding, self.token))
            while True:
                yield from self._watch()
                lost_at = self.clock.monotonic()
                yield Warned(LOST)
                yield from self._reconnect()
                self._record_up()
                yield Info(f"The tunnel reconnected after {self.clock.monotonic() - lost_at:.1f} s")
        finally:
            self._disconnect()

    def _watch(self) -> Story[None]:
        """Until the connection is lost, or the job serves elsewhere."""
        assert self._forward is not None
        look_at = self.clock.monotonic() + JOB_LOOK_S
        while self._forward.alive(LOOK_S):
            if self.job is not None and self.clock.monotonic() > look_at:
                look_at = self.clock.monotonic() + JOB_LOOK_S
                with contextlib.suppress(Unreachable):  # the forward itself notices
                    found = self.job.look(self._forward.ssh)
                    if found != self.job:
                        self._lead_to(found)
                        break
            if not self.local.is_alive:
                raise VmctlError(
                    f"Local port {self.local.port} is no longer served.",
                    hint=f"Open it again: vmctl tunnel {self.forwarding.what}",
                )
            yield Advanced(STEP)  # a moment in which the consumer may close us
        self._disconnect()

    def _lead_to(self, job: JobService) -> Forwarding:
        """From the next connection on to where the job serves now."""
        self.job, self.token = job, job.token
        self.forwarding = replace(self.forwarding, host=job.host, remote_port=job.port)
        return self.forwarding

    def _connect_first(self, ssh: OpenSSH) -> Story[None]:
        """The first connection: whatever is wrong with the service is an error now."""
        try:
            self._connect(ssh, OPEN_S)
        except HostKeyChanged as error:
            # another machine may have the cached address of the VM now
            try:
                session = yield from connect(self.project, clock=self.clock, fresh=True)
            except VmctlError:
                raise error from None
            self._connect(session.ssh, OPEN_S)
        except Unreachable as error:
            raise LinkLost from error
        if self.forwarding.service:
            yield from self._wait_for_http()
        self._open_port()

    def _connect(self, ssh: OpenSSH, timeout_s: float) -> bool:
        """A new connection; whether the service on the VM had to be started.

        Nothing is led there yet.
        """
        local = self.local
        path = self.record.new_socket()
        self._last = ssh.target
        self._forward = Forward(ssh, self.forwarding, path, lambda: (local.received, local.sent))
        request = self._service_request()
        try:
            try:
                answer = self._forward.open(timeout_s, request)
            except LibraryAbsent:
                rpc.install(ssh)
                answer = self._forward.open(timeout_s, request)
        except BaseException:
            self._disconnect()
            raise
        self.token = answer["token"] if answer else self.token
        return bool(answer and answer["started"])

    def _open_port(self) -> None:
        assert self._forward is not None
        self.local.retarget(str(self._forward.path))

    def _disconnect(self) -> None:
        self.local.retarget("")
        if self._forward is not None:
            self._forward.close()
            self._forward = None

    def _record_up(self) -> None:
        self.record.update(UP, url=url(self.forwarding, self.token))

    def _service_request(self) -> ServiceRequest | None:
        """What the VM is asked so that the service runs; None for a bare port, or a job's."""
        if not self.forwarding.service or self.job is not None:
            return None
        settings = self.project.services[self.forwarding.service]
        return {
            "project": self.project.name,
            "name": settings.name,
            "command": settings.command,
            "port": settings.port,
            "directory": settings.directory,
            "token": settings.token,
        }

    # -- reconnecting ------------------------------------------------------------------------

    def _reconnect(self) -> Story[None]:
        """Lead to the VM again, however long it takes; one that no longer exists ends the tunnel.

        The cached address is tried again and again; meanwhile the API is asked now and then,
        because the VM may have another address, or none. Another command of this computer that
        has reached the VM (`vmctl up`) is followed at once.
        """
        self.record.update(RECONNECTING)
        self._note = ""
        poller = AddressPoller(self.project, self.clock)
        route = ReconnectRoute(self._last)
        try:
            while True:
                note = route.update(poller.latest(), cached_target(self.project))
                if route.try_connect(self.clock):
                    try:
                        yield from self._try_again(route)
                        return
                    except HostKeyChanged as error:
                        route.distrust()
                        note = error.message
                    except LinkLost:
                        note = "the connection was lost again"
                    except VmctlError as error:
                        note = error.message
                    poller.poll_now()
                    route.back_off(self.clock)
                yield self._not_yet(note)
        finally:
            poller.close()
            route.close()

    def _try_again(self, route: ReconnectRoute) -> Story[None]:
        """One try to connect again; a service that does not come back is waited for no longer."""
        started = self._connect(OpenSSH(route.target), route.patience_s)
        if started:
            try:
                yield from self._wait_for_http()
            except (Conflict, TimedOut) as error:
                yield Warned(error.message)
        self._open_port()

    def _not_yet(self, note: str) -> Advanced:
        """A line where there is news, else a moment in which the consumer may close us."""
        if not note or note == self._note:
            return Advanced(STEP)
        self._note = note
        self.record.update(RECONNECTING, note=note)
        return Advanced(STEP, f"Not reconnected yet: {note}")

    # -- the service -------------------------------------------------------------------------

    def _wait_for_http(self) -> Story[None]:
        """Wait until the service answers HTTP; raises LinkLost, and for one that died its words."""
        assert self._forward is not None
        forward, name = self._forward, self.forwarding.service
        request: ServiceName = {"name": name}
        log = f"vmctl exec cat '~/.vmctl/services/{name}/log'"
        if self.job is not None:
            request["run"], log = self.job.run_id, f"vmctl logs {self.job.run_id}"
        limit = self.clock.monotonic() + HTTP_LIMIT_S
        look_at = self.clock.monotonic() + LOOK_S
        yield Advanced(STEP, f"Waiting for {name} to answer")
        while not forward.answers_http():
            if not forward.alive(HTTP_GAP_S):
                self._disconnect()
                raise LinkLost
            now = self.clock.monotonic()
            if now < look_at:
                continue
            look_at = now + LOOK_S
            try:
                state = rpc.call(forward.ssh, SERVICE_STATE, request)
            except Unreachable:
                continue  # whether the link is lost, the forward itself knows
            if not state["running"]:
                raise _service_ended(name, str(state["tail"]))
            if now > limit:
                raise TimedOut(
                    f"{name} has not answered on the VM after {HTTP_LIMIT_S:g} s: "
                    f"{last_lines(str(state['tail']))}",
                    hint=f"Its log: {log}",
                )
            yield Advanced(STEP)

    def _is_listening(self) -> bool:
        """Whether a program of the VM listens on the port, asked without disturbing it."""
        assert self._forward is not None
        # /proc/net/tcp: the local address and port in hex, then the remote one, then 0A for LISTEN
        row = f": [0-9A-F]*:{self.forwarding.remote_port:04X} [0-9A-F]*:0000 0A "
        asked = command("grep", "-qs", row, "/proc/net/tcp", "/proc/net/tcp6")
        try:
            return self._forward.ssh.run(asked).code == 0
        except Unreachable:
            return True  # the tunnel itself notices that


class LinkLost(Exception):
    """The connection ended before the tunnel was up."""


def _service_ended(service: str, tail: str) -> VmctlError:
    hint = f"Fix [services.{service}] in vmctl.toml, then: vmctl tunnel {service}"
    if "command not found" in tail:
        hint = 'Install it on the VM (vmctl ssh), or use a VM with image = "pytorch".'
    return Conflict(
        f"{service} ended as soon as it was started: {last_lines(tail) or 'it printed nothing'}",
        hint=hint,
    )
