"""The emulator's API in this process: real handlers and a real store, and no machines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast
from urllib.parse import urlencode

from vmctl.emulator.clock import make_clock
from vmctl.emulator.cloud.billing import Billing
from vmctl.emulator.cloud.catalog import Catalog
from vmctl.emulator.cloud.cloud import Cloud
from vmctl.emulator.cloud.firewall import SshFirewall
from vmctl.emulator.cloud.lifecycle import Lifecycle
from vmctl.emulator.cloud.machine_host import AsyncMachineHost
from vmctl.emulator.cloud.operations import Operations
from vmctl.emulator.cloud.quotas import Quotas
from vmctl.emulator.faults.faults import Faults
from vmctl.emulator.http.discovery import Discovery
from vmctl.emulator.http.dispatch import Dispatcher
from vmctl.emulator.machines import Booted
from vmctl.emulator.machines.disks.serial_port import SerialPort
from vmctl.emulator.resources import handlers
from vmctl.emulator.storage.objects import Storage
from vmctl.emulator.store import Store

ZONE, REGION, PROJECT = "europe-west1-b", "europe-west1", "p1"
IMAGE = "projects/debian-cloud/global/images/family/debian-12"
T = TypeVar("T")


class NoMachines:
    """A host whose machines boot and end at once and are never there."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.serial = SerialPort(home / "serial.log")

    def disk(self, disk_id: str) -> Path:
        return self._home / disk_id

    async def prepare_image(self, image: str, progress: Callable[[str], None]) -> None: ...

    async def boot(self, spec: Any) -> Booted:
        return Booted("127.0.1.1", 22)

    async def shutdown(self, instance_id: str, grace_s: float) -> None: ...

    async def metadata_changed(self, instance_id: str) -> None: ...

    async def admit(self, instance_id: str, admits: bool) -> None: ...

    async def open_network(self, name: str, is_open: bool) -> None: ...

    async def readdress(self, instance_id: str, address: str | None) -> Booted:
        return Booted(address or "127.0.1.2", 22)

    async def attach(self, instance_id: str, disk: Any) -> None: ...

    async def detach(self, instance_id: str, name: str) -> None: ...

    async def resize(self, instance_id: str, name: str | None, size_gb: int) -> None: ...

    async def freeze(self, instance_id: str) -> None: ...

    async def thaw(self, instance_id: str) -> bool:
        return True

    async def serial_output(self, instance_id: str) -> tuple[int, bytes]:
        return self.serial.read()

    async def wipe(self, disk_id: str) -> None: ...

    async def copy(self, source_id: str, target_id: str) -> int:
        return 0

    async def sweep(self, known_disks: set[str]) -> None: ...


class Api:
    """Calls of one project, each answered with its status and body."""

    def __init__(self, folder: Path) -> None:
        self.host = NoMachines(folder)
        machines = cast(AsyncMachineHost, self.host)
        self.loop = asyncio.new_event_loop()
        self.store = Store(folder / "projects")
        clock, catalog = make_clock("real", None), Catalog.load()
        quotas = Quotas(self.store, catalog)
        self.cloud = Cloud(
            clock=clock,
            store=self.store,
            catalog=catalog,
            quotas=quotas,
            faults=Faults(folder / "faults.json", catalog, quotas, clock),
            operations=Operations(self.store, clock),
            machines=machines,
            firewall=SshFirewall(self.store, machines),
            billing=Billing(folder / "books.jsonl", clock),
            storage=Storage(folder, clock),
        )
        billing = self.cloud.billing
        self.store.watch = lambda record, deleted: billing.update(record, deleted=deleted)
        self.lifecycle = Lifecycle(self.cloud)
        self.discovery = Discovery.load()
        self.dispatcher = Dispatcher(self.cloud, self.lifecycle, handlers(), check_replies=True)

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(work)

    def call(
        self, http_method: str, path: str, body: Any = None, **query: Any
    ) -> tuple[int, dict[str, Any]]:
        """One call below the project, as `GET zones/ZONE/instances`."""
        return self.send(http_method, f"projects/{PROJECT}/{path}", urlencode(query), body)

    def send(
        self,
        http_method: str,
        path: str,
        query: str = "",
        body: Any = None,
        service: str = "compute",
    ) -> tuple[int, dict[str, Any]]:
        """One call by its escaped path below `/compute/v1/`, or another service's."""
        raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        reply = self.run(self.dispatcher.answer(http_method, f"/{service}/v1/{path}", query, raw))
        return reply.status, reply.body

    def done(self, http_method: str, path: str, body: Any = None, **query: Any) -> dict[str, Any]:
        """A call that starts an operation; returns the operation once it is DONE."""
        status, reply = self.call(http_method, path, body, **query)
        assert status == 200, reply
        where = reply["selfLink"].partition(f"/projects/{PROJECT}/")[2]
        return self.call("POST", f"{where}/wait")[1]

    def close(self) -> None:
        self.run(self.lifecycle.close())
        self.run(self.cloud.operations.close())
        self.loop.close()


@contextmanager
def open_api(folder: Path) -> Iterator[Api]:
    api = Api(folder)
    try:
        yield api
    finally:
        api.close()


def instance(name: str = "vm1", **more: Any) -> dict[str, Any]:
    """The body of an insert that is accepted."""
    disk = {"boot": True, "autoDelete": True, "initializeParams": {"sourceImage": IMAGE}}
    return {
        "name": name,
        "machineType": f"zones/{ZONE}/machineTypes/n1-standard-1",
        "disks": [disk],
        "networkInterfaces": [{"accessConfigs": [{}]}],
        **more,
    }
