"""HTTPS to an embedded Compute Engine, as whoever owns its home may speak it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from scripts import door
from scripts.door import LIMIT_S


class Door:
    """The API and the admin route of the emulator that serves a home."""

    def __init__(self, home: Path) -> None:
        self.home = home

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

    def send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> tuple[int, dict[str, Any]]:
        """Send one raw request and return status and JSON body."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        request = urllib.request.Request(
            self.url + path, data=data, method=method, headers=headers or {}
        )
        try:
            with self.open(request) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The JSON that a path answers; urllib's HTTPError when it is refused."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method)
        request.add_header("Content-Type", "application/json")
        with self.open(request) as answer:
            return json.load(answer)

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """Of the Compute Engine API, below the project that `vmctl` uses."""
        return self.ask(method, f"/compute/v1/projects/vmctl-local/{path}", body)

    def admin(self, method: str, name: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Use the admin route; the call must succeed."""
        status, answer = self.send(method, f"/emulator/v1/{name}", body)
        assert status == 200, answer
        return answer
