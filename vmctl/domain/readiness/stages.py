"""The stages from "asked for" to "can train", and when each one was reached."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Stage(StrEnum):
    """The stages in their order; each one needs those before it."""

    OPERATION = "operation"  # Google has carried out what was asked
    RUNNING = "running"
    PORT = "port"  # somebody answers at the SSH port
    KEY = "key"  # sshd shows the VM's host key and lets our key in
    STARTUP = "startup"  # start-up scripts and vmctl's own set-up are done
    DRIVER = "driver"  # nvidia-smi sees every GPU
    TORCH = "torch"  # torch sees CUDA

    @property
    def text(self) -> str:
        """As people read it."""
        return _TITLES[self]


_TITLES = {
    Stage.OPERATION: "operation",
    Stage.RUNNING: "RUNNING",
    Stage.PORT: "port 22",
    Stage.KEY: "key",
    Stage.STARTUP: "start-up",
    Stage.DRIVER: "driver",
    Stage.TORCH: "torch",
}


@dataclass(frozen=True, slots=True)
class StageReached:
    """A stage that was reached, in seconds from the beginning and from the stage before."""

    stage: str
    after_s: float
    took_s: float
    note: str = ""  # what was found there; "simulated" on the embedded Compute Engine


@dataclass(frozen=True, slots=True)
class StageLog:
    """What was reached so far, and when."""

    reached: tuple[StageReached, ...] = ()

    def has(self, stage: Stage) -> bool:
        """Whether it was reached."""
        return any(one.stage == stage for one in self.reached)

    def with_stage(self, stage: Stage, after_s: float, note: str = "") -> StageLog:
        """The same with one stage more; one that was reached before keeps its time."""
        if self.has(stage):
            return self
        before = max((one.after_s for one in self.reached), default=0.0)
        took = max(0.0, after_s - before)
        one = StageReached(str(stage), round(after_s, 3), round(took, 3), note)
        return StageLog((*self.reached, one))

    @property
    def text(self) -> str:
        """ "operation 8.1 s, RUNNING +0.2 s, port 22 +31 s, … driver +28 s (simulated)"."""
        shown = []
        for number, one in enumerate(self.reached):
            seconds = f"{one.took_s:.1f}" if one.took_s < 10 else f"{one.took_s:.0f}"
            note = f" ({one.note})" if one.note else ""
            shown.append(f"{Stage(one.stage).text} {'+' if number else ''}{seconds} s{note}")
        return ", ".join(shown)
