"""Objects that go out, whole or a range, as they lie on the disk."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ..cloud.cloud import Cloud
from ..errors import ApiError
from .conditions import check, no_such_object
from .object_methods import find_object
from .objects import BLOCK, UNKNOWN

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def read(request: Request, cloud: Cloud, bucket: str, name: str) -> Response:
    """Answer a GET of content."""
    stored = await find_object(cloud.storage, bucket, name)
    query = dict(request.query_params)
    if query.get("generation") not in (None, "", stored.body["generation"]):
        raise no_such_object(bucket, name)
    check(stored, query, reads=True)
    size = int(stored.body["size"])
    first, end, status = 0, size, 200
    found = _RANGE.fullmatch(request.headers.get("range", ""))
    if found and (found[1] or found[2]):
        first = int(found[1]) if found[1] else max(size - int(found[2]), 0)
        end = min(int(found[2]) + 1, size) if found[1] and found[2] else size
        if first >= end:
            raise ApiError(416, "requestedRangeNotSatisfiable", "Request range not satisfiable")
        status = 206
    body = stored.body
    headers = {
        "Content-Type": body.get("contentType", UNKNOWN),
        "Content-Length": str(end - first),
        "ETag": body["etag"],
        "X-Goog-Generation": body["generation"],
        "X-Goog-Metageneration": body["metageneration"],
        "X-Goog-Stored-Content-Length": body["size"],
        "X-Goog-Stored-Content-Encoding": body.get("contentEncoding", "identity"),
        "X-Goog-Hash": f"crc32c={body['crc32c']},md5={body['md5Hash']}",
        "Accept-Ranges": "bytes",
    }
    if status == 206:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{size}"
    if "contentEncoding" in body:
        headers["Content-Encoding"] = body["contentEncoding"]
    descriptor = cloud.storage.files(bucket).open(name)
    return StreamingResponse(_blocks(descriptor, first, end), status, headers)


def _blocks(descriptor: int, first: int, end: int) -> Iterator[bytes]:
    """Content from `first` to before `end`; closes the file."""
    try:
        while first < end and (block := os.pread(descriptor, min(BLOCK, end - first), first)):
            first += len(block)
            yield block
    finally:
        os.close(descriptor)
