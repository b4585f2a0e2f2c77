"""storage.buckets: made, read, listed, changed and deleted."""

from __future__ import annotations

import re

from ..cloud.call import Call, Handler
from ..errors import ApiError, Json
from ..http.urls import project_number
from .conditions import invalid, no_such_bucket
from .objects import ROOT, stamp
from .pages import cut

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]")
_ADDRESS = re.compile(r"\d+(\.\d+){3}")
_MULTI_REGIONS = ("US", "EU", "ASIA")
_KEPT = {"labels", "lifecycle", "versioning", "storageClass", "iamConfiguration", "cors", "website"}


async def insert(call: Call) -> Json:
    name = str(call.body.get("name", ""))
    if not _NAME.fullmatch(name) or _ADDRESS.fullmatch(name) or ".." in name:
        raise invalid(f"Invalid bucket name: '{name}'")
    storage = call.cloud.storage
    if storage.bucket(name) is not None:
        raise ApiError(
            409,
            "conflict",
            "Your previous request to create the named bucket succeeded and you already own it.",
        )
    location = str(call.body.get("location", "US")).upper()
    if location not in _MULTI_REGIONS and location.lower() not in call.cloud.catalog.regions:
        raise invalid(f"The specified location constraint is not valid: {location}.")
    project, now = call.query["project"], stamp(call.cloud.clock.now())
    body: Json = {
        "kind": "storage#bucket",
        "id": name,
        "name": name,
        "selfLink": f"{ROOT}b/{name}",
        "projectNumber": project_number(project),
        "generation": str(int(call.cloud.clock.now().timestamp() * 1e6)),
        "metageneration": "1",
        "location": location,
        "locationType": "multi-region" if location in _MULTI_REGIONS else "region",
        "storageClass": "STANDARD",
        "etag": "CAE=",
        "timeCreated": now,
        "updated": now,
        **{key: value for key, value in call.body.items() if key in _KEPT},
    }
    storage.save_bucket(project, body)
    return body


async def get(call: Call) -> Json:
    return find(call)


async def list_(call: Call) -> Json:
    prefix = call.query.get("prefix", "")
    found = [
        body
        for body in call.cloud.storage.buckets(call.query["project"])
        if body["name"].startswith(prefix)
    ]
    page, token = cut(found, [body["name"] for body in found], call.query)
    reply: Json = {"kind": "storage#buckets"}
    if page:
        reply["items"] = page
    if token:
        reply["nextPageToken"] = token
    return reply


async def patch(call: Call) -> Json:
    body = find(call)
    changed = {key: value for key, value in call.body.items() if key in _KEPT}
    number = str(int(body["metageneration"]) + 1)
    body |= {**changed, "metageneration": number, "updated": stamp(call.cloud.clock.now())}
    call.cloud.storage.save_bucket("", body)
    return body


async def delete(call: Call) -> Json:
    body = find(call)
    if await call.cloud.storage.list_objects(body["name"]):
        raise ApiError(409, "conflict", "The bucket you tried to delete is not empty.")
    call.cloud.storage.delete_bucket(body["name"])
    return {}


async def storage_layout(call: Call) -> Json:
    body = find(call)
    return {
        "kind": "storage#storageLayout",
        "bucket": body["name"],
        "location": body["location"],
        "locationType": body["locationType"],
        "hierarchicalNamespace": {"enabled": False},
    }


async def test_permissions(call: Call) -> Json:
    find(call)
    asked = call.query.get("permissions", "")
    return {"kind": "storage#testIamPermissionsResponse", "permissions": [asked] if asked else []}


def find(call: Call) -> Json:
    """The bucket that a call names; ApiError(404) when there is none."""
    body = call.cloud.storage.bucket(call.path["bucket"])
    if body is None:
        raise no_such_bucket()
    return body


METHODS: dict[str, Handler] = {
    "storage.buckets.insert": insert,
    "storage.buckets.get": get,
    "storage.buckets.list": list_,
    "storage.buckets.patch": patch,
    "storage.buckets.update": patch,
    "storage.buckets.delete": delete,
    "storage.buckets.getStorageLayout": storage_layout,
    "storage.buckets.testIamPermissions": test_permissions,
}
