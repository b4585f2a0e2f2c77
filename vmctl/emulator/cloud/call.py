"""What a handler is given to answer one API call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeAlias

from ..errors import Json, already_exists, invalid_field, not_found
from ..http import urls
from ..store import Key, Record
from .cloud import Cloud
from .lifecycle import Lifecycle
from .operations import Work


@dataclass(frozen=True, slots=True)
class Call:
    """One API call, its path parameters and body already checked against Google's document."""

    cloud: Cloud
    lifecycle: Lifecycle
    method: str
    url_path: str
    path: dict[str, str]
    query: dict[str, str]
    body: Json

    @property
    def project(self) -> str:
        """The project id, also where the URL has its number; any that is well-formed exists."""
        return self.path["project"]

    @property
    def scope(self) -> str:
        """`zones/ZONE`, `regions/REGION` or `global`; ApiError(400) for one that does not exist."""
        zone, region = self.path.get("zone"), self.path.get("region")
        if region is not None and region not in self.cloud.catalog.regions:
            raise invalid_field("region", region, "Unknown region.")
        if zone is None:
            return f"regions/{region}" if region else urls.GLOBAL
        if zone not in self.cloud.catalog.zones:
            raise invalid_field("zone", zone, "Unknown zone.")
        return f"zones/{zone}"

    def key(self, collection: str, name: str) -> Key:
        """Return the key of a resource in this call's project and scope."""
        return Key(self.project, collection, self.scope, name)

    def new_key(self, collection: str) -> Key:
        """Return the key of the resource to be made; ApiError(409) if its name is taken."""
        key = self.key(collection, self.require_name())
        if self.cloud.store.get(key):
            raise already_exists(key.path)
        return key

    def find(self, collection: str, name: str) -> Record:
        """Return a stored resource; ApiError(404) when there is none."""
        key = self.key(collection, name)
        record = self.cloud.store.look_up(key)
        if record is None:
            raise not_found(key.path)
        return record

    def start(self, kind: str, target: Key, target_id: str, work: Work) -> Json:
        """Start an operation on `target` and return it as the API's reply."""
        operations = self.cloud.operations
        operation = operations.create(
            kind,
            target,
            target_id,
            request_id=self.query.get("requestId"),
            scope=self.scope,
        )
        reply = dict(operation.body)
        operations.start(operation, work)
        return reply

    def done(self, kind: str, record: Record) -> Json:
        """Return an operation for a change of `record` that is already complete."""
        return self.start(kind, record.key, record.body["id"], _do_nothing)

    def require_name(self) -> str:
        """Return `name` of the body; ApiError(400) when it is missing."""
        name = self.body.get("name")
        if not name:
            raise invalid_field(
                "resource.name",
                name or "",
                "Must be a match of regex '(?:[a-z](?:[-a-z0-9]{0,61}[a-z0-9])?)'",
            )
        return str(name)


async def _do_nothing(operation: Record) -> None:
    """The work of an operation whose change is already complete."""


Handler: TypeAlias = Callable[[Call], Awaitable[Json]]
