"""One connection of a browser, passed on to the VM and repeated until it is answered.

Everything happens in the thread of its LocalProxy, whenever a socket is ready.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vmctl.ssh.tunnel.local_proxy import LocalProxy

WAIT_S = 60.0  # how long a browser may wait for the VM
WAITING = 256  # how many may
KEPT_BYTES = 64 * 1024  # of what a client sends before it is answered
PIECE_BYTES = 64 * 1024
AHEAD_BYTES = 256 * 1024  # read from one side before the other takes it
RETRIES = 5
# how long after its listener ssh may end, and retarget() be called
LINK_STATE_S = 0.4
FULL_S = 0.005  # until ssh's queue of new connections is tried again
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
RESET = struct.pack("ii", 1, 0)


class _Endpoint:
    """One of a connection's two sockets, and what it has not taken yet."""

    __slots__ = ("ended", "events", "out", "ready", "sent_end", "sock")

    def __init__(self, sock: socket.socket, ready: Callable[[int], None]) -> None:
        self.sock = sock
        self.ready = ready
        self.out = bytearray()
        self.events = 0  # what the selector watches for
        self.ended = False  # nothing more comes from it
        self.sent_end = False  # its peer has been shut down for writing


class ProxiedConnection:
    """One connection of the browser's, and the one that leads on from it."""

    def __init__(self, proxy: LocalProxy, connection: socket.socket) -> None:
        self._proxy = proxy
        self._client = _Endpoint(connection, self._client_ready)
        self._onward: _Endpoint | None = None
        self._path = ""  # where `_onward` leads
        self._kept = bytearray()  # sent by the client, and not answered yet
        self._answered = False
        self._tries = 0
        self._over = False  # only the rest for the client is still delivered
        self._then: Callable[[], None] = self.end
        self.due_at = 0.0
        proxy.connections.add(self)

    # -- leading on --------------------------------------------------------------------------

    def connect(self) -> None:
        """Connect the client to the VM, now or once there is a connection."""
        self._proxy.waiting.discard(self)
        if not self._proxy.path:
            if self._client.ended or len(self._proxy.connections) > WAITING:
                self.end()  # a client that hangs up does not wait any longer
                return
            self._await(WAIT_S, self.end)
        elif not self._dial(self._proxy.path):
            return
        self._watch()

    def _dial(self, path: str) -> bool:
        onward = socket.socket(socket.AF_UNIX)
        onward.setblocking(False)
        try:
            onward.connect(path)
        except BlockingIOError:
            onward.close()
            self._await(FULL_S, self.connect)
            return True
        except OSError:
            onward.close()
            self._await_link_state(path)
            return True
        self._path = path
        self._tries += 1
        self._onward = _Endpoint(onward, self._onward_ready)
        if self._kept:
            request = bytes(self._kept)
            if len(request) > KEPT_BYTES:
                self._commit()  # too much to send it twice
            self._proxy.sent += len(request)
            return self._give(self._onward, request)
        return True

    def retarget(self) -> None:
        """The proxy's target has changed, or there is none now."""
        if self._onward is not None:
            self._lost()
        elif not self._over:
            self.connect()

    def on_timeout(self) -> None:
        """The wait is over without an event."""
        self._proxy.waiting.discard(self)
        self._then()

    def end(self, *, reset: bool = False) -> None:
        """Close both connections; with `reset` the client knows that something is missing."""
        self._proxy.waiting.discard(self)
        self._proxy.connections.discard(self)
        self._drop_onward()
        if reset:
            with contextlib.suppress(OSError):
                self._client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self._forget(self._client)

    def _lost(self) -> None:
        """The connection to the VM has ended without an answer, or in the middle of one."""
        self._drop_onward()
        if not self._answered and self._tries <= RETRIES and _may_be_repeated(self._kept):
            self._await_link_state(self._path)
        elif self._path != self._proxy.path:
            self.end(reset=True)  # half an answer must not look like a whole one
        elif self._client.out:
            self._over = self._client.ended = True
        else:
            self.end()
        if self in self._proxy.connections:
            self._watch()

    def _await_link_state(self, path: str) -> None:
        """Wait for retarget(), which says that the link was lost; else the service hung up."""
        if self._proxy.path != path:
            self.connect()
        else:
            self._await(LINK_STATE_S, self.end)

    def _await(self, seconds: float, then: Callable[[], None]) -> None:
        self.due_at, self._then = time.monotonic() + seconds, then
        self._proxy.waiting.add(self)

    def _commit(self) -> None:
        """From here on no request can be repeated."""
        self._answered = True
        self._kept.clear()

    # -- bytes -------------------------------------------------------------------------------

    def _client_ready(self, events: int) -> None:
        side = self._client
        if events & WRITE and not self._flush(side):
            return
        if events & READ and not side.ended:
            data = self._read(side)
            if data is None:
                return
            if not data:
                side.ended = True
                if self._onward is None and not self._proxy.path:
                    self.end()
                    return
            else:
                if not self._answered:
                    self._kept += data
                if self._onward is not None:
                    if len(self._kept) > KEPT_BYTES:
                        self._commit()
                    self._proxy.sent += len(data)
                    if not self._give(self._onward, data):
                        return
        self._pass_ends_on()

    def _onward_ready(self, events: int) -> None:
        side = self._onward
        if side is None:  # dropped in this very turn of the selector
            return
        if events & WRITE and not self._flush(side):
            return
        if events & READ and not side.ended:
            data = self._read(side)
            if data is None:
                return
            if data:
                self._proxy.received += len(data)
                if not self._answered:
                    self._commit()
                if not self._give(self._client, data):
                    return
            elif not self._answered:
                self._lost()
                return
            else:
                side.ended = True
        self._pass_ends_on()

    def _read(self, side: _Endpoint) -> bytes | None:
        """The bytes received; b"" at the end, None when nothing came or the connection broke."""
        try:
            return side.sock.recv(PIECE_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            self._broken(side)
            return None

    def _give(self, side: _Endpoint, data: bytes) -> bool:
        """Write, now or later; False when the side is broken."""
        if not side.out:
            try:
                data = data[side.sock.send(data) :]
            except BlockingIOError:
                pass
            except OSError:
                self._broken(side)
                return False
        side.out += data
        return True

    def _flush(self, side: _Endpoint) -> bool:
        waiting, side.out = bytes(side.out), bytearray()
        return self._give(side, waiting)

    def _broken(self, side: _Endpoint) -> None:
        if side is self._client:
            self.end()
        else:
            self._lost()

    def _pass_ends_on(self) -> None:
        """Pass on the end of one side to the other; after both the connection is over."""
        client, onward = self._client, self._onward
        if onward is not None:
            for ended, other in ((client, onward), (onward, client)):
                if ended.ended and not other.out and not other.sent_end:
                    other.sent_end = True
                    with contextlib.suppress(OSError):
                        other.sock.shutdown(socket.SHUT_WR)
        done = client.sent_end and client.ended if onward is not None else self._over
        if done and not client.out:
            self.end()
        else:
            self._watch()

    def _watch(self) -> None:
        """Have the selector look for what either side can do next."""
        client, onward = self._client, self._onward
        behind = len(self._kept) > KEPT_BYTES if onward is None else len(onward.out) > AHEAD_BYTES
        self._look(client, reads=not client.ended and not behind)
        if onward is not None:
            self._look(onward, reads=not onward.ended and len(client.out) <= AHEAD_BYTES)

    def _look(self, side: _Endpoint, *, reads: bool) -> None:
        events = (READ if reads else 0) | (WRITE if side.out else 0)
        if events == side.events:
            return
        selector = self._proxy.selector
        if not side.events:
            selector.register(side.sock, events, side.ready)
        elif not events:
            selector.unregister(side.sock)
        else:
            selector.modify(side.sock, events, side.ready)
        side.events = events

    def _drop_onward(self) -> None:
        if self._onward is not None:
            self._forget(self._onward)
            self._onward = None

    def _forget(self, side: _Endpoint) -> None:
        if side.events:
            self._proxy.selector.unregister(side.sock)
            side.events = 0
        side.sock.close()


def _may_be_repeated(request: bytearray) -> bool:
    """Whether it was nothing, or one request that changes nothing on the other side."""
    if not request:
        return True
    is_single = request.startswith((b"GET ", b"HEAD ")) and request.endswith(b"\r\n\r\n")
    return is_single and request.count(b"\r\n\r\n") == 1
