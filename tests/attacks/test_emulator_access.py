"""The emulator's one door: nobody gets in without the secret, nobody gets the secret by posing."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from starlette.types import Receive, Scope, Send

from tests.harness.emulator import Emulator
from tests.harness.endpoint import trusted
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project
from vmctl.emulator.http.app import make_application, require_secret
from vmctl.emulator.http.discovery import Discovery, Method
from vmctl.emulator.http.tls import Credentials

SECRET = "0123456789abcdef" * 4
PORT = 18080
OTHER_ROUTES = (
    ("GET", "/emulator/v1/status"), ("POST", "/emulator/v1/stop"), ("POST", "/emulator/v1/clock"),
    ("GET", "/emulator/v1/faults"), ("POST", "/emulator/v1/faults"),
    ("DELETE", "/emulator/v1/faults"), ("POST", "/emulator/v1/preempt"),
    ("POST", "/emulator/v1/crash"), ("POST", "/emulator/v1/hold"), ("GET", "/emulator/v1/hold"),
    ("DELETE", "/emulator/v1/hold"), ("POST", "/emulator/v1/books"), ("POST", "/batch"),
    ("POST", "/batch/compute/v1"), ("GET", "/"), ("GET", "/nothing/at/all"), ("OPTIONS", "/"),
    ("GET", "/storage/v1/b"), ("GET", "/storage/v1/b/x/o/y?alt=media"),
    ("GET", "/download/storage/v1/b/x/o/y"), ("POST", "/upload/storage/v1/b/x/o"),
    ("PUT", "/upload/storage/v1/b/x/o"), ("POST", "/batch/storage/v1"),
    ("POST", "/v1/projects/p/locations/r/customJobs"), ("POST", "/v2/entries:list"),
)  # fmt: skip
WRONG: tuple[tuple[tuple[bytes, bytes], ...], ...] = (
    (),
    ((b"authorization", b""),),
    ((b"authorization", b"Bearer "),),
    ((b"authorization", b"Bearer " + SECRET[:-1].encode()),),
    ((b"authorization", b"Bearer " + SECRET.encode() + b" "),),
    ((b"authorization", b"bearer " + SECRET.encode()),),
    ((b"authorization", b"Basic " + SECRET.encode()),),
    ((b"authorization", SECRET.encode()),),
    ((b"x-authorization", b"Bearer " + SECRET.encode()),),
    ((b"cookie", b"authorization=Bearer " + SECRET.encode()),),
    ((b"authorization", "Bearer é".encode("latin-1")),),
    ((b"authorization", b"Bearer x"), (b"authorization", b"Bearer " + SECRET.encode())),
)
RIGHT = ((b"authorization", b"Bearer " + SECRET.encode()),)


@pytest.fixture(scope="module")
def discovery() -> Discovery:
    return Discovery.load()


def routes(discovery: Discovery) -> list[tuple[str, str]]:
    """A path of every method of the API, and all that is answered beside it."""

    def path(method: Method) -> str:
        parts = ("x" if part.startswith("{") else part for part in method.segments)
        return "/compute/v1/" + "/".join(parts)

    every = [m for methods in discovery._routes.values() for m in methods]
    assert len(every) > 1000
    return [*((m.http_method, path(m)) for m in every), *OTHER_ROUTES]


class Caller:
    """Calls the application in this process. There is no cloud behind it: whoever gets through
    to one is answered with an error of its own."""

    def __init__(self) -> None:
        self.stopped = False
        about: dict[str, Any] = {}
        self._app = make_application(
            cast(Any, None), cast(Any, None), self._stop, about, PORT, SECRET
        )

    def _stop(self) -> None:
        self.stopped = True

    async def __call__(
        self, method: str, path: str, headers: tuple[tuple[bytes, bytes], ...]
    ) -> tuple[int, bytes]:
        host = (b"host", f"127.0.0.1:{PORT}".encode())
        scope = {
            "type": "http", "method": method, "path": path, "raw_path": path.encode(),
            "query_string": b"access_token=" + SECRET.encode(), "headers": [host, *headers],
        }  # fmt: skip
        said: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            said.append(message)

        await self._app(scope, receive, send)
        return said[0]["status"], b"".join(m.get("body", b"") for m in said[1:])

    async def websocket(self, path: str, headers: tuple[tuple[bytes, bytes], ...]) -> list[Any]:
        scope = {
            "type": "websocket", "path": path, "query_string": b"", "headers": list(headers),
            "subprotocols": [],
        }  # fmt: skip
        said: list[Any] = []

        async def receive() -> Any:
            return {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            said.append(message)

        await self._app(scope, receive, send)
        return said


def test_no_route_answers_without_the_secret(discovery: Discovery) -> None:
    caller = Caller()

    async def ask_all() -> None:
        for number, (method, path) in enumerate(routes(discovery)):
            wrong = WRONG[number % len(WRONG)]
            status, body = await caller(method, path, wrong)
            assert status == 401, (method, path, wrong)
            assert b"emulator env" in body

    asyncio.run(ask_all())
    assert not caller.stopped


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_not_quite_the_secret_is_no_secret(
    wrong: tuple[tuple[bytes, bytes], ...],
) -> None:
    caller = Caller()
    assert asyncio.run(caller("POST", "/emulator/v1/stop", wrong))[0] == 401
    assert not caller.stopped
    assert asyncio.run(caller.websocket("/v4/connect", wrong))[0]["type"] == "websocket.close"


def test_with_the_secret_every_route_is_open(discovery: Discovery) -> None:
    reached: list[str] = []

    async def inside(scope: Scope, receive: Receive, send: Send) -> None:
        reached.append(scope["path"])

    door = require_secret(inside, SECRET)

    async def ask_all() -> None:
        for _, path in routes(discovery):
            scope = {"type": "http", "path": path, "headers": list(RIGHT)}
            await door(scope, cast(Any, None), cast(Any, None))

    asyncio.run(ask_all())
    assert reached == [path for _, path in routes(discovery)]


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    made = Emulator(public_folder("door") / "emulator").start()
    yield made
    base = made.home.parent
    made.remove()
    shutil.rmtree(base)


def test_the_real_one_answers_its_secret_alone(emulator: Emulator) -> None:
    batch = "/batch/compute/v1"
    for path in ("/compute/v1/projects/p1/zones", "/emulator/v1/status", batch):
        for token in ("", "Bearer x", f"Bearer {emulator.secret[::-1]}"):
            status, answer = emulator.send("GET", path, headers={"Authorization": token})
            assert status == 401, (path, token)
            assert "secret" in answer["error"]["message"]
        assert emulator.send("GET", path)[0] == (404 if path == batch else 200)


def test_machines_are_never_given_its_own_port(emulator: Emulator) -> None:
    for port in (emulator.about["port"], 0, 65536, "22", None):
        assert emulator.send("POST", "/emulator/v1/forwards", {"port": port})[0] == 400
    assert emulator.admin("GET", "forwards") == {"forwards": []}


def test_its_port_speaks_no_plain_http(emulator: Emulator) -> None:
    about = emulator.about
    with socket.create_connection(("127.0.0.1", about["port"]), 30) as plain:
        host = f"127.0.0.1:{about['port']}"
        plain.sendall(
            f"GET /emulator/v1/status HTTP/1.1\r\nHost: {host}\r\n"
            f"Authorization: Bearer {emulator.secret}\r\n\r\n".encode()
        )
        answered = b""
        try:
            while data := plain.recv(4096):
                answered += data
        except ConnectionResetError:
            pass
    assert b"HTTP/" not in answered


def test_its_certificate_is_good_for_its_address_only(emulator: Emulator) -> None:
    about = emulator.about
    with (
        socket.create_connection(("127.0.0.1", about["port"]), 30) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        trusted(about).wrap_socket(plain, server_hostname="compute.googleapis.com")


def test_secret_and_key_are_for_their_owner_alone(emulator: Emulator) -> None:
    about = emulator.about
    token, certificate = Path(about["token_file"]), Path(about["certificate"])
    for file in (token, certificate, certificate.with_suffix(".key")):
        assert file.stat().st_mode & 0o7777 == 0o600
        assert file.parent.stat().st_mode & 0o7777 == 0o700
    assert len(bytes.fromhex(emulator.secret)) == 32
    log = (emulator.home / "emulator.log").read_text()
    assert emulator.secret not in log
    for pid in emulator.process, os:
        words = Path(f"/proc/{pid.pid if pid is not os else os.getpid()}/cmdline").read_text()  # type: ignore[union-attr]
        assert emulator.secret not in words


class Impostor:
    """Listens where the emulator did and keeps what it is sent; over TLS with a key of its own."""

    def __init__(self, port: int, credentials: Credentials | None, status: dict[str, Any]) -> None:
        self.heard = b""
        self._server = socket.create_server(("127.0.0.1", port))
        self._status = json.dumps(status).encode()
        self._context: ssl.SSLContext | None = None
        if credentials is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._context.load_cert_chain(credentials.certificate, credentials.key)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.getsockname()[1])

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            try:
                with connection:
                    connection.settimeout(10)
                    self._answer(connection)
            except OSError:
                continue

    def _answer(self, connection: socket.socket) -> None:
        wire: socket.socket = connection
        if self._context is not None:
            wire = self._context.wrap_socket(connection, server_side=True)
        data = wire.recv(65536)
        if self._context is not None or data[:1] != b"\x16":  # no greeting of TLS
            self.heard += data
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self._status)}\r\n\r\n"
        wire.sendall(head.encode() + self._status)


@contextmanager
def posing(
    port: int, credentials: Credentials | None, status: dict[str, Any]
) -> Iterator[Impostor]:
    made = Impostor(port, credentials, status)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("how", ["with a certificate of its own", "in the clear"])
def test_an_impostor_at_its_port_learns_nothing(
    emulator: Emulator, tmp_path: Path, how: str
) -> None:
    laptop = Laptop(tmp_path / "home", emulator.home)
    folder = project(tmp_path / "mine", BASE, {"secret.py": "password = 1\n"})
    other = Credentials.ensure(tmp_path / "other") if how.startswith("with") else None
    record = emulator.home / "emulator.json"
    kept = record.read_text()
    about = emulator.about
    with posing(0, other, about) as impostor:
        record.write_text(json.dumps({**about, "port": impostor.port}))
        try:
            for words in (("push",), ("status",), ("emulator", "status"), ("emulator", "env")):
                told = laptop(*words, cwd=folder, code=7).stderr
                assert "nothing was sent there" in told
        finally:
            record.write_text(kept)
        assert impostor.heard == b""
    assert laptop.json("emulator", "status", cwd=folder)["running"]


def test_one_of_an_earlier_version_is_named_with_the_way_to_end_it(
    emulator: Emulator, tmp_path: Path
) -> None:
    record = emulator.home / "emulator.json"
    kept = record.read_text()
    old = {k: v for k, v in emulator.about.items() if k not in ("certificate", "token_file")}
    record.write_text(json.dumps({**old, "url": f"http://127.0.0.1:{old['port']}"}))
    try:
        laptop = Laptop(tmp_path / "home", emulator.home)
        told = laptop("emulator", "start", cwd=tmp_path, code=4).stderr
        assert f"kill {old['pid']}" in told
    finally:
        record.write_text(kept)


def test_who_takes_the_port_of_a_killed_one_is_not_taken_for_it(tmp_path: Path) -> None:
    emulator = Emulator(public_folder("killed-door") / "emulator").start()
    laptop = Laptop(tmp_path / "home", emulator.home)
    folder = project(tmp_path / "mine", BASE, {"secret.py": "password = 1\n"})
    about = emulator.about
    try:
        emulator.stop(signal.SIGKILL)
        with posing(about["port"], Credentials.ensure(tmp_path / "other"), about) as impostor:
            assert not laptop.json("emulator", "status", cwd=folder)["running"]
            laptop("push", cwd=folder, code=3)
            # one is started anew, with the same key and elsewhere
            assert laptop.json("emulator", "start", cwd=folder)["pid"] != about["pid"]
            assert emulator.about["port"] != about["port"]
            assert emulator.about["certificate"] == about["certificate"]
            assert impostor.heard == b""
    finally:
        laptop("emulator", "stop", cwd=folder)
        base = emulator.home.parent
        emulator.remove()
        shutil.rmtree(base)


def test_a_home_of_another_user_is_not_obeyed(emulator: Emulator, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        home = Path("/")  # anybody's but ours
    else:
        home = tmp_path / "theirs"
        home.mkdir()
        (home / "emulator.json").write_text(json.dumps(emulator.about))
        os.chown(home, 65534, 65534)
    told = Laptop(tmp_path / "home", home)("emulator", "status", cwd=tmp_path, code=2).stderr
    assert "belongs to another user" in told
