"""A web page in the user's browser, which may send what it likes to this computer."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

from vmctl.emulator.clock import RunningClock
from vmctl.emulator.http.app import make_application

SECRET = "0123456789abcdef" * 4  # as if a page knew it
PORT = 18080
HERE = f"127.0.0.1:{PORT}"
HOSTS = [
    HERE,
    "evil.example",
    f"evil.example:{PORT}",
    "127.0.0.1",
    f"127.0.0.1.evil.example:{PORT}",
]
# What browsers say of a page's own requests, of forms, of links, of sandboxed frames, of none.
SAID: list[list[tuple[str, str]]] = [
    [("origin", "http://evil.example"), ("sec-fetch-site", "cross-site")],
    [("origin", "http://evil.example")],
    [("origin", "null")],
    [("origin", f"https://{HERE}")],
    [("sec-fetch-site", "cross-site")],
    [("sec-fetch-site", "same-site")],
    [("sec-fetch-site", "same-origin"), ("origin", f"https://{HERE}")],
    [("origin", "http://evil.example"), ("access-control-request-method", "DELETE"),
     ("access-control-request-private-network", "true")],
    [],
]  # fmt: skip
ASKED = [
    ("OPTIONS", "/compute/v1/projects/p/zones/z/instances/vm"),
    ("GET", "/compute/v1/projects/p/zones"),
    ("DELETE", "/compute/v1/projects/p/zones/z/instances/vm"),
    ("POST", "/emulator/v1/stop"),
    ("POST", "/batch/compute/v1"),
]
FORMS = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"]


def test_no_page_gets_an_answer_by_rebinding_a_form_or_a_preflight() -> None:
    stopped: list[bool] = []
    no_cloud = SimpleNamespace(
        clock=RunningClock("real", 1.0, None)
    )  # whoever got to one would fail
    app = make_application(
        cast(Any, no_cloud),
        cast(Any, None),
        lambda: stopped.append(True),
        {},
        PORT,
        SECRET,
    )

    async def ask(method: str, path: str, headers: list[tuple[str, str]]) -> tuple[int, Any]:
        said: list[Any] = []
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"", "headers": [(k.encode(), v.encode()) for k, v in headers],
        }  # fmt: skip

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        await app(scope, receive, send)
        return said[0]["status"], dict(said[0]["headers"])

    async def ask_all() -> int:
        count = 0
        for host, said, (method, path), form in itertools.product(HOSTS, SAID, ASKED, FORMS):
            if host == HERE and not said:
                continue  # no browser: a program
            headers = [("host", host), ("content-type", form), *said]
            for secret in ([], [("authorization", f"Bearer {SECRET}")]):
                status, answered = await ask(method, path, [*headers, *secret])
                assert status in ((403, 404, 405) if secret else (401,)), (method, path, headers)
                assert not any(name.startswith(b"access-control") for name in answered)
                count += 1
        return count

    assert asyncio.run(ask_all()) > 1000
    assert not stopped
