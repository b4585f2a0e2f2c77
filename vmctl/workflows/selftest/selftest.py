"""`vmctl selftest`: what vmctl believes of Compute Engine, looked at in the service itself.

Without `--real` the embedded one is looked at. What it makes carries labels of its own, goes at
the end, and is deleted by Google at its run limit when nobody is left to see to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vmctl import __version__
from vmctl.clock import Clock
from vmctl.cloud import price_table
from vmctl.cloud.compute.selftest import SelftestCompute
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.errors import Conflict, InvalidInput, VmctlError
from vmctl.domain.events import Info, Story, Warned
from vmctl.domain.google.assumptions import AssumptionResult, Outcome, completed
from vmctl.domain.google.redaction import PROJECT, Redaction
from vmctl.domain.login.ssh_keys import KEY_LIFETIME, key_entry
from vmctl.domain.machine.image import Image
from vmctl.domain.machine.instance import SELFTEST_LABEL
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.domain.machine.machine_type import MachineType, boot_disk_type
from vmctl.domain.machine.zone_order import candidate_zones, region_of
from vmctl.domain.money.prices import Price, disk_usd_per_month
from vmctl.folders import data_dir
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.workflows.base.site import Site, open_site
from vmctl.workflows.selftest.cleanup import delete_leftovers, selftest_labels
from vmctl.workflows.selftest.findings import Findings, SelftestRun
from vmctl.workflows.selftest.read_only_checks import check_read_only
from vmctl.workflows.selftest.vm_checks import (
    STARTUP_SCRIPT,
    check_create,
    check_delete,
    check_login,
    check_restart,
)

NAME = "vmctl-selftest"
MACHINE = "n1-standard-1"  # the smallest of the family that GPUs go on
DISK_GB = 10
MINUTES = 10
LIMIT_S = 1800


@dataclass(frozen=True, slots=True)
class SelftestPlan:
    """What it is about to do and what that costs; shown before anything is asked for."""

    real: bool
    google_project: str
    name: str
    machine_type: str
    zones: tuple[str, ...]
    disk_gb: int
    usd_per_hour: float | None
    usd_in_all: float | None
    price_dated: str | None

    @property
    def text(self) -> str:
        """For people."""
        price = Price(self.usd_per_hour, self.price_dated or "")
        total = "" if self.usd_in_all is None else f"; about ${self.usd_in_all:.2f} in all"
        return (
            f"Create, log in to, stop, start and delete {self.name} ({self.machine_type}, "
            f"{self.disk_gb} GB disk) in {self.zones[0]} of the project "
            f"{self.google_project}, for about {MINUTES} minutes: {price}{total}.\n"
            "Everything it makes is deleted at the end; should this computer go away, "
            f"Google deletes the VM {LIMIT_S // 60} minutes after its start."
        )


@dataclass(frozen=True, slots=True)
class SelftestResult:
    """One finding per assumption, how many of each, and where the trace is."""

    real: bool
    google_project: str
    holds: int
    differs: int
    unseen: int
    findings: tuple[AssumptionResult, ...]
    trouble: str | None  # what ended it early
    trouble_kind: str | None  # as errors are called: NoCapacity, TimedOut …
    trace: str
    seconds: float

    @property
    def text(self) -> str:
        """For people, the last lines."""
        where = "Compute Engine" if self.real else "the embedded Compute Engine"
        lines = [
            f"Of {len(self.findings)} assumptions about {where} {self.holds} hold, "
            f"{self.differs} do not, {self.unseen} could not be seen.",
            f"The anonymised trace: {self.trace}",
        ]
        return "\n".join(lines)


def selftest_project(project: Project, *, real: bool) -> Project:
    """The user's own settings of where, under the self-test's own name.

    Raises InvalidInput for `--real` where the settings say local.
    """
    if real and project.local:
        raise InvalidInput(
            "--real means Google's Compute Engine, and this project is set to the local one.",
            hint="vmctl --cloud selftest --real",
        )
    return replace(project, name=NAME, local=not real)


def selftest(
    project: Project,
    *,
    trace: Path | None = None,
    confirm: Callable[[SelftestPlan], bool] | None = None,
    clock: Clock | None = None,
) -> Story[SelftestResult]:
    """Look at every assumption that a small machine can show; delete all that was made.

    `project` comes from `selftest_project`. What ended it early is in the result. After an
    interruption nothing more is reported from here: the caller plays `clean_up`.
    """
    clock = clock or Clock()
    began = clock.monotonic()
    real = not project.local
    file = trace or _trace_file(clock, real)
    with _recorder(file, project, real, clock) as recorder:
        site = yield from open_site(project, clock, recorder)
        compute = SelftestCompute.of(site.compute)
        zones = _zones(project)
        shown = _plan(project, compute, zones, real)
        if real:
            yield Info(shown.text)
        if confirm is not None and not confirm(shown):
            raise InvalidInput("Nothing was created.", hint="vmctl selftest --real --yes")
        yield from _clear_before(site, compute)
        findings = Findings()
        machine = _machine(project, zones[0], clock)
        run = SelftestRun(project, compute, machine, clock, findings, recorder)
        trouble: VmctlError | None = None
        try:
            yield from check_read_only(run)
            instance = yield from check_create(run, zones)
            written = yield from check_login(run, instance)
            yield from check_restart(run, instance, written)
            yield from check_delete(run, instance)
        except VmctlError as error:
            trouble = error
            yield Warned(f"The self-test stops here: {error.message}")
        yield from delete_leftovers(site)
    why_not = f"it stopped before: {trouble.message}" if trouble else "not checked"
    results = completed(findings.findings, why_not)
    counts = Counter(one.outcome for one in results)
    return SelftestResult(
        real=real,
        google_project=compute.project,
        holds=counts[Outcome.HOLDS],
        differs=counts[Outcome.DIFFERS],
        unseen=counts[Outcome.UNSEEN],
        findings=results,
        trouble=trouble.message if trouble else None,
        trouble_kind=type(trouble).__name__ if trouble else None,
        trace=str(file),
        seconds=round(clock.monotonic() - began, 3),
    )


def clean_up(project: Project, *, clock: Clock | None = None) -> Story[int]:
    """After an interruption: what a self-test made goes; return how many things there were."""
    site = yield from open_site(project, clock)
    return (yield from delete_leftovers(site, interrupted=True))


def _clear_before(site: Site, compute: SelftestCompute) -> Story[None]:
    """What an earlier one left goes; a VM of the same name that is not its own stays."""
    yield from delete_leftovers(site)
    for vm in compute.called(site.project.instance_name):
        if SELFTEST_LABEL not in vm.labels:
            raise Conflict(
                f"{vm.name} in {vm.zone} is your own VM, and the self-test needs its name.",
                hint="Check it: vmctl ls --all",
            )


def _zones(project: Project) -> tuple[str, ...]:
    known = price_table.zones()
    return candidate_zones(
        known, region=project.vm.region, zone=project.vm.zone, what=MACHINE, known_zones=known
    )


def _machine(project: Project, zone: str, clock: Clock) -> InstanceSpec:
    """As `up` would make it, but for the machine type, the size and the labels."""
    keys = ensure_keypair()
    return InstanceSpec(
        name=project.instance_name,
        zone=zone,
        machine=MachineType.parse(MACHINE),
        gpu=None,
        image=Image.parse("ubuntu"),
        disk_gb=DISK_GB,
        max_run_s=LIMIT_S,
        ssh_keys=key_entry(project.login_user, keys.public_line, clock.now() + KEY_LIFETIME),
        labels=selftest_labels(project),
        metadata={"startup-script": STARTUP_SCRIPT},
        network=project.vm.network,
        subnetwork=project.vm.subnetwork,
    )


def _plan(
    project: Project, compute: SelftestCompute, zones: tuple[str, ...], real: bool
) -> SelftestPlan:
    price = price_table.price(zones[0], MACHINE, None, spot=False)
    region = region_of(zones[0])
    disk = disk_usd_per_month(region, boot_disk_type(MACHINE), DISK_GB)
    usd = price.usd_per_hour
    return SelftestPlan(
        real=real,
        google_project=compute.project,
        name=project.instance_name,
        machine_type=MACHINE,
        zones=zones,
        disk_gb=DISK_GB,
        usd_per_hour=usd,
        # a disk is paid by the second, too: of a month's price hardly anything
        usd_in_all=None if usd is None else round(usd * MINUTES / 60 + (disk or 0) / 4380, 4),
        price_dated=price.dated or None,
    )


def _trace_file(clock: Clock, real: bool) -> Path:
    folder = data_dir() / "selftest"
    folder.mkdir(mode=0o700, exist_ok=True)
    kind = "real" if real else "embedded"
    return folder / f"{kind}-{clock.now():%Y%m%d-%H%M%S}.jsonl"


def _network_words(project: Project) -> dict[str, str]:
    """A network of one's own, and the project that shares it, name somebody, too."""
    found: dict[str, str] = {}
    for path in filter(None, (project.vm.network, project.vm.subnetwork)):
        words = path.split("/")
        if "projects" in words[:-1]:
            found[words[words.index("projects") + 1]] = PROJECT
        if words[-1] != "default":
            found[words[-1]] = "default"
    return found


@contextmanager
def _recorder(file: Path, project: Project, real: bool, clock: Clock) -> Iterator[Recorder]:
    redaction = Redaction(
        "", owner=project.owner, login=project.login_user, own=NAME, words=_network_words(project)
    )
    about = {
        "service": "Compute Engine" if real else "embedded",
        "vmctl": __version__,
        "recorded": f"{clock.now():%Y-%m-%d}",
    }
    with file.open("w", encoding="utf-8") as stream:
        yield Recorder(stream, redaction, about)
