"""`--print-gcloud`: what a command does, as gcloud, ssh, rsync and tmux lines; nothing is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vmctl.clock import Clock
from vmctl.cloud import price_table
from vmctl.cloud.client import LOCAL_PROJECT
from vmctl.cloud.compute.requests import insert_body
from vmctl.config import Project
from vmctl.domain.command import command
from vmctl.domain.errors import InvalidInput, VmctlError
from vmctl.domain.events import Info, Story
from vmctl.domain.gcloud import commands, instance_commands, vertex_commands
from vmctl.domain.gcloud.steps import Place, Step
from vmctl.domain.login.ssh_keys import key_entry
from vmctl.domain.machine.leftovers import firewall_description
from vmctl.domain.machine.zone_order import candidate_zones
from vmctl.domain.names import slug
from vmctl.domain.runs.tunnel import parse_forwarding, parse_port
from vmctl.files import atomic_write
from vmctl.folders import cache_dir
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.site import open_site
from vmctl.workflows.machine.request import MachineRequest, make_spec, parse_request
from vmctl.workflows.runs.run import job_named, request_of
from vmctl.workflows.session.shell import remote_line
from vmctl.workflows.sync.project_root import refuse_unfit_root
from vmctl.workflows.tunnels.background import refuse_second_word

if TYPE_CHECKING:
    from vmctl.domain.settings.job_settings import JobSettings
    from vmctl.domain.settings.vertex_settings import VertexSettings


@dataclass(frozen=True, slots=True)
class Equivalent:
    """The lines that do what a vmctl command does, in order."""

    command: str
    steps: tuple[Step, ...]
    environment: str = ""  # what points gcloud at the embedded Compute Engine

    @property
    def text(self) -> str:
        """A shell script."""
        steps = [step.text for step in self.steps]
        first = [f"# gcloud talks to the embedded Compute Engine\n{self.environment}"]
        return "\n\n".join([*(first if self.environment else []), *steps])


def of_up(project: Project, *, clock: Clock | None = None) -> Story[Equivalent]:
    """Creating the VM, starting it when it is stopped, and looking at its driver.

    Nobody is asked: zones are the shipped table's. The metadata items that are too long for a
    line are written to files in the cache folder. Raises InvalidInput for wrong settings.
    """
    yield from ()
    clock = clock or Clock()
    request = parse_request(project.vm, local=project.local)
    zones = _zones(project, request)
    expires_at = clock.now() + project.key_lifetime
    entry = key_entry(project.login_user, ensure_keypair().public_line, expires_at)
    plan = make_spec(project, request, zones[0], entry)
    metadata = {item["key"]: item["value"] for item in insert_body(plan)["metadata"]["items"]}
    files = {
        key: str(_store(key, text)) for key, text in instance_commands.long_values(metadata).items()
    }
    google = project.google_project or (LOCAL_PROJECT if project.local else "")
    place = _place(project, zones[0], google)
    steps = (
        *instance_commands.create(plan, metadata, files, google, zones[1:]),
        *instance_commands.start(place),
        *(instance_commands.check_gpu(place) if request.gpu else commands.login(place, "true")),
        *(_limit(project, place) if project.vm.restrict_ssh else ()),
    )
    return _make(project, "up", steps)


def _limit(project: Project, place: Place) -> tuple[Step, ...]:
    network = project.vm.network or "default"
    return instance_commands.restrict_ssh(place, network, firewall_description(project.owner))


def of_down(project: Project, delete: bool) -> Story[Equivalent]:
    """Stopping or deleting the VM."""
    place, ssd = yield from _find_place(project)
    if delete:
        return _make(project, "down", instance_commands.delete(place))
    return _make(project, "down", instance_commands.stop(place, has_local_ssd=ssd))


def of_push(project: Project) -> Story[Equivalent]:
    """Sending the folder to the VM; raises InvalidInput for a folder that cannot be a project."""
    refuse_unfit_root(project.root, project.file)
    if project.target is not None and project.target.vertex is not None:
        steps = vertex_commands.push(project.target.vertex, project.owner, project.name)
        return _make(project, "push", steps)
    place, _ = yield from _find_place(project)
    return _make(project, "push", commands.push(place, project.exclude))


def of_run(project: Project, job: str, args: Sequence[str]) -> Story[Equivalent]:
    """A job in tmux; raises NotFound for a job that vmctl.toml does not have."""
    known = job_named(project, job)
    if project.target is not None and project.target.vertex is not None:
        return _make(project, "run", _custom_job(project, project.target.vertex, known, args))
    place, _ = yield from _find_place(project)
    steps = commands.run(
        place,
        job=job,
        line=f"{known.command} {command(*args)}" if args else known.command,
        directory=known.directory,
        setup=known.steps[:-1],
        passed_on=known.env,
    )
    return _make(project, "run", steps)


def _custom_job(
    project: Project, settings: VertexSettings, job: JobSettings, args: Sequence[str]
) -> tuple[Step, ...]:
    from vmctl.domain.vertex.custom_job import job_body
    from vmctl.domain.vertex.storage_names import archive_name
    from vmctl.workflows.vertex.backend import program, request_for

    google = project.google_project or (LOCAL_PROJECT if project.local else "PROJECT")
    archive = archive_name(project.owner, project.name, "SHA256")
    request = request_for(project, request_of(project, job, args, {}), archive)
    name = f"{slug(job.name, 30)}-1"
    spec = job_body(request, settings, name, program(), google)["jobSpec"]
    config = _store(f"custom-job-{job.name}", json.dumps(spec, indent=1))
    return (
        *vertex_commands.push(settings, project.owner, project.name),
        *vertex_commands.run(settings, google, name, str(config)),
    )


def of_tunnel(
    project: Project, what: str, which: str | None, local_port: str | None
) -> Story[Equivalent]:
    """A service of the VM's, started and forwarded; raises NotFound, InvalidInput."""
    if what == "stop":
        raise InvalidInput(
            "`vmctl tunnel stop` has no equivalent in gcloud.", hint="Stop it: vmctl tunnel stop"
        )
    refuse_second_word(what, which)
    port, _ = parse_port(local_port)
    ports = [(name, service.port) for name, service in project.services.items()]
    forwarding = parse_forwarding(what, ports, port)
    service = project.services.get(forwarding.service or "")
    place, _ = yield from _find_place(project)
    steps = commands.tunnel(
        place,
        service=service.name if service else what,
        line=service.command.replace("{port}", str(forwarding.remote_port)) if service else "",
        directory=service.directory if service else "",
        local_port=forwarding.local_port,
        remote_port=forwarding.remote_port,
    )
    return _make(project, "tunnel", steps)


