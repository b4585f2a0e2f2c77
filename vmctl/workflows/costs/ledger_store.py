"""The ledger on this computer: what `up`, `down`, `run` and `cost` saw, kept for the next bill.

It is a memory, not a source: what Google still knows is asked again each time. Without it only
VMs that were deleted, and events of more than two weeks ago, are missing from a bill.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from vmctl.cloud import emulator_process
from vmctl.cloud.compute.owned import list_owned
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied
from vmctl.domain.machine.instance import Instance
from vmctl.domain.machine.leftovers import ResourceKind
from vmctl.domain.money.ledger import (
    EMPTY,
    Ledger,
    PaidResource,
    PaidRun,
    PaidVm,
    Span,
    with_events,
    with_resources,
    with_vm,
    without_vms_missing,
)
from vmctl.files import FileLock, atomic_write
from vmctl.folders import data_dir
from vmctl.workflows.base.site import Site

T = TypeVar("T")


def observe(site: Site) -> Ledger:
    """Look at all that an owner pays for in this Google project, and remember it."""
    instances = site.list_vms()
    now = site.now()
    try:
        things = list_owned(site.compute, site.project.owner)
    except AccessDenied:  # who may see the VMs only learns what those came to
        things = None
    events = site.compute.power_events()

    def merged(ledger: Ledger) -> Ledger:
        for instance in instances:
            ledger = with_vm(ledger, instance)
        ledger = with_events(ledger, events)
        ledger = without_vms_missing(ledger, instances, now)
        if things is not None:
            ledger = with_events(with_resources(ledger, things, now), events)
        return dataclasses.replace(ledger, observed_at=now)

    return update_ledger(site, merged)


def remember_vm(site: Site, instance: Instance) -> Ledger:
    """Put what one look at a VM shows into the ledger; Google is not asked."""
    return update_ledger(site, lambda known: with_vm(known, instance))


def update_ledger(site: Site, merged: Callable[[Ledger], Ledger]) -> Ledger:
    """Put something into the ledger; a disk that cannot be written to is no reason to fail."""
    path = _file(site.project, site.compute.project)
    with contextlib.suppress(OSError), FileLock(path.with_suffix(".lock")):
        ledger = merged(_load(path))
        atomic_write(path, json.dumps(dataclasses.asdict(ledger), default=str))
        return ledger
    return merged(_load(path))


def note_run(project: Project, run: PaidRun) -> None:
    """Remember what a run that has ended came to; the last record of a run counts."""
    line = json.dumps(dataclasses.asdict(run), default=str) + "\n"
    with contextlib.suppress(OSError), _runs_file(project).open("a", encoding="utf-8") as stream:
        stream.write(line)


def load_runs(project: Project) -> dict[str, PaidRun]:
    """The runs that were noted, by id."""
    found: dict[str, PaidRun] = {}
    try:
        lines = _runs_file(project).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        with contextlib.suppress(ValueError, TypeError):  # cut off by a full disk
            run = _plain(PaidRun, json.loads(line))
            found[run.id] = run
    return found


def _file(project: Project, google_project: str) -> Path:
    return _folder() / f"{_digest(project, google_project)}.json"


def _runs_file(project: Project) -> Path:
    """A run that ends asks no API, which alone would know the Google project's name."""
    return _folder() / f"runs-{_digest(project, project.google_project or '')}.jsonl"


def _folder() -> Path:
    folder = data_dir() / "ledger"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def _digest(project: Project, google_project: str) -> str:
    where = f"local:{emulator_process.home()}" if project.local else "cloud"
    return hashlib.sha256(f"{where}:{google_project}:{project.owner}".encode()).hexdigest()[:12]


def _load(path: Path) -> Ledger:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Ledger(
            vms={key: _vm(value) for key, value in found["vms"].items()},
            things={key: _resource(value) for key, value in found["things"].items()},
            observed_at=_moment(found.get("observed_at")),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return EMPTY  # none yet, another version's, or damaged: Google is asked anyway


def _vm(value: Mapping[str, Any]) -> PaidVm:
    vm = _plain(PaidVm, {**value, "on": ()})
    return dataclasses.replace(vm, on=tuple(_plain(Span, span) for span in value["on"]))


def _resource(value: Mapping[str, Any]) -> PaidResource:
    fields = {**value, "kind": ResourceKind(value.get("kind") or value["what"])}
    fields.pop("what", None)  # the older name
    return _plain(PaidResource, fields)


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text).astimezone(UTC) if text else None


def _plain(kind: type[T], value: Mapping[str, Any]) -> T:
    """A flat record from JSON; fields named for times hold ISO 8601."""
    times = {"begin", "end"}
    return kind(
        **{
            key: datetime.fromisoformat(item).astimezone(UTC)
            if item is not None and (key in times or key.endswith("_at"))
            else item
            for key, item in value.items()
        }
    )
