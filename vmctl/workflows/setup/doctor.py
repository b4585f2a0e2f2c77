"""`vmctl doctor`: everything that `up` will need, looked at in the order in which it needs it.

Nothing is changed or requested. What cannot be checked because something before it is broken is
reported as not checked; the rest is checked anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

from vmctl.clock import Clock
from vmctl.cloud import credentials, emulator_process
from vmctl.cloud.compute import resources
from vmctl.cloud.compute.compute import Compute
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, InvalidInput, VmctlError
from vmctl.domain.events import Started, Story
from vmctl.domain.google.api_errors import Kind
from vmctl.domain.login.ssh_keys import OS_LOGIN_ITEM
from vmctl.domain.readiness.checks import (
    Check,
    CheckResult,
    CheckStatus,
    Checkup,
    check_programs,
    in_order,
)
from vmctl.folders import cache_dir, data_dir, runtime_dir
from vmctl.ssh.local_programs import installed
from vmctl.workflows.base.site import open_site
from vmctl.workflows.machine.request import MachineRequest, parse_request
from vmctl.workflows.setup.doctor_checks import check_project


def doctor(
    project: Project, trouble: VmctlError | None = None, *, clock: Clock | None = None
) -> Story[Checkup]:
    """Look at everything and return what was found; it raises nothing that `up` would say.

    `trouble` is what is wrong with the project's settings: then what does not depend on them is
    looked at, and `project` brings the rest.
    """
    clock = clock or Clock()
    findings: list[CheckResult] = []
    request = _check_settings(project, trouble, findings)
    yield Started("credentials", "Checking the credentials")
    found = _check_credentials(project, findings)
    compute: Compute | None = None
    if project.local or found is not None:
        yield Started("api", "Asking Compute Engine")
        compute = yield from _check_cloud(project, found, findings, clock)
    if compute is not None:
        yield from check_project(project, compute, request, findings, clock.now())
    findings += _check_programs(project)
    done = in_order(findings)
    return Checkup(
        project=project.name,
        local=project.local,
        google_project=compute.project if compute else None,
        ready=all(finding.status is not CheckStatus.BROKEN for finding in done),
        findings=done,
    )


def _check_settings(
    project: Project, trouble: VmctlError | None, findings: list[CheckResult]
) -> MachineRequest | None:
    if trouble is not None:
        findings.append(CheckResult.of(Check.SETTINGS, trouble))
        return None
    try:
        request = parse_request(project.vm, local=project.local)
    except VmctlError as error:
        findings.append(CheckResult.of(Check.SETTINGS, error))
        return None
    where = project.file.name if project.file else "no vmctl.toml, so the defaults: vmctl init"
    findings.append(CheckResult.ok(Check.SETTINGS, f"the project {project.name} ({where})"))
    return request


def _check_credentials(
    project: Project, findings: list[CheckResult]
) -> credentials.Identity | None:
    """The identity that Google accepts, proven by a token; None without one."""
    if project.local:
        findings.append(CheckResult.ok(Check.CREDENTIALS, "none are needed for --local"))
        return None
    try:
        found = credentials.find_credentials(project.google_project)
        credentials.prove(found)
    except VmctlError as error:
        findings.append(CheckResult.of(Check.CREDENTIALS, error))
        return None
    findings.append(CheckResult.ok(Check.CREDENTIALS, found.source))
    return found


def _check_cloud(
    project: Project, found: credentials.Identity | None, findings: list[CheckResult], clock: Clock
) -> Story[Compute | None]:
    """The project, the API and billing; None when one of them stands in the way."""
    try:
        compute = (yield from open_site(project, clock)).compute
    except InvalidInput as error:
        check = Check.API if project.local else Check.PROJECT
        findings.append(CheckResult.of(check, error))
        return None
    except VmctlError as error:
        findings.append(CheckResult.of(Check.API, error))
        return None
    asked = CheckResult.ok(Check.PROJECT, f"{compute.project} ({_project_origin(project, found)})")
    try:
        shared = resources.project_metadata(compute)
        compute.zones()  # without billing Google may still describe the project, and no more
    except VmctlError as error:
        findings += _classify_refusal(error, asked)
        return None
    findings.append(asked)
    if project.local:
        findings += _check_embedded()
        findings.append(CheckResult.ok(Check.BILLING, "--local costs nothing"))
    else:
        message = "Compute Engine answers; permission to create VMs shows at the first `vmctl up`"
        findings.append(CheckResult.ok(Check.API, message))
        findings.append(CheckResult.ok(Check.BILLING, "on, as far as Compute Engine reports"))
    findings += _check_os_login(compute, shared)
    return compute


def _project_origin(project: Project, found: credentials.Identity | None) -> str:
    """Where the choice of the Google project comes from."""
    access = found and credentials.find_access(project.google_project, found, project.file)
    if access:
        return access.project_source
    if project.google_project:
        return "VMCTL_PROJECT, or project in vmctl.toml"
    return "the embedded Compute Engine's own"


def _classify_refusal(error: VmctlError, asked: CheckResult) -> list[CheckResult]:
    """Which check a refused first request fails: the project, the API or billing."""
    failure = resources.failure_behind(error)
    fine = CheckResult.ok(Check.API, "Compute Engine answers")
    if failure is None:
        return [asked, CheckResult.of(Check.API, error)]
    if failure.code == "BILLING_DISABLED":
        return [asked, fine, CheckResult.of(Check.BILLING, error)]
    if failure.http_status == 401 or failure.code == "ACCESS_TOKEN_SCOPE_INSUFFICIENT":
        return [asked, CheckResult.of(Check.API, error)]
    if failure.http_status == 404 or "is not found" in failure.message:
        missing = InvalidInput(
            f"Google does not know this project, or you have no access to it: {failure.message}",
            hint='List yours: gcloud projects list. Then: project = "ID" in vmctl.toml',
        )
        return [CheckResult.of(Check.PROJECT, missing)]
    if failure.kind is Kind.TRANSIENT:
        return [asked, CheckResult.of(Check.API, error)]
    if isinstance(error, AccessDenied) and failure.code == "forbidden":
        return [CheckResult.of(Check.PROJECT, error), fine]
    return [asked, CheckResult.of(Check.API, error)]


def _check_embedded() -> Iterator[CheckResult]:
    running = emulator_process.find(emulator_process.home())
    if running is not None and running.note:
        yield CheckResult.warning(Check.API, running.note, "See: vmctl emulator status")
    else:
        yield CheckResult.ok(Check.API, "the embedded Compute Engine answers")


def _check_os_login(compute: Compute, shared: dict[str, str]) -> Iterator[CheckResult]:
    if shared.get(OS_LOGIN_ITEM, "").upper() == "TRUE":
        yield CheckResult.warning(
            Check.PROJECT,
            f"{compute.project} asks for OS Login: vmctl's VMs turn it off for themselves, "
            "which an organisation can forbid",
            "If `vmctl up` is refused because of it: gcloud resource-manager org-policies "
            f"disable-enforce compute.requireOsLogin --project {compute.project}",
        )


# -- this computer ---------------------------------------------------------------------------


def _check_programs(project: Project) -> Iterator[CheckResult]:
    """The programs that vmctl calls, and the folders in which it keeps its things."""
    yield from check_programs(
        installed(machines_here=project.local, proxied=not project.vm.external_address)
    )
    try:
        for folder in (data_dir, cache_dir, runtime_dir):
            folder()
    except VmctlError as error:
        yield CheckResult.of(Check.PROGRAMS, error)
