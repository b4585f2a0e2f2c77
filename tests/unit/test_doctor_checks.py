"""What doctor found, in its order, with its fix and the exit code of the first thing broken."""

from __future__ import annotations

import pytest

from vmctl.cli.commands.setup import finding_lines
from vmctl.domain.errors import AccessDenied
from vmctl.domain.machine.image import Image
from vmctl.domain.readiness.checks import (
    Check,
    Checkup,
    Finding,
    Program,
    PublicImage,
    Verdict,
    image_finding,
    ordered,
    programs_findings,
)
from vmctl.ssh.local_programs import version_in

IMAGE = Image("some-project", "some-family")
NEWEST = PublicImage("some-family-v1", 50)


def fine(check: Check) -> Finding:
    return Finding(check, Verdict.OK, "fine")


def test_findings_come_in_the_order_of_the_checks() -> None:
    found = ordered([fine(Check.PROGRAMS), fine(Check.CREDENTIALS), fine(Check.SETTINGS)])
    assert [finding.check for finding in found] == list(Check)


def test_what_was_not_possible_names_what_to_mend_first() -> None:
    refused = Finding.of(Check.API, AccessDenied("It is off.", hint="Turn it on."))
    found = ordered([fine(Check.CREDENTIALS), refused, fine(Check.PROGRAMS)])
    skipped = [finding for finding in found if finding.verdict is Verdict.SKIPPED]
    assert Check.QUOTA in {finding.check for finding in skipped}
    assert {finding.said for finding in skipped} == {"mend first: api"}
    whole = Checkup("p", False, None, False, found)
    assert whole.exit_code == 5
    assert "Mend first: api" in whole.text


def test_without_anything_broken_the_exit_code_is_0() -> None:
    warned = Finding(Check.FIREWALL, Verdict.WARNING, "narrow", "widen it")
    whole = Checkup("p", True, "x", True, (fine(Check.API), warned))
    assert whole.exit_code == 0
    assert "vmctl up" in whole.text
    assert "warnings" in whole.text


@pytest.mark.parametrize(
    ("found", "disk_gb", "cautions", "verdict", "named"),
    [
        (NEWEST, 100, [], Verdict.OK, "some-family-v1"),
        (None, 100, [], Verdict.BROKEN, "some-family"),
        (NEWEST, 49, [], Verdict.BROKEN, "50 GB"),
        (PublicImage("old", 10, "DEPRECATED"), 100, [], Verdict.WARNING, "DEPRECATED"),
        (NEWEST, 100, ["No code for it."], Verdict.WARNING, "No code for it"),
    ],
)
def test_an_image(
    found: PublicImage | None, disk_gb: int, cautions: list[str], verdict: Verdict, named: str
) -> None:
    finding = image_finding(IMAGE, found, disk_gb, cautions)
    assert finding.verdict is verdict
    assert named in finding.said
    assert bool(finding.fix) == (verdict is not Verdict.OK)


def test_a_missing_program_names_its_package() -> None:
    ssh = Program("ssh", "every connection", "openssh-client", "9.2")
    rsync = Program("rsync", "differences", "rsync", None, needed=False)
    (found,) = programs_findings([ssh, rsync])
    assert found.verdict is Verdict.WARNING
    assert found.fix.endswith("install -y rsync")
    (found,) = programs_findings([Program("ssh", "all", "openssh-client", None), rsync])
    assert found.verdict is Verdict.BROKEN
    assert found.exit_code == 2
    (found,) = programs_findings([ssh])
    assert found.said == "ssh 9.2"


def test_a_finding_is_a_line_and_its_fix_below() -> None:
    finding = Finding(Check.QUOTA, Verdict.BROKEN, "Too small.", "Ask.\nWait.", 6)
    assert ["".join(map(str, parts)) for parts in finding_lines(finding)] == [
        "✗ quota        Too small",
        "               mend it: Ask.",
        "                        Wait.",
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
