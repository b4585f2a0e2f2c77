"""Objects that come in: in one request, with their resource in a multipart one, or resumably.

Content goes to a file as it arrives, never to memory. What has arrived of a resumable upload
outlives a cut connection and this process.
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from collections.abc import AsyncIterator
from email.message import Message
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from ..cloud.cloud import Cloud
from ..errors import ApiError, Json
from ..http.discovery import Discovery
from .conditions import NAMES, check, invalid, no_such_bucket
from .object_methods import SETTABLE, check_name
from .objects import UNKNOWN, Stored

QUANTUM = 256 << 10  # of a piece of a resumable upload, but for the last
HEAD_BYTES = 1 << 20  # of the first part of a multipart request, an object's resource
_RANGE = re.compile(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)")
_SUMS = {"crc32c": "crc32c", "md5Hash": "md5"}


async def insert(request: Request, cloud: Cloud, discovery: Discovery, bucket: str) -> Response:
    """Answer a POST of an upload; ApiError as Cloud Storage refuses it."""
    query = dict(request.query_params)
    if cloud.storage.bucket(bucket) is None:
        raise no_such_bucket()
    kind = query.get("uploadType", "")
    if kind == "resumable":
        return await _begin(request, cloud, discovery, bucket, query)
    part = cloud.storage.parts / uuid.uuid4().hex
    try:
        if kind == "media":
            body = {"contentType": request.headers.get("content-type", "")}
            await _receive(request.stream(), part)
        elif kind == "multipart":
            body = await _receive_multipart(request, discovery, part)
        else:
            raise invalid(f"Invalid uploadType: '{kind}'")
        made = await _finish(cloud, bucket, body, query, part, _given_sums(request))
        return JSONResponse(cloud.storage.resource(made))
    finally:
        part.unlink(missing_ok=True)


async def _begin(
    request: Request, cloud: Cloud, discovery: Discovery, bucket: str, query: Json
) -> Response:
    raw = b"".join([piece async for piece in request.stream()])
    body = _parse(discovery, raw)
    if kind := request.headers.get("x-upload-content-type"):
        body.setdefault("contentType", kind)
    name = str(query.get("name") or body.get("name", ""))
    check_name(name)
    check(await cloud.storage.get(bucket, name), query)
    upload_id = uuid.uuid4().hex
    total = request.headers.get("x-upload-content-length")
    (cloud.storage.parts / upload_id).touch(0o600)
    cloud.storage.save_upload(
        upload_id,
        {"bucket": bucket, "body": body, "query": query, "total": total,
         "sums": _given_sums(request)},
    )  # fmt: skip
    url = request.url.remove_query_params(list(query))
    url = url.include_query_params(uploadType="resumable", name=name, upload_id=upload_id)
    headers = {"Location": str(url), "X-GUploader-UploadID": upload_id}
    return Response(headers=headers)


async def resume(request: Request, cloud: Cloud, upload_id: str) -> Response:
    """Answer a PUT of a piece, or of a question how much has arrived."""
    upload = cloud.storage.upload(upload_id)
    if upload is None or not re.fullmatch("[0-9a-f]{32}", upload_id):
        raise ApiError(404, "notFound", "No such upload session.")
    part = cloud.storage.parts / upload_id
    have = part.stat().st_size
    said = request.headers.get("content-range")
    first, total = 0, upload["total"]
    if said is not None:
        found = _RANGE.fullmatch(said)
        if found is None:
            raise invalid(f"Failed to parse Content-Range header: {said[:100]}")
        total = found[3] if found[3] != "*" else total
        if found[1] is None:
            if total is None or have < int(total) or found[3] == "*":
                return _incomplete(have)
            return await _complete(cloud, upload_id, upload, part)
        first = int(found[1])
    if first > have:
        return _incomplete(have)  # the client goes on from there
    end = None if said is None or found is None or found[2] is None else int(found[2]) + 1
    is_last = said is None or (total is not None and end == int(total))
    try:
        with part.open("r+b") as file:
            file.seek(first)
            async for piece in request.stream():
                file.write(piece)
            file.truncate()
    except ClientDisconnect:
        _cut(part)
        raise
    if is_last and (end is None or part.stat().st_size == end):
        return await _complete(cloud, upload_id, upload, part)
    _cut(part)
    return _incomplete(part.stat().st_size)


def cancel(cloud: Cloud, upload_id: str) -> Response:
    """Answer a DELETE of a resumable upload."""
    if cloud.storage.upload(upload_id) is None:
        raise ApiError(404, "notFound", "No such upload session.")
    cloud.storage.end_upload(upload_id)
    return Response(status_code=499)


async def _complete(cloud: Cloud, upload_id: str, upload: Json, part: Path) -> Response:
    try:
        made = await _finish(
            cloud, upload["bucket"], upload["body"], upload["query"], part, upload["sums"]
        )
    finally:
        cloud.storage.end_upload(upload_id)
    return JSONResponse(cloud.storage.resource(made))


async def _finish(
    cloud: Cloud, bucket: str, body: Json, query: Json, part: Path, sums: Json
) -> Stored:
    """Make the object of what has arrived; ApiError(400) when it is not what was announced."""
    name = str(query.get("name") or body.get("name", ""))
    check_name(name)
    expected = {key: body[key] for key in _SUMS if key in body} | sums
    conditions = {key: query[key] for key in NAMES if key in query}

    def check_all(there: Stored | None, found: Json) -> None:
        check(there, conditions)
        for key, value in expected.items():
            if value != found[key]:
                label = "MD5" if key == "md5Hash" else "CRC32C"
                raise invalid(
                    f'Provided {label} hash "{value}" doesn\'t match calculated {label} hash '
                    f'"{found[key]}".'
                )

    kept = {key: value for key, value in body.items() if key in SETTABLE and value != ""}
    kept.setdefault("contentType", UNKNOWN)
    return await cloud.storage.put(bucket, name, part, kept, check_all)


def _incomplete(have: int) -> Response:
    headers = {"Range": f"bytes=0-{have - 1}"} if have else {}
    return Response(status_code=308, headers={**headers, "Content-Length": "0"})


def _cut(part: Path) -> None:
    """Keep whole quanta of what has arrived, as Cloud Storage does."""
    size = part.stat().st_size
    with part.open("r+b") as file:
        file.truncate(size - size % QUANTUM)


async def _receive(stream: AsyncIterator[bytes], part: Path) -> None:
    with part.open("xb") as file:
        part.chmod(0o600)
        async for piece in stream:
            file.write(piece)


async def _receive_multipart(request: Request, discovery: Discovery, part: Path) -> Json:
    """Write the content of a multipart/related request to a file; returns its first part."""
    header = Message()
    header["content-type"] = request.headers.get("content-type", "")
    boundary = str(header.get_param("boundary") or "").strip("'")  # as gcloud quotes it
    if not boundary:
        raise invalid("Missing boundary in the Content-Type of a multipart upload.")
    mark = b"--" + boundary.encode("latin-1", "replace")
    head, stream = b"", request.stream()
    async for piece in stream:
        head += piece
        sections = head.split(mark, 2)
        # the resource's part is whole, and so are the headers of the content's
        if len(sections) == 3 and _blank(sections[2]) >= 0:
            break
        if len(head) > HEAD_BYTES:
            raise invalid("The first part of a multipart upload is too large.")
    else:
        raise invalid("A multipart upload has two parts: metadata and media.")
    _, first, rest = sections
    content = first[max(_blank(first), 0) :]
    body = _parse(discovery, content)
    kinds = re.search(rb"(?im)^content-type:[ \t]*([^\r\n]+)", rest[: _blank(rest)])
    if kinds:
        body.setdefault("contentType", kinds[1].decode("latin-1").strip())
    with part.open("x+b") as file:
        part.chmod(0o600)
        file.write(rest[_blank(rest) :])
        async for piece in stream:
            file.write(piece)
        size = file.tell()
        file.seek(max(size - len(mark) - 8, 0))
        base, tail = file.tell(), file.read()
        end = tail.rfind(mark)
        if end < 0:
            raise invalid("A multipart upload ended without its boundary.")
        line_end = 2 if tail[:end].endswith(b"\r\n") else 1
        file.truncate(base + end - line_end)
    return body


def _blank(text: bytes) -> int:
    """Where what follows the first empty line begins; -1 if there is none."""
    found = re.search(rb"\r?\n\r?\n", text)
    return found.end() if found else -1


def _parse(discovery: Discovery, raw: bytes) -> Json:
    """An object's resource in a request; ApiError(400) when it breaks its schema."""
    try:
        body = json.loads(raw.strip() or b"{}")
    except (ValueError, RecursionError):
        raise invalid("Parse Error") from None
    if not isinstance(body, dict):
        raise invalid("Parse Error")
    known = {key: value for key, value in body.items() if value is not None}
    return discovery.check_request("Object", known)


def _given_sums(request: Request) -> Json:
    """The checksums that a request's headers announce."""
    found: Json = {}
    for part in request.headers.get("x-goog-hash", "").split(","):
        kind, _, value = part.strip().partition("=")
        for key, name in _SUMS.items():
            if kind == name and value:
                found[key] = value
    if digest := request.headers.get("content-md5"):
        try:
            base64.b64decode(digest, validate=True)
        except ValueError:
            raise invalid("Invalid Content-MD5.") from None
        found["md5Hash"] = digest
    return found
