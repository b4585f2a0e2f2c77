"""`vmctl keep`: an idle VM stays for longer, by word to its watchdog."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import Conflict, NotFound
from vmctl.domain.events import Story
from vmctl.domain.machine.instance import Status
from vmctl.domain.machine.watchdog import SETTINGS_ITEM, WatchSettings
from vmctl.domain.text import format_time, to_iso
from vmctl.workflows.base.operations import wait_done
from vmctl.workflows.base.site import open_site


@dataclass(frozen=True, slots=True)
class KeepResult:
    """Until when an idle VM stays, and what ends it all the same; ISO 8601."""

    name: str
    keep_until: str
    idle_stops: bool  # whether being idle stops it at all
    google_stops_at: str | None
    budget_ends_at: str | None

    @property
    def text(self) -> str:
        """For people, one or two lines."""
        if self.idle_stops:
            line = f"{self.name} stays until {format_time(self.keep_until)}, idle or not."
        else:
            line = f"{self.name} stays: being idle does not stop it."
        ends = [(self.budget_ends_at, "its budget ends"), (self.google_stops_at, "Google stops it")]
        for moment, what in ends:
            if moment is not None and moment < self.keep_until:
                line += f"\n{what} on {format_time(moment)}; `vmctl keep` cannot change that."
        return line


def keep(project: Project, seconds: float, *, clock: Clock | None = None) -> Story[KeepResult]:
    """Ask the watchdog of the project's running VM not to stop it for that long.

    Raises NotFound without a VM, Conflict when it does not run.
    """
    site = yield from open_site(project, clock)
    instance = site.find_vm()
    if instance is None:
        raise NotFound(f"There is no VM for '{site.project.name}'.", hint="Create it: vmctl up")
    if instance.status is not Status.RUNNING:
        raise Conflict(
            f"The VM {instance.name} is {instance.status}: there is nothing to keep.",
            hint="Start it: vmctl up",
        )
    until = site.now() + timedelta(seconds=seconds)
    settings = WatchSettings.parse(instance.metadata.get(SETTINGS_ITEM))
    wanted = replace(settings, keep_until=until.timestamp())
    asked = site.compute.set_metadata(instance, {SETTINGS_ITEM: wanted.text()})
    yield from wait_done(site, asked, "keep", f"Keeping {instance.name}")
    budget = datetime.fromtimestamp(settings.stop_at, UTC) if settings.stop_at else None
    return KeepResult(
        name=instance.name,
        keep_until=until.isoformat(timespec="seconds"),
        idle_stops=bool(settings.idle_s),
        google_stops_at=to_iso(instance.stops_at),
        budget_ends_at=to_iso(budget),
    )
