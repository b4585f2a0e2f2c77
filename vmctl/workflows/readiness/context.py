"""One way up: whose it is, and what was reached on it when."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmctl.clock import Clock
from vmctl.cloud.compute.compute import Compute
from vmctl.config import Project
from vmctl.domain.readiness.stages import Stage, StageLog
from vmctl.workflows.session.ssh_restriction import SshRestriction


@dataclass(slots=True)
class BringUp:
    """From `began`, on clock.monotonic(), to a machine that can train."""

    project: Project
    compute: Compute
    clock: Clock
    began: float
    limit: SshRestriction | None = None  # of SSH, for the way in to keep to
    ladder: StageLog = field(default_factory=StageLog)

    def told(self, rung: Stage, note: str = "") -> None:
        """A rung was reached just now."""
        self.ladder = self.ladder.with_rung(rung, self.clock.monotonic() - self.began, note)
