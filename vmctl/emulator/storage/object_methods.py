"""storage.objects, but for what carries content: read, listed, changed, copied, deleted."""

from __future__ import annotations

import asyncio
import os
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path

from ..cloud.call import Call, Handler
from ..errors import ApiError, Json
from . import bucket_methods
from .conditions import check, invalid, no_such_bucket, no_such_object
from .objects import BLOCK, Storage, Stored
from .pages import cut

NAME_BYTES = 1024
PARTS = 32  # of one compose
# What a client may say of an object; the rest is the service's
SETTABLE = {
    "contentType", "contentEncoding", "contentDisposition", "contentLanguage", "cacheControl",
    "metadata", "storageClass", "customTime", "contexts",
}  # fmt: skip


async def get(call: Call) -> Json:
    stored = await _find(call)
    check(stored, call.query, reads=True)
    return call.cloud.storage.resource(stored)


async def list_(call: Call) -> Json:
    bucket = bucket_methods.find(call)["name"]
    query = call.query
    prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
    start, end = query.get("startOffset", ""), query.get("endOffset", "")
    found: dict[str, Stored | None] = {}  # by name, None for what stands for many
    for stored in await call.cloud.storage.list_objects(bucket, prefix):
        if stored.name < start or (end and stored.name >= end):
            continue
        head, met, _ = stored.name[len(prefix) :].partition(delimiter or "\0")
        folder = f"{prefix}{head}{delimiter}"
        if met and delimiter:
            found.setdefault(folder, None)
            if stored.name == folder and query.get("includeTrailingDelimiter") == "true":
                found[f"{folder}\0"] = stored  # beside the folder that it stands for
        else:
            found[stored.name] = stored
    names = sorted(found)
    page, token = cut(names, names, query)
    storage = call.cloud.storage
    items = [storage.resource(one) for name in page if (one := found[name]) is not None]
    prefixes = [name for name in page if found[name] is None]
    reply: Json = {"kind": "storage#objects"}
    for key, value in (("items", items), ("prefixes", prefixes), ("nextPageToken", token)):
        if value:
            reply[key] = value
    return reply


async def patch(call: Call) -> Json:
    stored = await _find(call)
    check(stored, call.query)
    body = {**stored.body, **_settable(call.body)}
    if "metadata" in call.body and call.method.endswith("patch"):
        body["metadata"] = {**stored.body.get("metadata", {}), **call.body["metadata"]}
    return call.cloud.storage.resource(call.cloud.storage.change(stored, body))


async def delete(call: Call) -> Json:
    stored = await _find(call)
    check(stored, call.query)
    call.cloud.storage.delete(stored)
    return {}


async def rewrite(call: Call) -> Json:
    made = await _copy(call)
    size = made.body["size"]
    return {
        "kind": "storage#rewriteResponse",
        "totalBytesRewritten": size,
        "objectSize": size,
        "done": True,
        "resource": call.cloud.storage.resource(made),
    }


async def copy(call: Call) -> Json:
    return call.cloud.storage.resource(await _copy(call))


async def _copy(call: Call) -> Stored:
    path, storage = call.path, call.cloud.storage
    source = await find_object(storage, path["sourceBucket"], path["sourceObject"])
    check(source, call.query, prefix="ifSource")
    kept = {k: v for k, v in source.body.items() if k in SETTABLE | {"componentCount"}}
    target = path["destinationBucket"], path["destinationObject"]
    return await join(storage, [source], target, kept | _settable(call.body), call.query)


async def compose(call: Call) -> Json:
    path, storage = call.path, call.cloud.storage
    bucket, name = path["destinationBucket"], path["destinationObject"]
    asked = call.body.get("sourceObjects", [])
    if not 1 <= len(asked) <= PARTS:
        raise invalid(
            f"The number of source components provided ({len(asked)}) must be from 1 to {PARTS}."
        )
    sources = []
    for part in asked:
        source = await find_object(storage, bucket, str(part.get("name", "")))
        wanted = part.get("objectPreconditions", {}).get("ifGenerationMatch")
        check(source, {} if wanted is None else {"ifGenerationMatch": wanted})
        sources.append(source)
    count = sum(int(source.body.get("componentCount", 1)) for source in sources)
    body = _settable(call.body.get("destination", {})) | {"componentCount": count}
    body.setdefault("contentType", sources[0].body.get("contentType", ""))
    return storage.resource(await join(storage, sources, (bucket, name), body, call.query))


async def join(
    storage: Storage, sources: Sequence[Stored], target: tuple[str, str], body: Json, query: Json
) -> Stored:
    """Make an object of others' content, one after the other."""
    bucket, name = target
    check_name(name)
    if storage.bucket(bucket) is None:
        raise no_such_bucket()
    part = storage.parts / uuid.uuid4().hex
    opened = []
    try:
        for source in sources:
            opened.append(storage.files(source.bucket).open(source.name))
        await asyncio.to_thread(_write_all, opened, part)
        return await storage.put(bucket, name, part, body, lambda there, _: check(there, query))
    except FileNotFoundError as error:
        raise no_such_object(bucket, name) from error
    finally:
        for descriptor in opened:
            os.close(descriptor)
        part.unlink(missing_ok=True)


def _write_all(descriptors: Sequence[int], part: Path) -> None:
    with part.open("xb") as target:
        part.chmod(0o600)
        for descriptor in descriptors:
            with os.fdopen(os.dup(descriptor), "rb") as source:
                shutil.copyfileobj(source, target, BLOCK)


async def find_object(storage: Storage, bucket: str, name: str) -> Stored:
    """An object that a call names; ApiError(404) when its bucket or the object is not there."""
    if storage.bucket(bucket) is None:
        raise no_such_bucket()
    stored = await storage.get(bucket, name)
    if stored is None:
        raise no_such_object(bucket, name)
    return stored


async def _find(call: Call) -> Stored:
    stored = await find_object(call.cloud.storage, call.path["bucket"], call.path["object"])
    if call.query.get("generation") not in (None, stored.body["generation"]):
        raise no_such_object(stored.bucket, stored.name)
    return stored


def check_name(name: str) -> None:
    """ApiError(400) for what cannot be an object's name."""
    if not name:
        raise ApiError(400, "required", "Required parameter: name")
    if len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES or {"\n", "\r"} & {*name}:
        raise invalid(f"Invalid object name: {name[:100]!r}")
    if name in (".", "..") or name.startswith(".well-known/acme-challenge/"):
        raise invalid(f"Invalid object name: {name[:100]!r}")


def _settable(body: Json) -> Json:
    return {key: value for key, value in body.items() if key in SETTABLE}


METHODS: dict[str, Handler] = {
    "storage.objects.get": get,
    "storage.objects.list": list_,
    "storage.objects.patch": patch,
    "storage.objects.update": patch,
    "storage.objects.delete": delete,
    "storage.objects.rewrite": rewrite,
    "storage.objects.copy": copy,
    "storage.objects.compose": compose,
}
