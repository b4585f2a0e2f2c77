"""A record of the requests to Compute Engine and its replies, as JSON lines.

The first line says what it is of; each following one is a call (method, path, query, request,
status, response) or a remark on what was done to the VM otherwise. Headers are never kept, and
all else passes through a redaction first.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TextIO
from urllib.parse import parse_qsl, unquote, urlsplit

from vmctl.domain.google.redaction import Redaction

ROOT = "/compute/v1/"


class Recorder:
    """Writes every call of the connections that it is put around; of several threads, too."""

    def __init__(self, stream: TextIO, redaction: Redaction, about: Mapping[str, str]) -> None:
        self._stream = stream
        self._redaction = redaction
        self._lock = threading.Lock()
        self._write({"trace": 1, **about})

    def wrap(self, http: Any, project: str) -> Any:
        """The connection with a witness: it is used like the connection itself."""
        self._redaction = replace(self._redaction, project=project)
        return _RecordingHttp(http, self)

    def note(self, text: str) -> None:
        """Write down what was done to the VM otherwise than through the API."""
        self._write({"remark": text})

    def record(
        self, method: str, uri: str, body: object, status: int, content: bytes | str
    ) -> None:
        """Write one call down."""
        parts = urlsplit(uri)
        # without the root: it names the computer that serves a private endpoint
        path = unquote(parts.path).partition(ROOT)[2] or unquote(parts.path)
        call = {
            "method": method,
            "path": path,
            "query": dict(parse_qsl(parts.query)),
            "request": _read(body),
            "status": status,
            "response": _read(content),
        }
        self._write({name: self._redaction.value(value) for name, value in call.items()})

    def _write(self, line: object) -> None:
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()  # a killed command leaves what it heard


class _RecordingHttp:
    def __init__(self, http: Any, recorder: Recorder) -> None:
        self._http = http
        self._recorder = recorder

    def request(
        self, uri: str, method: str = "GET", body: Any = None, headers: Any = None, **more: Any
    ) -> tuple[Any, bytes]:
        """Pass a request on and write it down with its answer."""
        response, content = self._http.request(
            uri, method=method, body=body, headers=headers, **more
        )
        self._recorder.record(method, uri, body, int(response.status), content)
        return response, content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)


def _read(content: object) -> object:
    """A body as JSON; as text where it is none, None where there is nothing."""
    if not content:
        return None
    text = content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)
    try:
        return json.loads(text)
    except ValueError:
        return text
