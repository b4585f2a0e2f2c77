"""`up`, `status` and `doctor` on a server: what is there is looked at, nothing is started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, VmctlError
from vmctl.domain.events import Finished, Started, Story
from vmctl.domain.machine.server import ServerStatus, check_server, parse_status
from vmctl.domain.readiness.checks import SERVER_CHECKS, Check, CheckResult, CheckStatus, Checkup
from vmctl.domain.settings.target_settings import SLURM
from vmctl.guest.protocol import SERVER
from vmctl.ssh import rpc
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.session.server import open_server

if TYPE_CHECKING:
    from vmctl.domain.settings.target_settings import TargetSettings
    from vmctl.guest.machine.messages import ServerRequest


def status(project: Project, target: TargetSettings) -> ServerStatus:
    """What the server has now, and who uses it."""
    return parse_status(target.name, target.address, _ask(open_server(target), project, False))


def check(project: Project, target: TargetSettings, clock: Clock | None = None) -> Story[Checkup]:
    """Look at each thing that a job needs there, in the order in which it is needed."""
    clock = clock or Clock()
    findings: list[CheckResult] = []
    try:
        began = clock.monotonic()
        yield Started("ssh", f"Connecting to {target.address}")
        ssh = open_server(target, verify=True)
        took = clock.monotonic() - began
        yield Finished("ssh", f"{target.address} answers", took)
        findings.append(CheckResult.ok(Check.SSH, f"{target.address} answers"))
    except VmctlError as error:
        findings.append(CheckResult.of(Check.SSH, error))
        return _checkup(project, findings)
    try:
        yield from prepare_machine(ssh, clock=clock)
        yield Started("server", "Looking at the driver, torch and the disk")
        reply = _ask(ssh, project, True)
    except VmctlError as error:
        findings.append(CheckResult.of(Check.PYTHON, error))
        return _checkup(project, findings)
    found = parse_status(target.name, target.address, reply)
    findings += check_server(found, reply)
    return _checkup(project, findings)


def bring_up(project: Project, target: TargetSettings) -> Story[Checkup]:
    """`up` on a server: its checks; raises the first thing without which nothing runs."""
    found = yield from check(project, target)
    for finding in found.findings:
        if finding.status is CheckStatus.BROKEN:
            error = Conflict(f"{finding.check}: {finding.message}", hint=finding.fix)
            error.evidence = [f"{one.check}: {one.message}" for one in found.findings]
            raise error
    return found


def _checkup(project: Project, findings: list[CheckResult]) -> Checkup:
    ready = all(finding.status is not CheckStatus.BROKEN for finding in findings)
    done = {finding.check for finding in findings}
    findings += [
        CheckResult(check, CheckStatus.SKIPPED, f"fix {findings[-1].check} first")
        for check in SERVER_CHECKS
        if check not in done
    ]
    return Checkup(project.name, False, None, ready, tuple(findings))


def _ask(ssh: OpenSSH, project: Project, with_torch: bool) -> Any:
    is_cluster = project.target is not None and project.target.kind == SLURM
    request: ServerRequest = {
        "project": project.name,
        "torch": with_torch,
        "slurm": is_cluster,
    }
    return rpc.call(ssh, SERVER, request)
