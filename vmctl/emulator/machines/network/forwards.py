"""Ports of this computer that its machines may reach, each named by the user.

A machine cannot reach the computer by itself. A forwarded port of 127.0.0.1 answers in every
machine at 10.0.2.2: a socket that listens there, in the machine's network, is relayed to it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import threading
from pathlib import Path

from ..interface import MachineError
from ..sandbox import network_command

ADDRESS = "10.0.2.2"
VARIABLE = "VMCTL_EMULATOR_FORWARD"  # the first ports, separated by commas
HELPER_S = 20.0
CHUNK = 65536

logger = logging.getLogger(__name__)


class Forwards:
    """The forwarded ports and the machines that have them; may be called from any thread."""

    def __init__(self, seed: Path) -> None:
        """MachineError if the environment variable is not a list of ports."""
        self._seed = seed
        self._lock = threading.Lock()
        self._ports = {parse_port(text) for text in os.environ.get(VARIABLE, "").split(",") if text}
        self._machines: dict[str, int] = {}  # a process in each one's network
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwards", daemon=True)
        self._thread.start()

    @property
    def ports(self) -> list[int]:
        """The forwarded ports."""
        with self._lock:
            return sorted(self._ports)

    def add(self, port: int) -> None:
        """Forward a port to every machine, except those where that is impossible."""
        with self._lock:
            self._ports.add(port)
            for name, pid in self._machines.items():
                self._open(name, pid, [port])

    def remove(self, port: int) -> None:
        """Stop forwarding a port; open connections stay."""
        with self._lock:
            self._ports.discard(port)
            for name in self._machines:
                self._shut(name, port)

    def attach(self, name: str, pid: int) -> None:
        """Forward the ports to a new machine, whose network the process pid is in."""
        with self._lock:
            self._machines[name] = pid
            if self._ports:
                self._open(name, pid, sorted(self._ports))

    def detach(self, name: str) -> None:
        """Forget a machine that has ended."""
        with self._lock:
            if self._machines.pop(name, None) is not None:
                for port in self._ports:
                    self._shut(name, port)

    def close(self) -> None:
        """Ends the thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _open(self, name: str, pid: int, ports: list[int]) -> None:
        """Listens in a machine's network, through another process that enters it."""
        ports = [port for port in ports if (name, port) not in self._servers]
        if not ports:
            return
        near, far = socket.socketpair()
        with near, far:
            words = ["open", str(far.fileno()), *map(str, ports)]
            enter = ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]
            done = subprocess.run(
                [*enter, "--", *network_command(self._seed, *words)],
                pass_fds=(far.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=HELPER_S,
                check=False,
            )
            if done.returncode != 0:
                error = done.stderr.decode("utf-8", "replace").strip()
                logger.warning("machine %s: ports cannot be forwarded: %s", name, error)
                return
            _, descriptors, _, _ = socket.recv_fds(near, 1, len(ports))
        for port, descriptor in zip(ports, descriptors, strict=True):
            listening = socket.socket(fileno=descriptor)
            serving = asyncio.run_coroutine_threadsafe(self._serve(listening, port), self._loop)
            self._servers[name, port] = serving.result(HELPER_S)

    def _shut(self, name: str, port: int) -> None:
        server = self._servers.pop((name, port), None)
        if server is not None:
            self._loop.call_soon_threadsafe(server.close)

    @staticmethod
    async def _serve(listening: socket.socket, port: int) -> asyncio.Server:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                remote_reader, remote_writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.transport.abort()  # refused on the computer: refused in the machine
                return
            try:
                await asyncio.gather(_copy(reader, remote_writer), _copy(remote_reader, writer))
            finally:
                writer.close()
                remote_writer.close()

        return await asyncio.start_server(carry, sock=listening)


def parse_port(text: str) -> int:
    """Parse a port's number; MachineError if it is not valid."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise MachineError(f"'{text}' is not a valid port: name one from 1 to 65535")
    return int(text)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy what one side sends to the other, its end of data too."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
