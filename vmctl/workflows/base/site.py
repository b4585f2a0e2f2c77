"""What a command works with: its project, the project's Compute Engine, the clock; made once."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from vmctl.clock import Clock
from vmctl.cloud import emulator_launch, emulator_process
from vmctl.cloud.client import open_compute
from vmctl.cloud.compute.compute import Compute
from vmctl.cloud.recorder import Recorder
from vmctl.config import Project
from vmctl.domain.events import Finished, Info, Started, Story
from vmctl.domain.google.operation import Operation
from vmctl.domain.machine.instance import Instance


@dataclass(frozen=True, slots=True)
class Site:
    """Made by `open_site`; whatever needs two of the three takes it as a whole."""

    project: Project
    compute: Compute
    clock: Clock

    def find_vm(self) -> Instance | None:
        """The project's VM; raises Conflict where there are several."""
        return self.compute.find_instance(self.project.owner, self.project.name)

    def list_vms(self) -> list[Instance]:
        """All VMs of the project's owner, in this Google project."""
        return self.compute.list_instances(self.project.owner)

    def pending_creation(self) -> Operation | None:
        """An unfinished creation of the project's VM, perhaps of a command that was killed."""
        return self.compute.pending_insert(self.project.instance_name)

    def reload(self, instance: Instance) -> Instance:
        """The VM as Google describes it now; as it was, where it is deleted."""
        return self.compute.get_instance(instance.zone, instance.name) or instance

    def now(self) -> datetime:
        """Google's time."""
        return self.compute.now(self.clock.now())


def open_site(
    project: Project, clock: Clock | None = None, recorder: Recorder | None = None
) -> Story[Site]:
    """The project's site; an embedded Compute Engine that has to be started first says so."""
    clock = clock or Clock()
    if project.local:
        yield from ensure_emulator(clock)
    return Site(project, open_compute(project, clock, recorder), clock)


def ensure_emulator(
    clock: Clock, time_kind: str | None = None, *, metadata_only: bool = False
) -> Story[emulator_process.EmulatorProcess]:
    """The embedded Compute Engine, started when it does not answer, then with such a clock."""
    folder = emulator_process.home()
    running = emulator_process.find(folder)
    if running:
        return running
    began = clock.monotonic()
    yield Started("emulator", "Starting the embedded Compute Engine")
    running = emulator_launch.start(folder, clock, time_kind, metadata_only=metadata_only)
    seconds = clock.monotonic() - began
    yield Finished("emulator", f"The embedded Compute Engine answers on {running.port}", seconds)
    if running.note:
        yield Info(running.note)
    return running
