"""What `vmctl doctor` found: one finding per check, each with its fix."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from vmctl.domain.errors import VmctlError, exit_code_of
from vmctl.domain.machine.image import Image
from vmctl.domain.network.firewall import ANYWHERE, IAP_RANGE, SshExposure, is_private
from vmctl.domain.network.nat import nat_lines


class Check(StrEnum):
    """What is looked at, in this order: each one needs most of those before it."""

    SETTINGS = "settings"
    CREDENTIALS = "credentials"
    PROJECT = "project"
    API = "api"
    BILLING = "billing"
    MACHINE = "machine"
    QUOTA = "quota"
    NETWORK = "network"
    FIREWALL = "firewall"
    IMAGE = "image"
    PROGRAMS = "programs"
    SSH = "ssh"
    PYTHON = "python"
    RSYNC = "rsync"
    TMUX = "tmux"
    GPU = "gpu"
    TORCH = "torch"
    DISK = "disk"
    BUCKET = "bucket"  # of Vertex AI only


# on a server of the user's nothing of Google's counts
SERVER_CHECKS = (
    Check.SSH,
    Check.PYTHON,
    Check.RSYNC,
    Check.TMUX,
    Check.GPU,
    Check.TORCH,
    Check.DISK,
)


class CheckStatus(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"  # `vmctl up` works, and something should be known
    BROKEN = "broken"  # `vmctl up` will fail
    SKIPPED = "not checked"  # what it needs is broken


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found; `fix` is the command or the page that fixes it."""

    check: Check
    status: CheckStatus
    message: str
    fix: str = ""
    exit_code: int = 0  # the one with which `vmctl up` would end

    @staticmethod
    def ok(check: Check, message: str) -> CheckResult:
        """Nothing to do."""
        return CheckResult(check, CheckStatus.OK, message)

    @staticmethod
    def warning(check: Check, message: str, fix: str) -> CheckResult:
        """`vmctl up` works, and this should be known."""
        return CheckResult(check, CheckStatus.WARNING, message, fix)

    @staticmethod
    def broken(check: Check, message: str, fix: str, exit_code: int) -> CheckResult:
        """`vmctl up` will fail with this exit code."""
        return CheckResult(check, CheckStatus.BROKEN, message, fix, exit_code)

    @staticmethod
    def of(check: Check, error: VmctlError) -> CheckResult:
        """The result that an error is."""
        return CheckResult.broken(check, error.message, error.hint, exit_code_of(error))


@dataclass(frozen=True, slots=True)
class PublicImage:
    """An image as Google describes it."""

    name: str
    disk_gb: int
    state: str = ""  # of its deprecation: "", DEPRECATED, OBSOLETE, DELETED


@dataclass(frozen=True, slots=True)
class Program:
    """A program of this computer; `version` is None where it is not installed."""

    name: str
    purpose: str
    package: str  # Debian's and Ubuntu's
    version: str | None
    needed: bool = True


@dataclass(frozen=True, slots=True)
class Checkup:
    """All findings, in the order of the checks."""

    project: str
    local: bool
    google_project: str | None
    ready: bool  # nothing that was checked prevents `vmctl up`
    findings: tuple[CheckResult, ...]

    @property
    def exit_code(self) -> int:
        """0 when nothing is broken, else that of the first thing that is."""
        return next((f.exit_code or 1 for f in self.findings if f.status is CheckStatus.BROKEN), 0)

    @property
    def text(self) -> str:
        """The outcome in one line."""
        broken = [str(f.check) for f in self.findings if f.status is CheckStatus.BROKEN]
        if not broken:
            checks = {finding.check for finding in self.findings}
            then = "push" if self.findings[0].check in SERVER_CHECKS else "up"
            then = "run JOB" if Check.BUCKET in checks else then
            warned = any(f.status is CheckStatus.WARNING for f in self.findings)
            return f"Everything is ready: vmctl {then}" + (" (see the warnings)" * warned)
        return f"Fix {broken[0]} first, then run again: vmctl doctor"


def in_order(findings: Iterable[CheckResult]) -> tuple[CheckResult, ...]:
    """The findings in the order of the checks; a check without one was not possible.

    It names the broken check that it would have needed.
    """
    found = list(findings)
    done = {finding.check for finding in found}
    broken = {finding.check for finding in found if finding.status is CheckStatus.BROKEN}
    way_in = (Check.CREDENTIALS, Check.PROJECT, Check.API, Check.BILLING, Check.SETTINGS)
    needs = next((check for check in way_in if check in broken), None)
    why = f"fix {needs} first" if needs else "its prerequisite is missing"
    found += [
        CheckResult(check, CheckStatus.SKIPPED, why)
        for check in Check
        if check not in {*done, *SERVER_CHECKS, Check.BUCKET}
    ]
    order = list(Check)
    return tuple(sorted(found, key=lambda finding: order.index(finding.check)))


