"""HTTP in front of the API: which callers are allowed, how long a body may be, how errors look.

Everything passes one check first: API, batches, admin route and the proxy's WebSockets. A caller
without the home's secret gets 401 and nothing else.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
from collections.abc import Awaitable, Callable
from email.utils import format_datetime
from typing import TypeAlias

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from .. import admin
from ..cloud.cloud import Cloud
from ..cloud.lifecycle import Lifecycle
from ..errors import ApiError, Json
from ..resources import handlers
from ..storage import media
from . import batch, iap
from .dispatch import BODY_LIMIT, Dispatcher, Reply, parse_object

CHECK_VARIABLE = "VMCTL_EMULATOR_CHECK_REPLIES"  # set by tests: replies keep to Google's schemas
BATCH_PATHS = ("/batch/compute/v1", "/batch/storage/v1", "/batch")
NO_SECRET = (
    "The emulator requires its secret as a bearer token. "
    'For gcloud and others: eval "$(vmctl emulator env)"'
)
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("vmctl.emulator")


def make_application(
    cloud: Cloud,
    lifecycle: Lifecycle,
    stop: Callable[[], None],
    about: Json,
    port: int,
    secret: str,
) -> Application:
    """Return the ASGI application: the API, its batch endpoint, the admin route and the proxy."""
    checked = bool(os.environ.get(CHECK_VARIABLE))
    dispatcher = Dispatcher(cloud, lifecycle, handlers(), check_replies=checked)
    operator = admin.Admin(cloud, lifecycle, stop, about)
    hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}

    async def answer(request: Request) -> Response | None:
        check_caller(request, hosts)
        path = request.scope["raw_path"].decode("latin-1").partition("?")[0]
        response = await media.answer(request, cloud, path)
        if response is not None:
            return response
        raw = await _body(request)
        if path.startswith(admin.PREFIX):
            body = await operator.answer(request.method, path, parse_object(raw))
            return JSONResponse(body)
        if path in BATCH_PATHS and request.method == "POST":
            kind, content = await batch.answer(
                dispatcher, request.headers.get("content-type", ""), raw
            )
            return Response(content, headers={"Content-Type": kind})
        reply = await dispatcher.answer(request.method, path, request.url.query, raw)
        return None if reply.drop else _json(reply)

    relay = iap.Relay(cloud, f"127.0.0.1:{port}")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await relay.answer(scope, receive, send)
            return
        request = Request(scope, receive)
        try:
            response = await answer(request)
        except ClientDisconnect:
            return
        except ApiError as error:
            response = _json(Reply(error.code, error.body()))
        except Exception as error:
            log.exception("%s %s failed", request.method, request.url.path)
            broken = ApiError(500, "internalError", f"The emulator failed: {error!r}")
            response = _json(Reply(500, broken.body()))
        if response is not None:
            response.headers["Date"] = format_datetime(cloud.clock.now(), usegmt=True)
        if response is None:
            await _break_connection(scope, send)
        else:
            await response(scope, receive, send)

    return require_secret(app, secret)


def require_secret(app: Application, secret: str) -> Application:
    """Pass on only requests with the secret, whatever their path."""
    expected = f"Bearer {secret}".encode("ascii")

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return  # the server's own message, not a request
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        if len(given) == 1 and hmac.compare_digest(given[0], expected):
            await app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()  # websocket.connect
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
        else:
            response = _json(Reply(401, ApiError(401, "required", NO_SECRET).body()))
            response.headers["WWW-Authenticate"] = 'Bearer realm="vmctl emulator"'
            await response(scope, receive, send)

    return guard


def check_caller(request: Request, hosts: set[str]) -> None:
    """Refuse browsers: a web page must not reach the emulator, even by rebinding a host name."""
    headers = request.headers
    fetched = headers.get("sec-fetch-site", "none")
    if headers.get("host", "") not in hosts or "origin" in headers or fetched != "none":
        raise ApiError(
            403, "forbidden", "The emulator answers programs on this computer, not web pages."
        )


async def _body(request: Request) -> bytes:
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > BODY_LIMIT:
            raise ApiError(413, "uploadTooLarge", "The request is too large.")
        chunks.append(chunk)
    return b"".join(chunks)


def _json(reply: Reply) -> Response:
    if reply.status in (204, 304):
        return Response(status_code=reply.status)  # neither has a body
    content = json.dumps(reply.body, separators=(",", ":"))
    return Response(
        content, reply.status, headers={"Content-Type": "application/json; charset=UTF-8"}
    )


async def _break_connection(scope: Scope, send: Send) -> None:
    """Announce a body and close: the client sees the connection break in the middle of a reply."""
    headers = [(b"content-length", b"65536"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
