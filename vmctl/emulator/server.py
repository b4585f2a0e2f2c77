"""The server process: one lock per home, one port on 127.0.0.1, a clean start and a clean stop."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .clock import make_clock, parse_stamp, stamp
from .errors import Json
from .http.tls import Credentials
from .machines.file_modes import make_folder, tighten
from .store import write_json

STATUS_FILE = "emulator.json"
_FIRST_PORT = 18080

log = logging.getLogger("vmctl.emulator")


class AlreadyRunning(Exception):
    """Another emulator holds this home."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to serve: `port` None means the last one if it is free, else any."""

    home: Path
    images: Path
    port: int | None
    clock: str
    metadata_only: bool = False


@contextlib.contextmanager
def hold(home: Path) -> Iterator[None]:
    """Hold a home for the life of the process; AlreadyRunning if another process does."""
    if not home.exists():
        make_folder(home)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise AlreadyRunning(str(home)) from None
    try:
        # only now: another emulator's machines may be using it
        make_folder(home)
        for name in ("state", "lock", "emulator.log", "emulator.log.1"):
            tighten(home / name)
        yield
    finally:
        os.close(descriptor)


def listen(home: Path, port: int | None) -> socket.socket:
    """Bind 127.0.0.1: the given port or OSError; without one the last port, else any free one."""
    remembered = home / "state" / "port.json"
    wanted = [port] if port is not None else [_last_port(remembered), _FIRST_PORT, 0]
    for index, candidate in enumerate(wanted):
        if candidate is None:
            continue
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # inherited by accepted connections: else a reply in two writes waits 40 ms for an ACK
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            listener.bind(("127.0.0.1", candidate))
            listener.listen(256)
        except OSError:
            listener.close()
            if index == len(wanted) - 1:
                raise
            continue
        write_json(remembered, {"port": listener.getsockname()[1]})
        return listener
    raise OSError("no port could be bound")


def _last_port(file: Path) -> int | None:
    try:
        return int(json.loads(file.read_bytes())["port"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


async def serve(options: Options) -> None:
    """Serve until SIGTERM, SIGINT or the admin route's stop; the home must be held."""
    listener = listen(options.home, options.port)
    port = listener.getsockname()[1]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stopping.set)
    status_file = options.home / STATUS_FILE
    credentials = Credentials.ensure(options.home / "state")
    async with _cloud(options) as (cloud, lifecycle):
        from .cloud.cloud import DEFAULT_PROJECT
        from .http.app import make_application
        from .http.discovery import Discovery

        about: Json = {
            "pid": os.getpid(),
            "port": port,
            "url": f"https://127.0.0.1:{port}",
            "certificate": str(credentials.certificate),
            "token_file": str(credentials.secret),
            "project": DEFAULT_PROJECT,
            "mode": cloud.machines.mode,
            "note": "; ".join(filter(None, (cloud.machines.note, _unreadable(cloud.store)))),
            "bounds": cloud.machines.bounds,
            "clock": cloud.clock.kind,
            "home": str(options.home),
            "api_revision": Discovery.load().revision,
            "started": stamp(cloud.clock.now()),
        }
        cloud.storage.url = about["url"]
        secret = credentials.read_secret()
        app = make_application(cloud, lifecycle, stopping.set, about, port, secret)
        server = _make_server(app, credentials)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        lifecycle.wake()
        write_json(status_file, about)
        log.info("serving on port %d, mode %s, clock %s", port, about["mode"], about["clock"])
        try:
            waiting = asyncio.create_task(stopping.wait())
            await asyncio.wait({waiting, serving}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
        finally:
            log.info("stopping")
            status_file.unlink(missing_ok=True)
            cloud.operations.closing.set()
            server.should_exit = True
            await serving
    log.info("stopped")


@contextlib.asynccontextmanager
async def _cloud(options: Options) -> AsyncIterator[Any]:
    """Build the cloud, and close it so that no machine is left running."""
    from .cloud.billing import Billing
    from .cloud.catalog import Catalog
    from .cloud.cloud import Cloud
    from .cloud.firewall import SshFirewall
    from .cloud.lifecycle import Lifecycle
    from .cloud.machine_host import AsyncMachineHost
    from .cloud.operations import Operations
    from .cloud.quotas import Quotas
    from .faults.faults import Faults
    from .storage.objects import Storage
    from .store import Store

    clock_file = options.home / "state" / "clock.json"
    clock = make_clock(options.clock, _last_reading(clock_file))
    store = Store(options.home / "state" / "projects")
    catalog = Catalog.load()
    quotas = Quotas(store, catalog)
    billing = Billing(options.home / "state" / "books.jsonl", clock)
    store.watch = lambda record, deleted: billing.update(record, deleted=deleted)
    for kind in billing.KINDS:
        for record in store.find(kind):  # made by an emulator without billing
            billing.update(record)
    metadata_only = _choose_mode(options, bool(store.find("instances")))
    machines = AsyncMachineHost(options.home, options.images, metadata_only=metadata_only)
    cloud = Cloud(
        clock=clock,
        store=store,
        catalog=catalog,
        quotas=quotas,
        faults=Faults(options.home / "state" / "faults.json", catalog, quotas, clock),
        operations=Operations(store, clock),
        machines=machines,
        firewall=SshFirewall(store, machines),
        billing=billing,
        storage=Storage(options.home, clock),
    )
    lifecycle = Lifecycle(cloud)
    machines.backend.target = lifecycle
    try:
        yield cloud, lifecycle
    finally:
        await lifecycle.close()
        await cloud.operations.close()
        running = [r.body["id"] for r in store.find("instances") if r.body["status"] == "RUNNING"]
        await machines.close(running)
        cloud.storage.close()
        write_json(clock_file, {"now": stamp(clock.now())})


def _choose_mode(options: Options, has_instances: bool) -> bool:
    """Whether instances are metadata only: as they were made, as long as the home has any."""
    file = options.home / "state" / "metadata-only"
    if options.metadata_only and has_instances and not file.exists():
        raise ValueError(
            "the instances in this home have machines. For metadata only, delete them first, or "
            "choose another home with VMCTL_EMULATOR_HOME"
        )
    chosen = options.metadata_only or (has_instances and file.exists())
    if chosen:
        file.touch(0o600)
    else:
        file.unlink(missing_ok=True)
    return chosen


def _unreadable(store: Any) -> str:
    files = store.unreadable()
    if not files:
        return ""
    return (
        f"{len(files)} damaged files were set aside (*.unreadable in {store.folder}); disks "
        "without an owner are kept until they are deleted"
    )


def _last_reading(file: Path) -> Any:
    try:
        return parse_stamp(json.loads(file.read_bytes())["now"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make_server(app: Any, credentials: Credentials) -> Any:
    import uvicorn

    class Server(uvicorn.Server):
        """Uvicorn without its own signal handlers: `serve` handles signals."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            """Drop idle connections: their clients would not answer TLS's close_notify."""
            for connection in list(self.server_state.connections):
                cycle = getattr(connection, "cycle", self)  # a WebSocket has none
                if cycle is None or getattr(cycle, "response_complete", False):
                    connection.transport.abort()
            await super().shutdown(sockets)

    return Server(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            http="h11",
            ws="wsproto",
            ssl_certfile=credentials.certificate,
            ssl_keyfile=credentials.key,
            ssl_ciphers="DEFAULT",
            ws_ping_interval=None,  # like Google's proxy: ssh notices a dead connection
            server_header=False,
            date_header=False,  # http/app.py sends one, by the cloud's clock
            timeout_graceful_shutdown=2,
            timeout_keep_alive=75,
        )
    )