def check_firewall(
    exposure: SshExposure, network: str, tag: str, *, proxied: bool = False
) -> CheckResult:
    """Whether SSH from outside arrives at a VM of vmctl's; `proxied`: by Google's IAP."""
    source = IAP_RANGE if proxied else ANYWHERE
    create = (
        f"gcloud compute firewall-rules create {network}-allow-ssh --network {network} "
        f"--direction INGRESS --allow tcp:22 --target-tags {tag} --source-ranges {source}"
    )
    outside = [source for source in exposure.sources if not is_private(source)]
    if proxied and (IAP_RANGE in outside or ANYWHERE in outside):
        return CheckResult.ok(Check.FIREWALL, f"Google's IAP tunnel is allowed ({exposure.rule})")
    if ANYWHERE in outside:
        message = f"SSH is open to everyone ({exposure.rule}); narrower: vmctl up --restrict-ssh"
        return CheckResult.ok(Check.FIREWALL, message)
    if outside == [IAP_RANGE]:
        return CheckResult.warning(
            Check.FIREWALL,
            f"SSH is allowed only through Google's IAP tunnel ({IAP_RANGE}), not from here",
            f"Use it: vmctl up --no-external-address. Or allow SSH:\n{create}",
        )
    if outside and not proxied:
        return CheckResult.ok(
            Check.FIREWALL, f"SSH is open to {', '.join(outside)} only, not to other addresses"
        )
    if exposure.closed_by:
        return CheckResult.broken(
            Check.FIREWALL,
            f"The rule {exposure.closed_by} of the network {network} blocks SSH",
            f"gcloud compute firewall-rules update {exposure.closed_by} --disabled",
            7,
        )
    more = "" if proxied else f"\n(or your own address with /32 in place of {ANYWHERE})"
    return CheckResult.broken(
        Check.FIREWALL,
        f"No firewall rule of the network {network} allows SSH (tcp:22) from "
        f"{'IAP' if proxied else 'outside'}",
        create + more,
        7,
    )


def check_nat(region: str, network: str, has_nat: bool) -> CheckResult:
    """Whether a VM without an external address can download anything."""
    if has_nat:
        message = f"{network}, with Cloud NAT in {region} for downloads"
        return CheckResult.ok(Check.NETWORK, message)
    return CheckResult.warning(
        Check.NETWORK,
        f"{network} has no visible Cloud NAT in {region}: a VM without an external address "
        "can download nothing",
        nat_lines(network, region),
    )


def check_image(
    image: Image, found: PublicImage | None, disk_gb: int, cautions: Sequence[str]
) -> CheckResult:
    """Whether a disk of this size can be made from the image."""
    if found is None:
        return CheckResult.broken(
            Check.IMAGE,
            f"There is no image of the family {image.family} in the project {image.project}",
            "Check [vm] image in vmctl.toml. To list images: gcloud compute images list "
            f"--project {image.project} --no-standard-images --format 'value(family)'",
            3,
        )
    if disk_gb < found.disk_gb:
        return CheckResult.broken(
            Check.IMAGE,
            f"The image {found.name} needs a disk of {found.disk_gb} GB, and disk_gb is {disk_gb}",
            f"vmctl up --disk-gb {found.disk_gb}, or [vm] disk_gb = {found.disk_gb} in vmctl.toml",
            2,
        )
    if found.state:
        return CheckResult.warning(
            Check.IMAGE,
            f"The image {found.name} is {found.state}: Google may remove it",
            "[vm] image in vmctl.toml: another family",
        )
    if cautions:
        return CheckResult.warning(
            Check.IMAGE, " ".join(cautions), "[vm] gpu, machine, image or spot in vmctl.toml"
        )
    return CheckResult.ok(Check.IMAGE, f"{found.name}, {found.disk_gb} GB")


def check_programs(programs: Sequence[Program]) -> list[CheckResult]:
    """Which programs of this computer are missing, and how to install them."""
    there = [f"{p.name} {p.version}".strip() for p in programs if p.version is not None]
    missing = [program for program in programs if program.version is None]
    if not missing:
        return [CheckResult.ok(Check.PROGRAMS, ", ".join(there))]
    needed = any(program.needed for program in missing)
    packages = " ".join(dict.fromkeys(p.package for p in missing if p.package))
    message = "; ".join(f"{program.name} is missing: {program.purpose}" for program in missing)
    return [
        CheckResult(
            Check.PROGRAMS,
            CheckStatus.BROKEN if needed else CheckStatus.WARNING,
            message,
            f"sudo apt-get install -y {packages}" if packages else "",
            2 if needed else 0,
        )
    ]
