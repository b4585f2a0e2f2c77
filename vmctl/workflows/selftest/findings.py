"""What a self-test has seen so far, and the things that its steps share."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmctl.clock import Clock
from vmctl.cloud.compute.selftest import SelftestCompute
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.events import Event, Finished, Info, Warned
from vmctl.domain.google.api_errors import ApiError
from vmctl.domain.google.assumptions import AssumptionResult, Outcome, finding
from vmctl.domain.machine.instance_spec import InstanceSpec
from vmctl.workflows.base.site import Site


@dataclass(slots=True)
class Findings:
    """The findings in the order in which they were made; each is reported as it is recorded."""

    findings: list[AssumptionResult] = field(default_factory=list)

    def record(self, name: str, holds: object, evidence: str) -> Event:
        """An assumption that was looked at."""
        outcome = Outcome.HOLDS if holds else Outcome.DIFFERS
        return self._write(finding(name, outcome, evidence))

    def skip(self, name: str, why: str) -> Event:
        """An assumption that could not be looked at this time."""
        return self._write(finding(name, Outcome.UNSEEN, why))

    def _write(self, found: AssumptionResult) -> Event:
        self.findings.append(found)
        line = f"{found.id}: {found.evidence}"
        if found.outcome is Outcome.HOLDS:
            return Finished("selftest", line)
        said = f"{found.id} {found.outcome}: {found.evidence}"
        return Warned(said) if found.outcome is Outcome.DIFFERS else Info(said)


@dataclass(frozen=True, slots=True)
class SelftestRun:
    """Where a self-test works, with what, and where it writes down what it sees."""

    project: Project  # its name is the self-test's own
    compute: SelftestCompute
    plan: InstanceSpec
    clock: Clock
    findings: Findings
    recorder: Recorder

    @property
    def site(self) -> Site:
        """For what asks no question that only a self-test asks."""
        return Site(self.project, self.compute, self.clock)


def failure_text(failure: ApiError | None) -> str:
    """A refusal in Google's words, for evidence."""
    if failure is None:
        return "it was accepted"
    status = f"HTTP {failure.http_status}, " if failure.http_status else ""
    return f"{status}{failure.code}: {failure.message}"
