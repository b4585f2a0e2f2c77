"""Resources on disk: one JSON file per resource, replaced whole, read once at start.

A file is written under another name and renamed, so that a killed emulator leaves either the old
or the new resource. There is no fsync: resources survive a kill of the process, not a power cut.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from .errors import Json
from .machines.file_modes import write_file

# What everyone who reads a resource takes for granted
REQUIRED = {
    "instances": (
        "id", "name", "status", "machineType", "disks", "networkInterfaces", "metadata",
        "scheduling", "resourceStatus", "selfLink",
    ),
    "disks": ("id", "name", "sizeGb", "type", "selfLink"),
    "images": ("id", "name", "status", "diskSizeGb", "creationTimestamp", "selfLink"),
    "instanceTemplates": ("id", "name", "properties", "selfLink"),
    "snapshots": ("id", "name", "status", "diskSizeGb", "selfLink"),
    "operations": ("name", "status", "insertTime", "operationType", "targetId", "targetLink"),
    "projects": ("id", "commonInstanceMetadata", "selfLink"),
    "addresses": ("id", "address", "selfLink"),
}  # fmt: skip

log = logging.getLogger("vmctl.emulator")


class Key(NamedTuple):
    """What identifies a resource: `scope` is `global`, `zones/ZONE` or `regions/REGION`."""

    project: str
    collection: str
    scope: str
    name: str

    @property
    def path(self) -> str:
        """The resource's path in the API, `projects/P/zones/Z/instances/N`."""
        return f"projects/{self.project}/{self.scope}/{self.collection}/{self.name}"


@dataclass(slots=True)
class Record:
    """A resource as the API shows it, and the emulator's private data about it."""

    key: Key
    body: Json
    private: Json = field(default_factory=dict)


class Store:
    """All resources of all projects; used from the server's one event loop only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.watch: Callable[[Record, bool], None] = lambda record, deleted: None
        self._records: dict[str, dict[Key, Record]] = {}  # by collection
        self._changes: Counter[str] = Counter()  # by collection
        for file in sorted(folder.glob("*/*/*/*.json")):
            project, collection, scope = file.relative_to(folder).parts[:3]
            key = Key(project, collection, scope.replace("~", "/"), file.stem)
            try:
                saved = json.loads(file.read_bytes())
                record = Record(key, {**saved["body"]}, {**saved["private"]})
                if missing := set(REQUIRED.get(collection, ())) - set(record.body):
                    raise KeyError(*missing)
            except (ValueError, KeyError, TypeError) as error:
                log.error("%s cannot be read and is set aside: %r", file, error)
                file.rename(file.with_name(f"{file.name}.unreadable"))
                continue
            self._collection(key)[key] = record

    def unreadable(self) -> list[Path]:
        """Return the resource files that could not be read and were set aside at a start."""
        return sorted(self.folder.glob("*/*/*/*.unreadable"))

    def get(self, key: Key) -> Record | None:
        """Return the resource, None when there is none of that name."""
        return self._collection(key).get(key)

    def look_up(self, key: Key) -> Record | None:
        """Return the resource whose name or numeric id `key` gives: names start with a letter."""
        if not key.name.isdigit():
            return self.get(key)
        found = self.find(key.collection, key.project, key.scope)
        return next((record for record in found if record.body.get("id") == key.name), None)

    def projects(self) -> set[str]:
        """Return the projects that have a resource."""
        return {key.project for records in self._records.values() for key in records}

    def save(self, record: Record) -> None:
        """Save a new or changed resource; it is on disk when this returns."""
        write_json(self._file(record.key), {"body": record.body, "private": record.private})
        self._collection(record.key)[record.key] = record
        self._changes[record.key.collection] += 1
        self.watch(record, False)

    def delete(self, key: Key) -> None:
        """Delete a resource; a missing one is not an error."""
        deleted = self._collection(key).pop(key, None)
        if deleted is not None:
            self._changes[key.collection] += 1
            self.watch(deleted, True)
        with contextlib.suppress(FileNotFoundError):
            self._file(key).unlink()

    def find(
        self, collection: str, project: str | None = None, scope: str | None = None
    ) -> list[Record]:
        """Return a collection's resources, ordered by project, scope and name."""
        records = self._records.get(collection, {})
        found = [
            key for key in records if project in (None, key.project) and scope in (None, key.scope)
        ]
        found.sort()  # quick: they are in order, all but the newest
        return [records[key] for key in found]

    def version(self, *collections: str) -> tuple[int, ...]:
        """Return what differs once a resource of these collections was saved or deleted."""
        return tuple(self._changes[collection] for collection in collections)

    def _collection(self, key: Key) -> dict[Key, Record]:
        return self._records.setdefault(key.collection, {})

    def _file(self, key: Key) -> Path:
        if not {"", ".", ".."}.isdisjoint(key) or any("/" in part for part in key[::3]):
            raise ValueError(f"{key} names no resource")
        scope = key.scope.replace("/", "~")
        return self.folder / key.project / key.collection / scope / f"{key.name}.json"


def write_json(file: Path, value: Json) -> None:
    """Replace a JSON file atomically; only its owner can read it."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_file(file, json.dumps(value, separators=(",", ":")).encode())
