"""What doctor found, in its order, with its fix and the exit code of the first thing broken."""

from __future__ import annotations

import pytest

from vmctl.cli.commands.setup import format_result
from vmctl.domain.errors import AccessDenied
from vmctl.domain.machine.image import Image
from vmctl.domain.readiness.checks import (
    SERVER_CHECKS,
    Check,
    CheckResult,
    CheckStatus,
    Checkup,
    Program,
    PublicImage,
    check_image,
    check_programs,
    in_order,
)
from vmctl.ssh.local_programs import version_in

IMAGE = Image("some-project", "some-family")
NEWEST = PublicImage("some-family-v1", 50)


def fine(check: Check) -> CheckResult:
    return CheckResult.ok(check, "fine")


def test_findings_come_in_the_order_of_the_checks() -> None:
    found = in_order([fine(Check.PROGRAMS), fine(Check.CREDENTIALS), fine(Check.SETTINGS)])
    assert [finding.check for finding in found] == [
        check for check in Check if check not in {*SERVER_CHECKS, Check.BUCKET}
    ]


def test_what_was_not_possible_names_what_to_fix_first() -> None:
    refused = CheckResult.of(Check.API, AccessDenied("It is off.", hint="Turn it on."))
    found = in_order([fine(Check.CREDENTIALS), refused, fine(Check.PROGRAMS)])
    skipped = [finding for finding in found if finding.status is CheckStatus.SKIPPED]
    assert Check.QUOTA in {finding.check for finding in skipped}
    assert {finding.message for finding in skipped} == {"fix api first"}
    whole = Checkup("p", False, None, False, found)
    assert whole.exit_code == 5
    assert "Fix api first" in whole.text


def test_without_anything_broken_the_exit_code_is_0() -> None:
    warned = CheckResult.warning(Check.FIREWALL, "narrow", "widen it")
    whole = Checkup("p", True, "x", True, (fine(Check.API), warned))
    assert whole.exit_code == 0
    assert "vmctl up" in whole.text
    assert "warnings" in whole.text


@pytest.mark.parametrize(
    ("found", "disk_gb", "cautions", "status", "named"),
    [
        (NEWEST, 100, [], CheckStatus.OK, "some-family-v1"),
        (None, 100, [], CheckStatus.BROKEN, "some-family"),
        (NEWEST, 49, [], CheckStatus.BROKEN, "50 GB"),
        (PublicImage("old", 10, "DEPRECATED"), 100, [], CheckStatus.WARNING, "DEPRECATED"),
        (NEWEST, 100, ["No code for it."], CheckStatus.WARNING, "No code for it"),
    ],
)
def test_an_image(
    found: PublicImage | None, disk_gb: int, cautions: list[str], status: CheckStatus, named: str
) -> None:
    finding = check_image(IMAGE, found, disk_gb, cautions)
    assert finding.status is status
    assert named in finding.message
    assert bool(finding.fix) == (status is not CheckStatus.OK)


def test_a_missing_program_names_its_package() -> None:
    ssh = Program("ssh", "every connection", "openssh-client", "9.2")
    rsync = Program("rsync", "differences", "rsync", None, needed=False)
    (found,) = check_programs([ssh, rsync])
    assert found.status is CheckStatus.WARNING
    assert found.fix.endswith("install -y rsync")
    (found,) = check_programs([Program("ssh", "all", "openssh-client", None), rsync])
    assert found.status is CheckStatus.BROKEN
    assert found.exit_code == 2
    (found,) = check_programs([ssh])
    assert found.message == "ssh 9.2"


def test_a_finding_is_a_line_and_its_fix_below() -> None:
    finding = CheckResult.broken(Check.QUOTA, "Too small.", "Ask.\nWait.", 6)
    assert ["".join(map(str, parts)) for parts in format_result(finding)] == [
        "✗ quota        Too small",
        "               fix: Ask.",
        "                    Wait.",
    ]


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u7, OpenSSL 3.0.17", "9.2p1"),
        ("rsync  version 3.2.7  protocol version 31", "3.2.7"),
        ("bubblewrap 0.8.0", "0.8.0"),
        ("tmux 3.3a", "3.3a"),
        ("no number", ""),
    ],
)
def test_a_version_is_found_in_what_a_program_says(said: str, version: str) -> None:
    assert version_in(said) == version
