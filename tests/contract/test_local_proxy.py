"""A local port that is served through Unix sockets which come and go, with real sockets."""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from vmctl.domain.errors import Conflict
from vmctl.ssh.tunnel.local_ports import listen, listen_from
from vmctl.ssh.tunnel.local_proxy import LocalProxy

GET = b"GET /page HTTP/1.1\r\nHost: vm\r\n\r\n"
POST = b"POST /page HTTP/1.1\r\nHost: vm\r\nContent-Length: 0\r\n\r\n"
LIMIT_S = 20.0


@pytest.fixture
def port() -> Iterator[LocalProxy]:
    made = LocalProxy(listen_from(20000))
    yield made
    made.close()


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vmlp") as made:
        yield Path(made)


@contextlib.contextmanager
def far_end(path: Path, serve: Callable[[socket.socket], None]) -> Iterator[None]:
    """Where the forward leads: every connection is served in a thread of its own."""
    threads: list[threading.Thread] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(64)

        def run(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):
                connection.settimeout(LIMIT_S)
                serve(connection)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    threads.append(threading.Thread(target=run, args=(connection,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            accepting.join()
            for thread in threads:
                thread.join()


def client(port: LocalProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port.port), LIMIT_S)


def read_all(connection: socket.socket) -> bytes:
    found = []
    while data := connection.recv(65536):
        found.append(data)
    return b"".join(found)


def hang_up(connection: socket.socket) -> None:
    connection.recv(65536)


def answer(text: bytes) -> Callable[[socket.socket], None]:
    """One question, one answer, then the end."""

    def serve(connection: socket.socket) -> None:
        assert connection.recv(65536)
        connection.sendall(text)

    return serve


def test_bytes_arrive_both_ways_and_each_side_may_end_first(port: LocalProxy, folder: Path) -> None:
    def count(connection: socket.socket) -> None:
        data = read_all(connection)
        connection.sendall(hashlib.sha256(data).digest())

    data = random.Random(1).randbytes(20_000_000)
    with far_end(folder / "s", count), client(port) as connection:
        port.retarget(str(folder / "s"))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection) == hashlib.sha256(data).digest()
    assert port.sent == len(data)
    assert port.received == 32


def test_a_slow_reader_gets_everything_and_is_waited_for(port: LocalProxy, folder: Path) -> None:
    data = random.Random(2).randbytes(20_000_000)
    sent = 0

    def pour(connection: socket.socket) -> None:
        nonlocal sent
        connection.recv(1)
        while sent < len(data):
            sent += connection.send(data[sent : sent + 65536])

    with far_end(folder / "s", pour), client(port) as connection:
        port.retarget(str(folder / "s"))
        connection.sendall(b"x")
        first = connection.recv(1000)
        assert first
        ahead = threading.Event()
        ahead.wait(0.5)
        assert sent < len(data), "what nobody reads is not taken in"
        assert first + read_all(connection) == data


def test_who_comes_before_the_link_waits_for_it(port: LocalProxy, folder: Path) -> None:
    with client(port) as connection, far_end(folder / "s", answer(b"at last")):
        connection.sendall(GET)
        connection.settimeout(0.3)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        connection.settimeout(LIMIT_S)
        port.retarget(str(folder / "s"))
        assert read_all(connection) == b"at last"


def test_a_page_asked_for_in_vain_is_asked_for_again(port: LocalProxy, folder: Path) -> None:
    heard = threading.Event()

    def die(connection: socket.socket) -> None:
        connection.recv(65536)
        heard.set()
        port.retarget("")

    with far_end(folder / "old", die), far_end(folder / "new", answer(b"page")):
        port.retarget(str(folder / "old"))
        with client(port) as connection:
            connection.sendall(GET)
            assert heard.wait(LIMIT_S)
            port.retarget(str(folder / "new"))
            assert read_all(connection) == b"page"


def test_what_may_have_had_an_effect_is_never_said_twice(port: LocalProxy, folder: Path) -> None:
    said = []

    def note(connection: socket.socket) -> None:
        said.append(connection.recv(65536))
        port.retarget("")

    with far_end(folder / "old", note), far_end(folder / "new", note), client(port) as connection:
        port.retarget(str(folder / "old"))
        connection.sendall(POST)
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        port.retarget(str(folder / "new"))
    assert said == [POST]


def test_half_an_answer_does_not_look_like_a_whole_one(port: LocalProxy, folder: Path) -> None:
    over = threading.Event()

    def half(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"half of it")
        over.wait(LIMIT_S)

    with far_end(folder / "s", half), client(port) as connection:
        port.retarget(str(folder / "s"))
        connection.sendall(GET)
        assert connection.recv(100) == b"half of it"
        port.retarget("")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        over.set()


def test_a_service_that_hangs_up_is_not_asked_for_ever(port: LocalProxy, folder: Path) -> None:
    with far_end(folder / "s", hang_up), client(port) as connection:
        port.retarget(str(folder / "s"))
        connection.sendall(GET)
        assert read_all(connection) == b""


def test_many_at_once(port: LocalProxy, folder: Path) -> None:
    with far_end(folder / "s", answer(b"hello")), contextlib.ExitStack() as stack:
        clients = [stack.enter_context(client(port)) for _ in range(100)]
        for connection in clients:
            connection.sendall(GET)
        port.retarget(str(folder / "s"))
        assert {read_all(connection) for connection in clients} == {b"hello"}


def test_the_port_is_ours_until_it_is_closed(folder: Path) -> None:
    port = LocalProxy(listen_from(20000))
    with client(port) as connection:
        with pytest.raises(Conflict, match=str(port.port)):
            listen(port.port)
        port.close()
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1) == b""
    port.close()
    listen(port.port).close()
