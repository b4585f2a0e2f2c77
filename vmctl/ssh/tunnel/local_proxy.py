"""A local port that stays open while the connection behind it comes and goes.

OpenSSH listens on a Unix socket of its own; this passes the browser's connections on to it.
While there is no connection to the VM they wait, and a page that was requested in vain is requested
again: the user sees a pause, not an error.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
import time

from vmctl.ssh.tunnel.proxied_connection import READ, WAITING, ProxiedConnection


class LocalProxy:
    """Serves a listening socket in a thread of its own until it is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.received = 0  # bytes from the VM
        self.sent = 0  # bytes to the VM
        self.path = ""  # the Unix socket that leads to the VM; "" while nothing does
        self.connections: set[ProxiedConnection] = set()
        self.waiting: set[ProxiedConnection] = set()  # those that wait for a time
        self.selector = selectors.DefaultSelector()
        self._listener = listener
        self._listener.setblocking(False)
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._wake_w, self._wake_r = socket.socketpair()
        self._wake_r.setblocking(False)
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="local port", daemon=True)
        self._thread.start()

    def retarget(self, path: str) -> None:
        """Pass connections on to this Unix socket from now on; "" lets them wait."""
        self._order(path)

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._order(None)
        self._thread.join()
        self._wake_w.close()

    @property
    def is_alive(self) -> bool:
        """Whether it is still at work."""
        return self._thread.is_alive()

    def _order(self, path: str | None) -> None:
        self._orders.put(path)
        with contextlib.suppress(OSError):  # closed already
            self._wake_w.send(b"!")

    # -- the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        self.selector.register(self._listener, READ, self._accept)
        self.selector.register(self._wake_r, READ, self._follow_orders)
        try:
            while self._open:
                for key, events in self.selector.select(self._timeout_s()):
                    key.data(events)
                self._expire()
        finally:
            for connection in list(self.connections):
                connection.end()
            self._listener.close()
            self._wake_r.close()
            self.selector.close()

    def _accept(self, _: int) -> None:
        for _ in range(WAITING):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # no more clients, or closed already
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ProxiedConnection(self, connection).connect()

    def _follow_orders(self, _: int) -> None:
        self._wake_r.recv(4096)
        while not self._orders.empty():
            path = self._orders.get()
            if path is None:
                self._open = False
                return
            if path != self.path:
                self.path = path
                for connection in list(self.connections):
                    connection.retarget()

    def _timeout_s(self) -> float | None:
        if not self.waiting:
            return None
        return max(0.0, min(connection.due_at for connection in self.waiting) - time.monotonic())

    def _expire(self) -> None:
        if not self.waiting:
            return
        now = time.monotonic()
        for connection in [connection for connection in self.waiting if connection.due_at <= now]:
            connection.on_timeout()
