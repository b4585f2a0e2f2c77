"""What a self-test has seen so far, and the things that its steps share."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmctl.clock import Clock
from vmctl.cloud.compute.selftest import Trial
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.events import Event, Finished, Noted, Warned
from vmctl.domain.google.api_errors import Failure
from vmctl.domain.google.assumptions import Finding, Verdict, finding
from vmctl.domain.machine.instance_spec import MachinePlan


@dataclass(slots=True)
class Sheet:
    """The findings in the order in which they were made; each is told as it is written down."""

    findings: list[Finding] = field(default_factory=list)

    def saw(self, name: str, holds: object, evidence: str) -> Event:
        """An assumption that was looked at."""
        verdict = Verdict.HOLDS if holds else Verdict.DIFFERS
        return self._write(finding(name, verdict, evidence))

    def unseen(self, name: str, why: str) -> Event:
        """An assumption that could not be looked at this time."""
        return self._write(finding(name, Verdict.UNSEEN, why))

    def _write(self, found: Finding) -> Event:
        self.findings.append(found)
        line = f"{found.id}: {found.evidence}"
        if found.verdict is Verdict.HOLDS:
            return Finished("selftest", line)
        said = f"{found.id} {found.verdict}: {found.evidence}"
        return Warned(said) if found.verdict is Verdict.DIFFERS else Noted(said)


@dataclass(frozen=True, slots=True)
class Trials:
    """Where a self-test works, with what, and where it writes down what it sees."""

    project: Project  # its name is the self-test's own
    trial: Trial
    plan: MachinePlan
    clock: Clock
    sheet: Sheet
    recorder: Recorder


def told(failure: Failure | None) -> str:
    """A refusal in Google's words, for evidence."""
    if failure is None:
        return "it was accepted"
    status = f"HTTP {failure.http_status}, " if failure.http_status else ""
    return f"{status}{failure.code}: {failure.message}"
