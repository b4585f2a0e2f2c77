"""The metadata server of a machine, at 169.254.169.254 as on Compute Engine."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from .channel import NoReply

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    Fetch = Callable[[], dict[str, Any]]
    Put = Callable[[str, str], bool]

PREFIX = "/computeMetadata/v1"
VALUE_BYTES = 256 * 1024  # of a guest attribute
VERBATIM = frozenset({"attributes", "guest-attributes", "guestAttributes", "labels"})


class Watch:
    """Wakes requests that wait for a change of the metadata, and has the cloud's time."""

    def __init__(self) -> None:
        self.ahead_s = 0.0  # of the cloud's clock ahead of this computer's
        self.moved = ""  # changes whenever the clock is moved by hand
        self._condition = threading.Condition()
        self._version = 0

    @property
    def version(self) -> int:
        return self._version

    def take_time(self, tree: dict[str, Any]) -> None:
        """Take the fields about time out of the host's reply; no path shows them."""
        self.ahead_s = float(tree.pop("ahead_s", 0.0))
        self.moved = str(tree.pop("moved", ""))

    def now(self) -> float:
        """The cloud's time, in seconds since the epoch."""
        return time.time() + self.ahead_s

    def changed(self) -> None:
        with self._condition:
            self._version += 1
            self._condition.notify_all()

    def wait(self, seen: int, timeout_s: float | None) -> bool:
        """True once something changed after `seen`; False after timeout_s seconds."""
        with self._condition:
            return self._condition.wait_for(lambda: self._version != seen, timeout_s)


def camel(name: str) -> str:
    """`network-interfaces` as recursive answers spell it: `networkInterfaces`."""
    return re.sub(r"-(\w)", lambda match: match[1].upper(), name)


def lookup(tree: Any, path: list[str]) -> Any:
    """The value at path; KeyError when there is none."""
    for part in path:
        if isinstance(tree, dict):
            if part in tree:
                tree = tree[part]
                continue
            tree = {camel(key): value for key, value in tree.items()}[camel(part)]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            raise KeyError(part)
    return tree


