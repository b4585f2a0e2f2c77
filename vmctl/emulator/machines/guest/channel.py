"""The machine's connection to its host: one JSON object a line, over an inherited socket."""

from __future__ import annotations

import itertools
import json
import socket
import threading

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class NoReply(Exception):
    """The host did not answer."""


class Channel:
    """Requests (`call`) and notifications (`notify`) to the host, orders from it (`on_order`)."""

    def __init__(
        self,
        connection: socket.socket,
        on_order: Callable[[dict[str, Any]], None],
        on_end: Callable[[], None],
    ) -> None:
        self._connection = connection
        self._on_order = on_order
        self._on_end = on_end
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._waiting: dict[int, tuple[threading.Event, list[Any]]] = {}

    def start(self) -> None:
        """Reads in a thread of its own until the host hangs up."""
        threading.Thread(target=self._read, name="channel", daemon=True).start()

    def notify(self, op: str, **values: object) -> None:
        """Sends one message without a reply."""
        self._send({"op": op, **values})

    def call(self, op: str, timeout_s: float = 20, **values: object) -> Any:
        """Returns the host's reply to one request; NoReply after timeout_s."""
        number = next(self._numbers)
        arrived, answer = self._waiting[number] = (threading.Event(), [])
        try:
            self._send({"op": op, "id": number, **values})
            if not arrived.wait(timeout_s):
                raise NoReply(f"no reply to {op} within {timeout_s} s")
            return answer[0]
        finally:
            del self._waiting[number]

    def _send(self, message: dict[str, object]) -> None:
        line = json.dumps(message).encode() + b"\n"
        with self._sending:
            self._connection.sendall(line)

    def _read(self) -> None:
        with self._connection.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "re" not in message:
                    self._on_order(message)
                elif waiting := self._waiting.get(message["re"]):
                    waiting[1].append(message.get("result"))
                    waiting[0].set()
        self._on_end()
