"""The paths under which objects' content comes and goes."""

from __future__ import annotations

import asyncio
import logging
import re
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from ..cloud.cloud import Cloud
from ..errors import ApiError
from ..http.discovery import Discovery
from . import downloads, uploads

_UPLOAD = re.compile(r"/(?:resumable/)?upload/storage/v1/b/([^/]+)/o")
_CONTENT = re.compile(r"/(download/)?storage/v1/b/([^/]+)/o/([^/]+)")

log = logging.getLogger("vmctl.emulator")


async def answer(request: Request, cloud: Cloud, path: str) -> Response | None:
    """Answer a call that carries content; None for any other. `path` is still escaped."""
    upload, content = _UPLOAD.fullmatch(path), _CONTENT.fullmatch(path)
    if content is not None:
        reads = content[1] or request.query_params.get("alt") == "media"
        content = content if reads and request.method == "GET" else None
    if upload is None and content is None:
        return None
    method = "storage.objects.insert" if upload else "storage.objects.get"
    await asyncio.sleep(cloud.faults.latency_s(method))
    refusal = cloud.faults.refuse_call(method)
    if refusal is not None:
        raise refusal
    if content is not None:
        response = await downloads.read(request, cloud, unquote(content[2]), unquote(content[3]))
    else:
        assert upload is not None
        response = await _upload(request, cloud, unquote(upload[1]))
    log.info("%s %s -> %d", request.method, path[:500], response.status_code)
    return response


async def _upload(request: Request, cloud: Cloud, bucket: str) -> Response:
    upload_id = request.query_params.get("upload_id", "")
    if request.method == "POST" and not upload_id:
        return await uploads.insert(request, cloud, Discovery.load("storage.v1"), bucket)
    if request.method in ("PUT", "POST"):
        return await uploads.resume(request, cloud, upload_id)
    if request.method == "DELETE":
        return uploads.cancel(cloud, upload_id)
    raise ApiError(405, "methodNotAllowed", f"Method {request.method} is not allowed.")
