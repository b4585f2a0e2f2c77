"""The way from a project to its Compute Engine, told as a story where it takes a moment."""

from __future__ import annotations

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.events import Finished, Noted, Started, Story
from vmctl.gce import local
from vmctl.gce.compute import Compute
from vmctl.gce.service import open_compute
from vmctl.gce.trace import Recorder


def ensure_emulator(clock: Clock, time_kind: str | None = None) -> Story[local.Running]:
    """The embedded Compute Engine, started when it does not answer, then with such a clock."""
    folder = local.home()
    running = local.find(folder)
    if running:
        return running
    began = clock.monotonic()
    yield Started("emulator", "Starting the embedded Compute Engine")
    running = local.start(folder, clock, time_kind)
    seconds = clock.monotonic() - began
    yield Finished("emulator", f"The embedded Compute Engine answers on {running.port}", seconds)
    if running.note:
        yield Noted(running.note)
    return running


def open_cloud(project: Project, clock: Clock, recorder: Recorder | None = None) -> Story[Compute]:
    """The project's Compute Engine; a local one that has to be started first says so."""
    if project.local:
        yield from ensure_emulator(clock)
    return open_compute(project, clock, recorder)
