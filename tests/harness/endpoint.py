"""HTTPS to an embedded Compute Engine, with its certificate and its secret: tests and benches."""

from __future__ import annotations

import http.client
import io
import json
import select
import ssl
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT_S = 60.0
IDLE_S = 2.0  # the server hangs up after five


def trusted(about: Mapping[str, Any]) -> ssl.SSLContext:
    """Trusts the emulator that wrote this emulator.json, and no other server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(about["certificate"])
    return context


def secret_of(about: Mapping[str, Any]) -> str:
    """What its callers send as a bearer token."""
    return Path(about["token_file"]).read_text(encoding="ascii").strip()


class KeptConnection:
    """A connection that is kept for the next request: TLS is most of what a short one costs."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        address = urllib.parse.urlsplit(about["url"])
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=trusted(about), timeout=LIMIT_S
        )
        self._headers = {"Authorization": f"Bearer {secret_of(about)}"}
        self._used_at = time.monotonic()

    def exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, http.client.HTTPMessage, bytes]:
        """Status, reason, headers and body of what is answered."""
        connection = self._connection
        is_old = time.monotonic() - self._used_at > IDLE_S
        if connection.sock and (is_old or select.select([connection.sock], [], [], 0)[0]):
            connection.close()  # what the server may have given up is not trusted with a request
        try:
            connection.request(method, path, data, {**self._headers, **headers})
            with connection.getresponse() as answer:
                return answer.status, answer.reason, answer.headers, answer.read()
        except BaseException:
            connection.close()
            raise
        finally:
            self._used_at = time.monotonic()

    def close(self) -> None:
        self._connection.close()


class Endpoint:
    """The API and the admin route of the emulator that serves a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._kept = threading.local()  # one a thread

    @property
    def about(self) -> dict[str, Any]:
        """What emulator.json says; {} when it is not there."""
        try:
            return dict(json.loads((self.home / "emulator.json").read_text()))
        except FileNotFoundError:
            return {}

    @property
    def url(self) -> str:
        return str(self.about["url"])

    @property
    def secret(self) -> str:
        """What its callers send as a bearer token."""
        return secret_of(self.about)

    @property
    def curl(self) -> list[str]:
        """curl's own words for it; a method, a body and an address are to follow."""
        token = f"Authorization: Bearer {self.secret}"
        return ["curl", "-sS", "--cacert", self.about["certificate"], "-H", token]

    @property
    def gcloud(self) -> dict[str, str]:
        """The environment variables that point gcloud, and vmctl without --local, at it."""
        return {
            "CLOUDSDK_API_ENDPOINT_OVERRIDES_COMPUTE": f"{self.url}/compute/v1/",
            "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE": self.about["certificate"],
            "CLOUDSDK_AUTH_ACCESS_TOKEN_FILE": self.about["token_file"],
            "REQUESTS_CA_BUNDLE": self.about["certificate"],  # it beats gcloud's own, where set
        }

    def open(self, request: urllib.request.Request, limit_s: float = LIMIT_S) -> Any:
        """Send a request, with the secret unless it has a token of its own; the response.

        Raises urllib's HTTPError where it is refused.
        """
        if not request.has_header("Authorization"):
            request.add_header("Authorization", f"Bearer {self.secret}")
        https = urllib.request.HTTPSHandler(context=trusted(self.about))
        no_proxy = urllib.request.ProxyHandler({})  # one for the internet is not for 127.0.0.1
        return urllib.request.build_opener(no_proxy, https).open(request, timeout=limit_s)

    def exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, http.client.HTTPMessage, bytes]:
        """Send a request over this thread's connection to the emulator that serves now."""
        about = self.about
        line: KeptConnection | None = getattr(self._kept, "connection", None)
        if line is None or line.about != about:
            if line is not None:
                line.close()
            line = self._kept.connection = KeptConnection(about)
            weakref.finalize(self, line.close)
        return line.exchange(method, path, data, headers)

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Send one raw request and return status and JSON body."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        status, _, _, answer = self.exchange(method, path, data, headers or {})
        return status, json.loads(answer)

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a path answers; urllib's HTTPError when it is refused."""
        data = None if body is None else json.dumps(body).encode()
        json_only = {"Content-Type": "application/json"}
        status, reason, headers, answer = self.exchange(method, path, data, json_only)
        if status >= 400:
            raise urllib.error.HTTPError(path, status, reason, headers, io.BytesIO(answer))
        return json.loads(answer)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Of the Compute Engine API, below the project that `vmctl` uses."""
        return self.ask(method, f"/compute/v1/projects/vmctl-local/{path}", body)

    def admin(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Use the admin route; the call must succeed."""
        status, answer = self.send(method, f"/emulator/v1/{name}", body)
        assert status == 200, answer
        return answer
