"""Single ports of this computer that its machines may reach, each named by the user.

A machine reaches nothing of the computer by itself. A port of 127.0.0.1 that is forwarded answers
in every machine at 10.0.2.2: we listen there, inside the machine's network, and pass on what comes.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import subprocess
import threading
from pathlib import Path

from .interface import MachineError
from .sandbox import network_command

ADDRESS = "10.0.2.2"
VARIABLE = "VMCTL_EMULATOR_FORWARD"  # ports to begin with, with commas between them
HELPER_S = 20.0
CHUNK = 65536

logger = logging.getLogger(__name__)


class Forwards:
    """The ports, and the machines that have them; may be called from any thread."""

    def __init__(self, seed: Path) -> None:
        """MachineError when the environment names something else than ports."""
        self._seed = seed
        self._lock = threading.Lock()
        self._ports = {checked(text) for text in os.environ.get(VARIABLE, "").split(",") if text}
        self._machines: dict[str, int] = {}  # a process in each one's network
        self._servers: dict[tuple[str, int], asyncio.Server] = {}
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="forwards", daemon=True)
        self._thread.start()

    @property
    def ports(self) -> list[int]:
        """Those in force."""
        with self._lock:
            return sorted(self._ports)

    def add(self, port: int) -> None:
        """Every machine has the port from now on; one in which it cannot be had is passed over."""
        with self._lock:
            self._ports.add(port)
            for name, pid in self._machines.items():
                self._open(name, pid, [port])

    def remove(self, port: int) -> None:
        """No machine has it any more; connections that are open end by themselves."""
        with self._lock:
            self._ports.discard(port)
            for name in self._machines:
                self._shut(name, port)

    def attach(self, name: str, pid: int) -> None:
        """A machine has come up in whose network pid is."""
        with self._lock:
            self._machines[name] = pid
            if self._ports:
                self._open(name, pid, sorted(self._ports))

    def detach(self, name: str) -> None:
        """A machine is gone."""
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
        """Listens in a machine's network; another process has to go there for it."""
        ports = [port for port in ports if (name, port) not in self._servers]
        if not ports:
            return
        ours, theirs = socket.socketpair()
        with ours, theirs:
            words = ["open", str(theirs.fileno()), *map(str, ports)]
            enter = ["nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials"]
            done = subprocess.run(
                [*enter, "--", *network_command(self._seed, *words)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=HELPER_S,
                check=False,
            )
            if done.returncode != 0:
                said = done.stderr.decode("utf-8", "replace").strip()
                logger.warning("machine %s has no port of this computer: %s", name, said)
                return
            _, descriptors, _, _ = socket.recv_fds(ours, 1, len(ports))
        for port, descriptor in zip(ports, descriptors, strict=True):
            listening = socket.socket(fileno=descriptor)
            begun = asyncio.run_coroutine_threadsafe(self._serve(listening, port), self._loop)
            self._servers[name, port] = begun.result(HELPER_S)

    def _shut(self, name: str, port: int) -> None:
        server = self._servers.pop((name, port), None)
        if server is not None:
            self._loop.call_soon_threadsafe(server.close)

    @staticmethod
    async def _serve(listening: socket.socket, port: int) -> asyncio.Server:
        async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                there, back = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                writer.transport.abort()  # refused here is refused there
                return
            try:
                await asyncio.gather(_copy(reader, back), _copy(there, writer))
            finally:
                writer.close()
                back.close()

        return await asyncio.start_server(carry, sock=listening)


def checked(text: str) -> int:
    """A port's number; MachineError for anything else."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        raise MachineError(f"'{text}' is no port of this computer: name one of 1 to 65535")
    return int(text)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """What one side sends goes to the other, and so does its end."""
    try:
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.transport.abort()
