"""A service that computes, inside a job of a cluster: submitted, waited for, found on its node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput
from vmctl.domain.events import Advanced, Info, RunStarted, Story
from vmctl.domain.runs.run import RunState, choose, observe
from vmctl.domain.text import last_lines
from vmctl.guest.protocol import SERVICE, SERVICE_STATE
from vmctl.ssh import rpc

if TYPE_CHECKING:
    from vmctl.guest.messages import ServiceName, ServiceRequest, StartRequest
    from vmctl.ssh.session.openssh import OpenSSH
    from vmctl.workflows.session.session import Session

STEP = "tunnel"
POLL_S = 1.0  # the helper asks the cluster's queue less often
LOOK_S = 10.0  # how often we look whether the job goes on, and where


@dataclass(frozen=True, slots=True)
class JobService:
    """Where it listens, as the login node reaches it, and the run that carries it."""

    run_id: str
    name: str
    host: str
    port: int
    token: str

    def look(self, ssh: OpenSSH) -> JobService:
        """It, at another address where Slurm started its job anew; Conflict once that has ended."""
        request: ServiceName = {"name": self.name, "run": self.run_id}
        state = rpc.call(ssh, SERVICE_STATE, request)
        if not state["running"]:
            raise _ended(self.name, self.run_id, str(state["tail"]))
        return _find(ssh, self.run_id, self.name) or self


def is_in_job(project: Project, service: str) -> bool:
    """Whether a service computes, which on a cluster's login node nobody may."""
    on_cluster = project.target is not None and project.target.kind == "slurm"
    return on_cluster and bool(service) and project.services[service].token


def start_in_job(
    project: Project, session: Session, service: str, clock: Clock
) -> Story[JobService]:
    """Submit it unless its job waits or runs already, and wait until it knows where it listens."""
    from vmctl.workflows.runs.slurm_backend import SlurmBackend, pending_text

    settings = project.services[service]
    if "{ip}" not in settings.command or "{port}" not in settings.command:
        raise InvalidInput(
            f"The command of {service} has no place for where it listens.",
            hint=f"In [services.{service}] of vmctl.toml, write {{ip}} and {{port}} where it takes "
            "its address and its port, such as: --ip {ip} --port {port}",
        )
    request: StartRequest = {
        "project": project.name,
        "job": service,
        "directory": settings.directory,
        "command": settings.command,
        "args": [],
        "setup": [],
        "env": {},
        "outputs": [],
        "serves": True,
    }
    backend = SlurmBackend(project, session, clock)
    run_id, existing = yield from backend.start(request, None)
    yield RunStarted(run_id, f"{run_id} is there already" if existing else f"Submitted {run_id}")
    said = ""
    while True:
        facts = choose(backend.list_runs(), run_id)
        state = observe(facts)
        if state.is_over:
            name: ServiceName = {"name": service, "run": run_id}
            raise _ended(service, run_id, str(rpc.call(session.ssh, SERVICE_STATE, name)["tail"]))
        if state is RunState.RUNNING:
            found = _find(session.ssh, run_id, service)
            if found is not None:
                yield Info(f"{service} runs in job {facts.job_id} on {found.host}")
                return found
        elif state is RunState.PENDING and pending_text(facts) != said:
            said = pending_text(facts)
            yield Info(said)
        clock.sleep(POLL_S)
        yield Advanced(STEP)


def _find(ssh: OpenSSH, run_id: str, name: str) -> JobService | None:
    """Where the service listens, once its run has said so."""
    where: ServiceRequest = {
        "project": "",
        "name": name,
        "command": "",
        "port": 0,
        "directory": "",
        "token": True,
        "run": run_id,
    }
    found = rpc.call(ssh, SERVICE, where)
    if not found.get("port"):
        return None
    return JobService(run_id, name, found["host"], found["port"], found["token"])


def _ended(service: str, run_id: str, tail: str) -> Conflict:
    return Conflict(
        f"The job of {service} has ended: {last_lines(tail) or 'it printed nothing'}",
        hint=f"Its log: vmctl logs {run_id}; again: vmctl tunnel {service}",
    )
