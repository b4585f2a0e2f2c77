"""Google's Identity-Aware Proxy for TCP: the relay behind `gcloud compute start-iap-tunnel`.

A WebSocket at /v4/connect carries one TCP connection to a machine, in frames of its own: a tag of
two bytes, then a length or a count, then data. The caller has been checked before; the rest is as
on Google: the machine must be running, and a firewall rule must allow the proxy's addresses. A
broken relay cannot be resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
import uuid
from collections.abc import Mapping
from urllib.parse import parse_qsl

from starlette.types import Message, Receive, Scope, Send

from ..cloud import firewall
from ..cloud.cloud import Cloud
from ..store import Key, Record

PATH = "/v4/connect"
SUBPROTOCOL = "relay.tunnel.cloudproxy.app"
ORIGIN = b"bot:iap-tunneler"
ADDRESSES = ipaddress.IPv4Network("35.235.240.0/20")
CONNECTED, DATA, ACK = 1, 4, 7
LARGEST = 16384  # bytes of data in a frame
ACK_AFTER = 2 * LARGEST
NOT_FOUND, NOT_LET_IN = 4047, 4003


class Relay:
    """Answers WebSockets for one cloud."""

    def __init__(self, cloud: Cloud, host: str) -> None:
        self._cloud = cloud
        self._host = host

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Relay one connection until either side ends it."""
        await receive()  # websocket.connect
        if scope["path"] != PATH or not self._is_caller(scope):
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
            return
        await send({"type": "websocket.accept", "subprotocol": SUBPROTOCOL})
        asked = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        record = self._machine(asked)
        if record is None:
            await _end(send, NOT_FOUND, "Failed to lookup instance")
            return
        port = asked.get("port", "")
        inside = await self._enter(record) if port == str(firewall.PORT) else None
        if inside is None or not allows_proxy(self._cloud, record):
            await _end(send, NOT_LET_IN, "failed to connect to backend")
            return
        sid = uuid.uuid4().hex.encode()
        await _send(send, struct.pack(">HI", CONNECTED, len(sid)) + sid)
        reader, writer = await asyncio.open_connection(sock=inside, limit=4 * LARGEST)
        try:
            await _relay(receive, send, reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _is_caller(self, scope: Scope) -> bool:
        """Whether gcloud calls, not a browser: a web page cannot send this origin or this host."""
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        return (
            host == self._host
            and headers.get(b"origin") == ORIGIN
            and SUBPROTOCOL in scope.get("subprotocols", ())
        )

    def _machine(self, asked: Mapping[str, str]) -> Record | None:
        zone = f"zones/{asked.get('zone', '')}"
        key = Key(asked.get("project", ""), "instances", zone, asked.get("instance", ""))
        record = self._cloud.store.get(key)
        return record if record is not None and record.body["status"] == "RUNNING" else None

    async def _enter(self, record: Record) -> socket.socket | None:
        """Connect to a machine; returns the near end of the connection, None if it takes none."""
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.setblocking(False)
            inside = socket.socket()
            inside.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(inside, server.getsockname())
            outside, caller = await loop.sock_accept(server)
            while (
                caller != inside.getsockname()
            ):  # another process of this computer connected first
                outside.close()
                outside, caller = await loop.sock_accept(server)
        outside.setblocking(True)
        with outside:
            if await self._cloud.machines.enter(record.body["id"], outside):
                return inside
        inside.close()
        return None


def allows_proxy(cloud: Cloud, record: Record) -> bool:
    """Whether the rules of the instance's network allow port 22 from the proxy's addresses."""
    return firewall.allows_ssh(cloud.store, record, ADDRESSES)


async def _relay(
    receive: Receive, send: Send, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    out = asyncio.create_task(_send_data(send, reader))
    into = asyncio.create_task(_receive_data(receive, send, writer))
    await asyncio.wait({out, into}, return_when=asyncio.FIRST_COMPLETED)
    for task in (out, into):
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError, RuntimeError):
            await task
    await _end(send, 1000, "")  # without effect if the caller has hung up


async def _send_data(send: Send, reader: asyncio.StreamReader) -> None:
    while data := await reader.read(LARGEST):
        await _send(send, struct.pack(">HI", DATA, len(data)) + data)


async def _receive_data(receive: Receive, send: Send, writer: asyncio.StreamWriter) -> None:
    received = acknowledged = 0
    while True:
        message: Message = await receive()
        if message["type"] == "websocket.disconnect":
            return
        frame: bytes = message.get("bytes") or b""
        if len(frame) < 6 or struct.unpack(">H", frame[:2])[0] != DATA:
            continue  # an acknowledgement: nothing is ever sent twice
        (length,) = struct.unpack(">I", frame[2:6])
        writer.write(frame[6 : 6 + length])
        await writer.drain()
        received += length
        if received - acknowledged >= ACK_AFTER:
            acknowledged = received
            await _send(send, struct.pack(">HQ", ACK, received))


async def _send(send: Send, frame: bytes) -> None:
    await send({"type": "websocket.send", "bytes": frame})


async def _end(send: Send, code: int, reason: str) -> None:
    with contextlib.suppress(RuntimeError, OSError):  # the caller has hung up meanwhile
        await send({"type": "websocket.close", "code": code, "reason": reason})
