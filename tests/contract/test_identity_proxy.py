"""The emulator's Identity-Aware Proxy: whom it answers, what it refuses, what it carries."""

from __future__ import annotations

import base64
import os
import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.harness.emulator import Emulator
from tests.harness.endpoint import trusted

from .conftest import ZONE, Cloud

PROTOCOL = "relay.tunnel.cloudproxy.app"
ORIGIN = "bot:iap-tunneler"
CONNECTED, DATA, ACK = 1, 4, 7


class Caller:
    """A WebSocket as gcloud opens it, by hand: every byte of it can be wrong."""

    def __init__(self, wire: ssl.SSLSocket) -> None:
        self.wire = wire
        self.status = ""

    def ask(self, host: str, query: str, headers: dict[str, str]) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        lines = {
            "Host": host, "Upgrade": "websocket", "Connection": "Upgrade",
            "Sec-WebSocket-Key": key, "Sec-WebSocket-Version": "13", **headers,
        }  # fmt: skip
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.wire.sendall(f"GET /v4/connect?{query} HTTP/1.1\r\n{text}\r\n".encode())
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(1)
        self.status = head.split()[1].decode()
        self.answered = head.decode().lower()

    def send(self, frame: bytes) -> None:
        length = struct.pack(">BH", 0xFE, len(frame)) if len(frame) > 125 else bytes(
            [0x80 | len(frame)]
        )  # fmt: skip
        self.wire.sendall(b"\x82" + length + b"\0\0\0\0" + frame)  # masked with zeros

    def receive(self) -> tuple[int, bytes]:
        """The kind of the next message (2: binary, 8: the end) and what is in it."""
        first, second = self._read(2)
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack(">H", self._read(2))
        return first & 0x0F, self._read(length)

    def _read(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            more = self.wire.recv(count - len(data))
            assert more, "it hung up"
            data += more
        return data


@contextmanager
def calling(emulator: Emulator, query: str, **changed: str) -> Iterator[Caller]:
    port = emulator.about["port"]
    headers = {
        "Origin": ORIGIN,
        "Sec-WebSocket-Protocol": PROTOCOL,
        "Authorization": f"Bearer {emulator.secret}",
    }
    host = changed.pop("host", f"127.0.0.1:{port}")
    headers |= {name.replace("_", "-"): value for name, value in changed.items()}
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        trusted(emulator.about).wrap_socket(plain, server_hostname="127.0.0.1") as wire,
    ):
        made = Caller(wire)
        made.ask(host, query, {name: value for name, value in headers.items() if value})
        yield made


def query(cloud: Cloud, instance: str = "vm1", port: int = 22) -> str:
    where = f"project={cloud.project}&zone={ZONE}&instance={instance}&interface=nic0"
    return f"{where}&port={port}&newWebsocket=True"


@pytest.mark.parametrize(
    "changed",
    [
        {"Authorization": ""},
        {"Authorization": "Bearer x"},
        {"Origin": ""},
        {"Origin": "https://example.org"},
        {"Sec_WebSocket_Protocol": ""},
        {"host": "rebound.example.org"},
    ],
    ids=str,
)
def test_web_pages_are_not_answered(cloud: Cloud, changed: dict[str, str]) -> None:
    with calling(cloud.emulator, query(cloud), **changed) as caller:
        assert caller.status == "403"


def test_who_does_not_run_is_said_not_to_be_found(cloud: Cloud) -> None:
    with calling(cloud.emulator, query(cloud, "nobody")) as caller:
        assert caller.status == "101"
        assert f"sec-websocket-protocol: {PROTOCOL}" in caller.answered
        kind, said = caller.receive()
        assert (kind, said[:2]) == (8, struct.pack(">H", 4047))


def test_only_the_ssh_port_answers_and_carries_bytes_both_ways(cloud: Cloud) -> None:
    cloud.create()
    with calling(cloud.emulator, query(cloud, port=23)) as caller:
        kind, said = caller.receive()
        assert (kind, said[:2]) == (8, struct.pack(">H", 4003))
    with calling(cloud.emulator, query(cloud)) as caller:
        kind, first = caller.receive()
        assert (kind, struct.unpack(">H", first[:2])[0]) == (2, CONNECTED)
        (length,) = struct.unpack(">I", first[2:6])
        assert len(first) == 6 + length
        kind, banner = caller.receive()
        assert struct.unpack(">H", banner[:2])[0] == DATA
        assert banner[6:].startswith(b"SSH-2.0-")
        junk = b"x" * 1000 + b"\r\n"  # sshd ends a connection that does not speak its language
        caller.send(struct.pack(">HI", DATA, len(junk)) + junk)
        while kind != 8:
            kind, said = caller.receive()
        assert said[:2] == struct.pack(">H", 1000)
