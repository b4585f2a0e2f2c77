"""Accepts connections on each machine's natIP and passes their sockets into its sandbox."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import random
import selectors
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

from .interface import MachineError

logger = logging.getLogger(__name__)

PORTS = (22, 2222, 0)  # 22 needs root or a low ip_unprivileged_port_start
ATTEMPTS = 200
BACKLOG = 128
NETWORK_VARIABLE = "VMCTL_EMULATOR_NETWORK"  # a network of this computer's own, for machines


@dataclass(frozen=True, slots=True)
class Listener:
    """A bound address of one machine."""

    server: socket.socket
    nat_ip: str
    port: int


def machine_network() -> ipaddress.IPv4Network | None:
    """The network of the machines' addresses instead of 127.0.x.y; MachineError if it is invalid.

    All of its addresses must be local to this computer, like 127.0.0.0/8."""
    text = os.environ.get(NETWORK_VARIABLE, "")
    if not text:
        return None
    try:
        found = ipaddress.IPv4Network(text)
    except ValueError as error:
        raise MachineError(f"{NETWORK_VARIABLE} is not a network: {error}") from error
    if found.num_addresses < 256:
        raise MachineError(f"{NETWORK_VARIABLE} is too small: {text}; /24 is the smallest")
    return found


def is_machine_address(text: str) -> bool:
    """Whether a machine can listen at an address."""
    network = machine_network() or ipaddress.IPv4Network("127.0.0.0/8")
    return ipaddress.IPv4Address(text) in network


def random_address() -> str:
    """Return an address for a machine; it may be taken."""
    chosen = machine_network()
    if chosen is None:
        return f"127.0.{random.randint(2, 254)}.{random.randint(1, 254)}"
    # the first addresses belong to the computer itself
    return str(chosen[random.randint(16, chosen.num_addresses - 2)])


def listen(wanted: str | None, taken: set[str], static: bool = False) -> Listener:
    """Binds `wanted` if it is free, else, unless `static`, one of 127.0.2.0 to 127.0.254.255.

    With `machine_network()`: a free address of that."""
    candidates = [wanted] if wanted is not None and wanted not in taken else []
    candidates += [] if static else [random_address() for _ in range(ATTEMPTS)]
    # By port first: another emulator's machine may have the wanted address at port 22, and a client
    # that ignores the port in the metadata would reach that one.
    for port in PORTS:
        for address in candidates:
            if address in taken and address != wanted:
                continue
            server = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind((address, port))
                # Linux lets two sockets bind the same address; only one may listen on it.
                server.listen(BACKLOG)
            except OSError as error:
                server.close()
                if error.errno == errno.EACCES:
                    break
                continue
            server.setblocking(False)
            return Listener(server, address, server.getsockname()[1])
    if static:
        raise MachineError(f"the address {wanted} is in use on this computer")
    raise MachineError(f"no free address in {machine_network() or '127.0.0.0/8'} on this computer")


class SocketRelay:
    """One thread that accepts for all machines and copies their serial ports."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._changes: list[Callable[[], None]] = []
        self._fillers: dict[str, socket.socket] = {}
        self._lock = threading.Lock()
        self._open = True
        self._thread = threading.Thread(target=self._serve, name="socket relay", daemon=True)
        self._thread.start()

    def connect(self, listener: Listener, accepted: socket.socket) -> None:
        """Passes every connection to the listener into the machine, until `disconnect`.

        `accepted` is the socket whose other end the machine receives descriptors from."""

        def accept() -> None:
            try:
                connection, _ = listener.server.accept()
            except OSError:
                return
            with connection:
                try:
                    socket.send_fds(accepted, [b"c"], [connection.fileno()], socket.MSG_DONTWAIT)
                except OSError:
                    pass  # the machine has ended or is overloaded: the connection closes

        def begin() -> None:
            listener.server.listen(BACKLOG)
            self._selector.register(listener.server, selectors.EVENT_READ, accept)
            self._free(listener)

        self._change(begin)

    def silence(self, listener: Listener) -> None:
        """Drops connections there, as a firewall that drops packets, until `connect`.

        The kernel drops connections while the listener's queue is full: one of our own fills it."""

        def fill() -> None:
            with contextlib.suppress(KeyError):
                self._selector.unregister(listener.server)
            listener.server.listen(0)
            if listener.nat_ip not in self._fillers:
                filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
                filler.setblocking(False)
                filler.connect_ex((listener.nat_ip, listener.port))
                self._fillers[listener.nat_ip] = filler

        self._change(fill)

    def disconnect(self, listener: Listener) -> None:
        """Stops listening; the address is free when this returns."""

        def remove() -> None:
            with contextlib.suppress(KeyError):  # a boot that failed was never connected
                self._selector.unregister(listener.server)
            listener.server.close()
            self._free(listener)

        self._change(remove)

    def copy(self, descriptor: int, sink: Callable[[bytes], None]) -> None:
        """Gives what arrives on descriptor to sink; closes it at its end, after sink(b"")."""

        def read() -> None:
            data = os.read(descriptor, 65536)
            if not data:
                self._selector.unregister(descriptor)
                os.close(descriptor)
            sink(data)

        self._change(lambda: self._selector.register(descriptor, selectors.EVENT_READ, read))

    def close(self) -> None:
        """Ends the thread."""
        self._open = False
        os.write(self._wake_write, b"w")
        self._thread.join()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _free(self, listener: Listener) -> None:
        filler = self._fillers.pop(listener.nat_ip, None)
        if filler is not None:
            filler.close()

    def _change(self, change: Callable[[], object]) -> None:
        """Runs change in the thread that selects, and waits for it."""
        done = threading.Event()

        def apply() -> None:
            try:
                change()
            except Exception:
                logger.exception("socket relay")
            finally:
                done.set()

        with self._lock:
            self._changes.append(apply)
        os.write(self._wake_write, b"w")
        done.wait()

    def _serve(self) -> None:
        while self._open:
            for key, _ in self._selector.select():
                if key.data is not None:
                    try:
                        key.data()
                    except Exception:
                        # A failure of one machine (a full disk under its serial port, say)
                        # must not cut off the others.
                        logger.exception("socket relay")
                    continue
                os.read(self._wake_read, 4096)
                with self._lock:
                    changes, self._changes = self._changes, []
                for change in changes:
                    change()
