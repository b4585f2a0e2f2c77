"""What one bring-up carries along: its site, its beginning and the stages reached."""

from __future__ import annotations

from dataclasses import dataclass, field

from vmctl.domain.readiness.stages import Stage, StageLog
from vmctl.workflows.base.site import Site
from vmctl.workflows.session.ssh_restriction import SshRestriction


@dataclass(slots=True)
class BringUp:
    """From `began`, on clock.monotonic(), to a machine that can train."""

    site: Site
    began: float
    limit: SshRestriction | None = None  # of SSH
    stage_log: StageLog = field(default_factory=StageLog)

    def reached(self, stage: Stage, note: str = "") -> None:
        """A stage was reached just now."""
        self.stage_log = self.stage_log.with_stage(
            stage, self.site.clock.monotonic() - self.began, note
        )
