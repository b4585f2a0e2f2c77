"""The way to an embedded Compute Engine for scripts and tests: its certificate and its secret."""

from __future__ import annotations

import json
import ssl
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMIT_S = 60.0


def trusted(about: Mapping[str, Any]) -> ssl.SSLContext:
    """Trusts the emulator that wrote this emulator.json, and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(about["certificate"])
    return context


def secret(about: Mapping[str, Any]) -> str:
    """What its callers send as a bearer token."""
    return Path(about["token_file"]).read_text(encoding="ascii").strip()


def send(
    about: Mapping[str, Any], request: urllib.request.Request, limit_s: float = LIMIT_S
) -> Any:
    """Send a request, with the secret unless it brings a token of its own; the response.

    Raises urllib's HTTPError where it is refused."""
    if not request.has_header("Authorization"):
        request.add_header("Authorization", f"Bearer {secret(about)}")
    secure = urllib.request.HTTPSHandler(context=trusted(about))
    nobody = urllib.request.ProxyHandler({})  # a proxy for the internet is not for 127.0.0.1
    return urllib.request.build_opener(nobody, secure).open(request, timeout=limit_s)


def ask(about: Mapping[str, Any], method: str, path: str, body: object = None) -> Any:
    """The JSON that a path answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        about["url"] + path,
        data=data,
        method=method,
        headers={"Content-Type": "application/json"},
    )
    with send(about, request) as answer:
        return json.load(answer)