def as_json(value: Any, verbatim: bool = False) -> Any:
    """The tree with the key spelling of recursive answers; users' own keys stay as they are."""
    if isinstance(value, dict):
        return {
            key if verbatim else camel(key): as_json(item, verbatim or key in VERBATIM)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [as_json(item, verbatim) for item in value]
    return value


def as_text(value: Any) -> str:
    return str(value).upper() if isinstance(value, bool) else str(value)


def children(value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return sorted(value.items())
    return [(str(index), item) for index, item in enumerate(value)]


def listing(value: Any) -> str:
    """A directory as the server shows it: one name a line, directories with a slash."""
    return "".join(
        f"{name}/\n" if isinstance(item, dict | list) else f"{name}\n"
        for name, item in children(value)
    )


def flattened(value: Any, path: str = "") -> str:
    """A directory with alt=text: `path value` lines."""
    if not isinstance(value, dict | list):
        return f"{path} {as_text(value)}\n"
    return "".join(
        flattened(item, f"{path}/{name}" if path else name) for name, item in children(value)
    )


def etag(value: Any) -> str:
    packed = json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(packed).hexdigest()[:16]


class Handler(BaseHTTPRequestHandler):
    """One request; `fetch`, `put` and `watch` are set by `serve`."""

    protocol_version = "HTTP/1.1"
    server_version = "Metadata Server for VM"
    sys_version = ""
    fetch: Fetch
    put: Put
    watch: Watch

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        if not self._allowed(address.path):
            return
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        path = [unquote(part) for part in address.path[len(PREFIX) :].split("/") if part]
        seen = self.watch.version
        try:
            value = lookup(type(self).fetch(), path)
            if query.get("wait_for_change", "").lower() == "true":
                value = self._changed(path, value, query, seen)
        except KeyError:
            self._answer(404, "Not Found\n", "text/html")
            return
        except NoReply:
            self._answer(503, "Service Unavailable\n", "text/html")
            return
        folder = isinstance(value, dict | list)
        recursive = query.get("recursive", "").lower() == "true"
        alt = query.get("alt", "json" if folder and recursive else "text")
        if folder and not address.path.endswith("/") and not recursive:
            self._answer(301, "", "text/html", {"Location": address.path + "/"})
        elif alt == "json":
            verbatim = any(part in VERBATIM for part in path)
            shown = as_json(value, verbatim) if recursive or not folder else listing(value).split()
            self._answer(200, json.dumps(shown), "application/json", {"ETag": self._etag(value)})
        else:
            text = as_text(value)
            if folder:
                text = flattened(value) if recursive else listing(value)
            self._answer(200, text, "application/text", {"ETag": self._etag(value)})

    def do_PUT(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or int(length) > VALUE_BYTES:
            self.close_connection = True
            self._answer(413, "Request Entity Too Large\n", "text/html")
            return
        body = self.rfile.read(int(length))
        address = urlsplit(self.path).path
        if not self._allowed(address):
            return
        prefix = f"{PREFIX}/instance/guest-attributes/"
        if not address.startswith(prefix) or address.removeprefix(prefix).count("/") != 1:
            self._answer(404, "Not Found\n", "text/html")
        elif type(self).put(unquote(address.removeprefix(prefix)), body.decode("utf-8", "replace")):
            self._answer(200, "", "application/text")
        else:
            self._answer(403, "Guest attributes endpoint access is disabled.\n", "text/html")

    def _allowed(self, path: str) -> bool:
        flavoured = self.headers.get("Metadata-Flavor") == "Google"
        if not path.startswith(PREFIX):
            if path in ("/", "/computeMetadata", "/computeMetadata/"):
                self._answer(200, "computeMetadata/\n" if path == "/" else "v1/\n", "text/html")
            else:
                self._answer(404, "Not Found\n", "text/html")
            return False
        if not flavoured or "X-Forwarded-For" in self.headers:
            self._answer(403, "Missing Metadata-Flavor:Google header.\n", "text/html")
            return False
        return True

    def _etag(self, value: Any) -> str:
        """Changes with a moved clock, too, so that waiting requests are answered."""
        return etag([value, self.watch.moved])

    def _changed(self, path: list[str], value: Any, query: dict[str, str], seen: int) -> Any:
        """The value once it differs from the caller's, or the present one at the timeout."""
        known = query.get("last_etag") or self._etag(value)
        timeout = float(query["timeout_sec"]) if query.get("timeout_sec", "").isdigit() else None
        deadline = None if timeout is None else self.watch.now() + timeout
        while self._etag(value) == known:
            left = None if deadline is None else deadline - self.watch.now()
            if (left is not None and left <= 0) or not self.watch.wait(seen, left):
                break
            seen = self.watch.version
            value = lookup(type(self).fetch(), path)
        return value

    def _answer(
        self, status: int, text: str, kind: str, headers: dict[str, str] | None = None
    ) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        """The Date header: machines set their clocks by it."""
        return super().date_time_string(self.watch.now() if timestamp is None else timestamp)

    def log_message(self, format: str, *args: object) -> None:
        """Do not log: the serial port is for the machine's own output."""


class Server(ThreadingHTTPServer):
    """Does not log clients that hang up: the serial port is for the machine's output."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


def serve(listening: socket.socket, fetch: Fetch, put: Put, watch: Watch) -> ThreadingHTTPServer:
    """Serves a listening socket in a separate thread."""
    handler = type("Bound", (Handler,), {"fetch": fetch, "put": put, "watch": watch})
    handler.fetch, handler.put = staticmethod(fetch), staticmethod(put)  # type: ignore[attr-defined]
    server = Server(listening.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    threading.Thread(target=server.serve_forever, name="metadata", daemon=True).start()
    return server
