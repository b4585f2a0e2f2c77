"""A port of this computer that stays ours while the connection behind it comes and goes.

OpenSSH listens on a Unix socket of its own; this passes the browser's connections on to it.
While there is no connection to the VM they wait, and a page that was asked for in vain is asked
for again: whoever looks at it sees a pause, not an error.
"""

from __future__ import annotations

import contextlib
import queue
import selectors
import socket
import threading
import time

from vmctl.ssh.tunnel.proxied_connection import READ, WAITING, Pair


class LocalPort:
    """Serves a listening socket in a thread of its own until it is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.received = 0  # bytes from the VM
        self.sent = 0  # bytes to the VM
        self.path = ""  # the Unix socket that leads to the VM; "" while nothing does
        self.pairs: set[Pair] = set()
        self.waiting: set[Pair] = set()  # those that something is due for
        self.selector = selectors.DefaultSelector()
        self._listener = listener
        self._listener.setblocking(False)
        self._orders: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._bell, self._ear = socket.socketpair()
        self._ear.setblocking(False)
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="local port", daemon=True)
        self._thread.start()

    def lead_to(self, path: str) -> None:
        """Pass connections on to this Unix socket from now on; "" lets them wait."""
        self._order(path)

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._order(None)
        self._thread.join()
        self._bell.close()

    @property
    def serves(self) -> bool:
        """Whether it is still at work."""
        return self._thread.is_alive()

    def _order(self, path: str | None) -> None:
        self._orders.put(path)
        with contextlib.suppress(OSError):  # closed already
            self._bell.send(b"!")

    # -- the thread --------------------------------------------------------------------------

    def _serve(self) -> None:
        self.selector.register(self._listener, READ, self._accept)
        self.selector.register(self._ear, READ, self._obey)
        try:
            while self._open:
                for key, events in self.selector.select(self._patience()):
                    key.data(events)
                self._expire()
        finally:
            for pair in list(self.pairs):
                pair.end()
            self._listener.close()
            self._ear.close()
            self.selector.close()

    def _accept(self, _: int) -> None:
        for _ in range(WAITING):
            try:
                connection, _ = self._listener.accept()
            except OSError:  # nobody more, or gone already
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            Pair(self, connection).lead_on()

    def _obey(self, _: int) -> None:
        self._ear.recv(4096)
        while not self._orders.empty():
            path = self._orders.get()
            if path is None:
                self._open = False
                return
            if path != self.path:
                self.path = path
                for pair in list(self.pairs):
                    pair.turn()

    def _patience(self) -> float | None:
        if not self.waiting:
            return None
        return max(0.0, min(pair.due_at for pair in self.waiting) - time.monotonic())

    def _expire(self) -> None:
        if not self.waiting:
            return
        now = time.monotonic()
        for pair in [pair for pair in self.waiting if pair.due_at <= now]:
            pair.due()
