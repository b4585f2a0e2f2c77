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
    stage_log: StageLog = field(default_factory=StageLog)

    def reached(self, stage: Stage, note: str = "") -> None:
        """A stage was reached just now."""
        self.stage_log = self.stage_log.with_stage(stage, self.clock.monotonic() - self.began, note)
