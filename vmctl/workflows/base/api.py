"""Opens a project's Compute Engine, with events where that takes a moment."""

from __future__ import annotations

from vmctl.clock import Clock
from vmctl.cloud import emulator_process
from vmctl.cloud.client import open_compute
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.events import Finished, Info, Started, Story


def ensure_emulator(
    clock: Clock, time_kind: str | None = None
) -> Story[emulator_process.EmulatorProcess]:
    """The embedded Compute Engine, started when it does not answer, then with such a clock."""
    folder = emulator_process.home()
    running = emulator_process.find(folder)
    if running:
        return running
    began = clock.monotonic()
    yield Started("emulator", "Starting the embedded Compute Engine")
    running = emulator_process.start(folder, clock, time_kind)
    seconds = clock.monotonic() - began
    yield Finished("emulator", f"The embedded Compute Engine answers on {running.port}", seconds)
    if running.note:
        yield Info(running.note)
    return running


def open_cloud(project: Project, clock: Clock, recorder: Recorder | None = None) -> Story[Compute]:
    """The project's Compute Engine; a local one that has to be started first says so."""
    if project.local:
        yield from ensure_emulator(clock)
    return open_compute(project, clock, recorder)
