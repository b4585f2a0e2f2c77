"""HTTPS to an embedded Compute Engine, as whoever owns its home may speak it."""

from __future__ import annotations

import http.client
import io
import json
import select
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import weakref
from pathlib import Path
from typing import Any

from scripts import door
from scripts.door import LIMIT_S

IDLE_S = 2.0  # the server hangs up after five


class Line:
    """One connection that is kept for the next question: TLS is most of what a short one costs."""

    def __init__(self, about: dict[str, Any]) -> None:
        self.about = about
        address = urllib.parse.urlsplit(about["url"])
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=door.trusted(about), timeout=LIMIT_S
        )
        self._headers = {"Authorization": f"Bearer {door.secret(about)}"}
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


class Door:
    """The API and the admin route of the emulator that serves a home."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._lines = threading.local()  # one a thread

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
        return door.secret(self.about)

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
        """Send a request; the response, or urllib's HTTPError."""
        return door.send(self.about, request, limit_s)

    def exchange(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str]
    ) -> tuple[int, str, http.client.HTTPMessage, bytes]:
        """Send a request over this thread's line to the emulator that serves now."""
        about = self.about
        line: Line | None = getattr(self._lines, "line", None)
        if line is None or line.about != about:
            if line is not None:
                line.close()
            line = self._lines.line = Line(about)
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
