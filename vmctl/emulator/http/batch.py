"""Google's batch endpoint: several calls in one multipart/mixed request, answered in kind."""

from __future__ import annotations

import asyncio
import json
import uuid
from email import message_from_bytes
from email.message import Message
from http import HTTPStatus

from ..errors import unparsable
from .dispatch import Dispatcher, Reply

LIMIT = 1000


async def answer(dispatcher: Dispatcher, content_type: str, raw: bytes) -> tuple[str, bytes]:
    """Carry out every part of a batch at once; return the reply's content type and body."""
    message = message_from_bytes(
        b"Content-Type: " + content_type.encode("latin-1") + b"\r\n\r\n" + raw
    )
    parts = message.get_payload() if message.is_multipart() else []
    inner = [part for part in parts if isinstance(part, Message)] if isinstance(parts, list) else []
    if not inner or len(inner) > LIMIT:
        raise unparsable(f"A batch must be multipart/mixed with 1 to {LIMIT} parts.")
    replies = await asyncio.gather(*(_one(dispatcher, part) for part in inner))
    boundary = f"batch_{uuid.uuid4().hex}"
    body = b"".join(
        _part(boundary, part.get("Content-ID", ""), reply)
        for part, reply in zip(inner, replies, strict=True)
    )
    return f"multipart/mixed; boundary={boundary}", body + f"--{boundary}--\r\n".encode()


async def _one(dispatcher: Dispatcher, part: Message) -> Reply:
    payload = part.get_payload(decode=True)
    text = payload if isinstance(payload, bytes) else b""
    head, _, body = text.replace(b"\r\n", b"\n").partition(b"\n\n")
    request_line = head.partition(b"\n")[0].decode("latin-1").split(" ")
    if len(request_line) < 2:
        return Reply(400, unparsable("A part of the batch is not an HTTP request.").body())
    target = request_line[1]
    if "://" in target:
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, _, query = target.partition("?")
    return await dispatcher.answer(request_line[0], path, query, body)


def _part(boundary: str, content_id: str, reply: Reply) -> bytes:
    inner = content_id.strip("<>")
    body = json.dumps(reply.body).encode()
    head = (
        f"--{boundary}\r\n"
        "Content-Type: application/http\r\n"
        f"Content-ID: <response-{inner}>\r\n\r\n"
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}\r\n"
        "Content-Type: application/json; charset=UTF-8\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body + b"\r\n"