def of_fetch(project: Project, paths: Sequence[str], to: Path | None) -> Story[Equivalent]:
    """Files' way back; without paths the outputs of every job in vmctl.toml."""
    wanted = list(paths) or [
        f"{job.directory}/{path}".lstrip("/")
        for job in project.jobs.values()
        for path in job.outputs
    ]
    if not wanted:
        raise InvalidInput(
            "No job in vmctl.toml lists its outputs.", hint="Name them: vmctl fetch PATH"
        )
    if project.target is not None and project.target.vertex is not None:
        there = vertex_commands.fetch(
            project.target.vertex, project.owner, project.name, paths, str(to or ".")
        )
        return _make(project, "fetch", there)
    place, _ = yield from _find_place(project)
    steps = commands.fetch(place, wanted, f"{to or '.'}/")
    return _make(project, "fetch", steps)


def of_ssh(project: Project, words: Sequence[str]) -> Story[Equivalent]:
    """Logging in, or one command."""
    place, _ = yield from _find_place(project)
    line = remote_line(words) if words else None
    return _make(project, "ssh", commands.login(place, line))


def _make(project: Project, name: str, steps: tuple[Step, ...]) -> Equivalent:
    point = 'eval "$(vmctl --local emulator env)"' if project.local else ""
    return Equivalent(name, steps, point)


def _find_place(project: Project) -> Story[tuple[Place, bool]]:
    """Where the VM is, and if it has local SSDs; the settings' answer where nobody can tell."""
    try:
        site = yield from open_site(project)
        instance = site.find_vm()
    except VmctlError as error:
        yield Info(f"{error.message} The lines show the first zone that `vmctl up` would try.")
        google = project.google_project or "PROJECT"
    else:
        if instance is not None:
            found = _place(project, instance.zone, site.compute.project)
            hidden = not instance.external
            place = replace(found, through_iap=hidden, instance_id=instance.id)
            return place, instance.has_local_ssd
        yield Info("There is no VM yet: the lines show the first zone that `vmctl up` would try.")
        google = site.compute.project
    request = parse_request(project.vm, local=project.local)
    return _place(project, _zones(project, request)[0], google), request.machine.has_local_ssd


def _zones(project: Project, request: MachineRequest) -> tuple[str, ...]:
    gpu, machine = request.gpu, request.machine
    having = price_table.zones_with(gpu, machine.name) if gpu else price_table.zones()
    return candidate_zones(
        having,
        region=project.vm.region,
        zone=project.vm.zone,
        what=gpu.title if gpu else machine.name,
        known_zones=price_table.zones(),
    )


def _place(project: Project, zone: str, google_project: str) -> Place:
    return Place(
        name=project.instance_name,
        zone=zone,
        google_project=google_project,
        user=project.login_user,
        workspace=project.workspace,
        through_iap=not project.vm.external_address,
    )


def _store(key: str, text: str) -> Path:
    """A file with exactly this text, under the same name for the same text."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    path = cache_dir() / f"{key}-{digest}"
    if not path.exists():
        atomic_write(path, text)
    return path
