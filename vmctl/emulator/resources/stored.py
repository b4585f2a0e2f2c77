"""Handlers that all stored resources have in common: get, list, aggregated list, set labels."""

from __future__ import annotations

from ..cloud.call import Call, Handler
from ..cloud.metadata import fingerprint, save_changed
from ..errors import Json, in_use, not_ready, stale_fingerprint
from ..http import paging
from ..store import Record
from . import instance_body


def get_one(collection: str, parameter: str) -> Handler:
    """Return the handler of COLLECTION.get; `parameter` is the path's name for the resource."""

    async def get(call: Call) -> Json:
        return call.find(collection, call.path[parameter]).body

    return get


def list_scope(collection: str, kind: str) -> Handler:
    """Return the handler of COLLECTION.list, of the zone, region or project that is asked."""

    async def list_resources(call: Call) -> Json:
        found = [r.body for r in call.cloud.store.find(collection, call.project, call.scope)]
        return paging.make_page(f"compute#{kind}List", call.url_path, found, call.query)

    return list_resources


def list_scopes(
    collection: str, kind: str, *, regional: bool = False, first: tuple[str, ...] = ()
) -> Handler:
    """Return the handler of COLLECTION.aggregatedList, which names every zone or region."""

    async def list_aggregated(call: Call) -> Json:
        zones, regions = call.cloud.catalog.zones, call.cloud.catalog.regions
        names = [f"regions/{r}" for r in regions] if regional else [f"zones/{z}" for z in zones]
        scopes: dict[str, list[Json]] = {scope: [] for scope in (*first, *names)}
        for record in call.cloud.store.find(collection, call.project):
            scopes.setdefault(record.key.scope, []).append(record.body)
        return aggregate(call, collection, kind, scopes)

    return list_aggregated


def aggregate(call: Call, collection: str, kind: str, scopes: dict[str, list[Json]]) -> Json:
    """Return the reply of an aggregatedList."""
    full_kind = f"compute#{kind}AggregatedList"
    return paging.make_aggregated(full_kind, call.url_path, collection, scopes, call.query)


def delete_source(collection: str, parameter: str) -> Handler:
    """Return the handler of COLLECTION.delete: refused while it or something of it is made."""

    async def delete(call: Call) -> Json:
        record = call.find(collection, call.path[parameter])
        if record.body["status"] != "READY":
            raise not_ready(record.key.path)
        for made in ("disks", "images"):
            for user in call.cloud.store.find(made):  # of other projects, too
                if user.private.get("fill_from") == record.body["id"]:
                    raise in_use(parameter, record.key.path, user.key.path)
        call.cloud.store.delete(record.key)

        async def wipe(operation: Record) -> None:
            await call.cloud.machines.wipe(record.body["id"])

        return call.start("delete", record.key, record.body["id"], wipe)

    return delete


def set_labels(collection: str, parameter: str = "resource") -> Handler:
    """Return the handler of COLLECTION.setLabels: all labels, under their current fingerprint."""

    async def update(call: Call) -> Json:
        record = call.find(collection, call.path[parameter])
        if call.body.get("labelFingerprint") != record.body["labelFingerprint"]:
            raise stale_fingerprint("labels")
        new = instance_body.check_labels(call.body.get("labels", {}))
        record.body |= {"labels": new, "labelFingerprint": fingerprint(new)}
        if collection == "instances":
            save_changed(call.cloud.store, record)
        else:
            call.cloud.store.save(record)
        return call.done("setLabels", record)

    return update
