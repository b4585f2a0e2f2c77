"""A port of this computer that stays ours while the connection behind it comes and goes.

OpenSSH listens on a Unix socket of its own; this passes the browser's connections on to it.
While there is no connection to the VM they wait, and a page that was asked for in vain is asked
for again: whoever looks at it sees a pause, not an error.
"""

from __future__ import annotations

import asyncio
import socket
import threading

WAIT_S = 60.0  # how long a browser may wait for the VM
WAITING = 256  # how many may
KEPT_BYTES = 64 * 1024  # of what a client says before it is answered
RETRIES = 5
# ssh and its listener end together: so long it may take until we are told that it did
VERDICT_S = 0.4


class LocalPort:
    """Serves a listening socket in a thread of its own until it is closed."""

    def __init__(self, listener: socket.socket) -> None:
        self.port: int = listener.getsockname()[1]
        self.received = 0  # bytes from the VM
        self.sent = 0  # bytes to the VM
        self.path = ""  # the Unix socket that leads to the VM; "" while nothing does
        self.clients: set[_Client] = set()
        self.loop = asyncio.new_event_loop()
        self._listener = listener
        self._thread = threading.Thread(target=self._serve, name="local port", daemon=True)
        self._thread.start()

    def lead_to(self, path: str) -> None:
        """Pass connections on to this Unix socket from now on; "" lets them wait."""
        self.loop.call_soon_threadsafe(self._turn, path)

    def close(self) -> None:
        """Stop listening and end every connection."""
        if not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join()

    def _serve(self) -> None:
        try:
            server = self.loop.run_until_complete(
                self.loop.create_server(lambda: _Client(self), sock=self._listener, backlog=128)
            )
            self.loop.run_forever()
            server.close()
            self.loop.run_until_complete(self._end_clients())
        finally:
            self._listener.close()
            self.loop.close()

    async def _end_clients(self) -> None:
        for client in list(self.clients):
            client.end()
        dialling = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.gather(*dialling, return_exceptions=True)
        await asyncio.sleep(0)  # transports close one turn later

    def _turn(self, path: str) -> None:
        self.path = path
        for client in list(self.clients):
            client.turn()


class _Client(asyncio.Protocol):
    """One connection of the browser's, and what leads on from it."""

    transport: asyncio.Transport

    def __init__(self, port: LocalPort) -> None:
        self._port = port
        self._kept = bytearray()  # said, and not answered yet
        self._keeps = True
        self._ended = False  # it has said all it has to say
        self._tries = 0
        self._onward: _Onward | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- the browser's side ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._port.clients.add(self)
        self._lead_on()

    def data_received(self, data: bytes) -> None:
        if self._keeps:
            self._kept += data
        if self._onward is not None:
            self._port.sent += len(data)
            self._onward.transport.write(data)
            if len(self._kept) > KEPT_BYTES:
                self.answered()  # too much to say it twice
        elif len(self._kept) > KEPT_BYTES:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        if self._onward is not None:
            self._onward.write_eof()
        # who hangs up while nothing leads on has lost patience: nobody waits for an answer
        return self._onward is not None or self._dialling is not None

    def connection_lost(self, exc: Exception | None) -> None:
        self._port.clients.discard(self)
        self._stop_waiting()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._onward is not None:
            self._onward.leave()

    def pause_writing(self) -> None:
        if self._onward is not None:
            self._onward.transport.pause_reading()

    def resume_writing(self) -> None:
        if self._onward is not None:
            self._onward.transport.resume_reading()

    # -- leading on --------------------------------------------------------------------------

    def turn(self) -> None:
        """The way to the VM is another one now, or there is none."""
        if self._onward is not None:
            self._onward.transport.abort()  # it lost its way: `lost` decides what becomes of us
        elif self._dialling is None:
            self._lead_on()

    def end(self) -> None:
        """Nothing more comes."""
        self._stop_waiting()
        if self._dialling is not None:
            self._dialling.cancel()
        if self._onward is not None:
            self._onward.leave(at_once=True)
        self.transport.abort()

    def _lead_on(self) -> None:
        self._stop_waiting()
        if self._port.path:
            self._dialling = self._port.loop.create_task(self._dial(self._port.path))
        elif len(self._port.clients) > WAITING:
            self.transport.abort()
        else:
            self._timer = self._port.loop.call_later(WAIT_S, self.transport.abort)

    async def _dial(self, path: str) -> None:
        onward = _Onward(self)
        try:
            await self._port.loop.create_unix_connection(lambda: onward, path)
        except OSError:
            self._dialling = None
            self._await_verdict(path)
            return
        self._dialling = None
        self._onward = onward
        self._tries += 1
        if self._kept:
            self._port.sent += len(self._kept)
            onward.transport.write(bytes(self._kept))
        if len(self._kept) > KEPT_BYTES:
            self.answered()
            self.transport.resume_reading()
        if self._ended:
            onward.write_eof()

    def lost(self, onward: _Onward) -> None:
        """What led to the VM has ended without an answer, or in the middle of one."""
        if onward is not self._onward:
            return
        self._onward = None
        onward.transport.abort()
        if self._keeps and self._tries <= RETRIES and _may_be_repeated(self._kept):
            self._await_verdict(onward.path)
        elif self._port.path == onward.path:
            self.transport.close()
        else:
            self.transport.abort()  # half an answer must not look like a whole one

    def _await_verdict(self, path: str) -> None:
        """Wait for the word that the link was lost; else it was the service that hung up."""
        if self._port.path != path:
            self._lead_on()
        else:
            self._timer = self._port.loop.call_later(VERDICT_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def answered(self) -> None:
        """From here on nothing can be said again."""
        self._keeps = False
        self._kept.clear()

    def give(self, data: bytes) -> None:
        """What came from the VM."""
        self._port.received += len(data)
        if self._keeps:
            self.answered()
        self.transport.write(data)

    @property
    def has_answer(self) -> bool:
        return not self._keeps

    @property
    def has_ended(self) -> bool:
        return self._ended

    @property
    def path(self) -> str:
        return self._port.path


class _Onward(asyncio.Protocol):
    """The connection to OpenSSH's socket that belongs to one client."""

    transport: asyncio.Transport

    def __init__(self, client: _Client) -> None:
        self._client = client
        self._left = False
        self.path = client.path

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._client.give(data)

    def eof_received(self) -> bool:
        if not self._client.has_answer or self._client.has_ended:
            return False  # over: `connection_lost` follows
        self._client.transport.write_eof()
        return True  # the client may still have something to say

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._left:
            self._client.lost(self)

    def pause_writing(self) -> None:
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        self._client.transport.resume_reading()

    def write_eof(self) -> None:
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def leave(self, *, at_once: bool = False) -> None:
        """The client has gone; what it said before is still passed on, if it need not be now."""
        self._left = True
        if at_once:
            self.transport.abort()
        else:
            self.transport.close()


def _may_be_repeated(said: bytearray) -> bool:
    """Whether it was nothing, or one question that changes nothing on the other side."""
    if not said:
        return True
    one = said.startswith((b"GET ", b"HEAD ")) and said.endswith(b"\r\n\r\n")
    return one and said.count(b"\r\n\r\n") == 1
