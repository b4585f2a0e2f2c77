"""The bridge between the API's event loop and the machines' threads.

Blocking calls to the machine host run on worker threads, so that the API never waits. A machine's
questions are answered on the event loop, which owns all resources.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, TypeVar

from ..errors import OperationError
from ..machines import (
    COPYING,
    Booted,
    DataDisk,
    GuestBackend,
    MachineError,
    MachineHost,
    MachineSpec,
    MetadataOnlyHost,
    copy_disk,
    delete_disk,
)

T = TypeVar("T")
ANSWER_LIMIT_S = 10.0
CLOSE_GRACE_S = 3.0
WORKERS = 64  # a stop may hold one for the whole ACPI grace of a machine

log = logging.getLogger("vmctl.emulator")


class CannotHost(Exception):
    """Machines cannot run on this computer; the text says why."""


class EventLoopBackend:
    """What machine threads call: each question is answered by `target` on the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.target: GuestBackend | None = None

    def metadata(self, instance_id: str) -> dict[str, object]:
        """Return the machine's metadata tree; empty once the instance is deleted."""
        return self._ask(lambda target: target.metadata(instance_id), {})

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        """Save a guest attribute; False if the instance does not allow it."""
        return self._ask(lambda it: it.put_guest_attribute(instance_id, path, value), False)

    def exited(self, instance_id: str, reason: str) -> None:
        """Report that a machine ended without being stopped."""
        target = self.target
        if target is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(target.exited, instance_id, reason)

    def _ask(self, question: Callable[[GuestBackend], T], otherwise: T) -> T:
        answer: Future[T] = Future()
        target = self.target
        if target is None or self._loop.is_closed():
            return otherwise

        def on_loop() -> None:
            try:
                answer.set_result(question(target))
            except Exception as error:
                answer.set_exception(error)

        self._loop.call_soon_threadsafe(on_loop)
        try:
            return answer.result(ANSWER_LIMIT_S)
        except FutureTimeoutError:
            return otherwise


class AsyncMachineHost:
    """The machine host as coroutines; a MachineError becomes an operation's internal error."""

    def __init__(self, home: Path, images: Path, *, metadata_only: bool = False) -> None:
        self._loop = asyncio.get_running_loop()
        self.backend = EventLoopBackend(self._loop)
        try:
            self._host: MachineHost | MetadataOnlyHost = (
                MetadataOnlyHost(home) if metadata_only else MachineHost(home, images, self.backend)
            )
        except MachineError as error:
            raise CannotHost(str(error)) from error
        self._disks = home / "machines"
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="machines")
        self._images: dict[str, asyncio.Future[None]] = {}
        self._listeners: dict[str, list[Callable[[str], None]]] = {}
        self._booting: set[asyncio.Future[Any]] = set()
        self._reading: dict[str, set[asyncio.Future[int]]] = {}  # running copies, by disk

    @property
    def mode(self) -> str:
        """How machines are kept apart, `sandbox` or `plain`; `metadata-only`: there are none."""
        return self._host.mode

    @property
    def note(self) -> str:
        """One sentence for the user about what these machines cannot do."""
        return self._host.note

    @property
    def bounds(self) -> str:
        """One sentence about what each machine may take of this computer, and what is unbounded."""
        return self._host.bounds.note

    def disk(self, disk_id: str) -> Path:
        """Return the folder that holds a disk's content."""
        return self._disks / disk_id

    async def prepare_image(self, image: str, progress: Callable[[str], None]) -> None:
        """Build an image unless it is there; callers for the same image share one build."""
        listeners = self._listeners.setdefault(image, [])
        listeners.append(progress)

        def tell(message: str) -> None:
            self._loop.call_soon_threadsafe(lambda: [listen(message) for listen in listeners])

        try:
            building = self._images.get(image)
            if building is None or (building.done() and building.exception() is not None):
                building = self._submit(self._host.prepare_image, image, tell)
                self._images[image] = building
            await self._map_errors(asyncio.shield(building))
        finally:
            listeners.remove(progress)

    async def boot(self, spec: MachineSpec) -> Booted:
        """Start a machine; its sshd answers when this returns."""
        booting = self._submit(self._host.boot, spec)
        self._booting.add(booting)
        booting.add_done_callback(self._booting.discard)
        return await self._map_errors(asyncio.shield(booting))

    async def shutdown(self, instance_id: str, grace_s: float) -> None:
        """Press a machine's power button, then pull the plug after grace_s real seconds."""
        await self._map_errors(self._submit(self._host.shutdown, instance_id, grace_s))

    async def metadata_changed(self, instance_id: str) -> None:
        """Let a machine take over new ssh keys."""
        await self._map_errors(self._submit(self._host.metadata_changed, instance_id))

    async def admit(self, instance_id: str, admits: bool) -> None:
        """Let connections reach a machine's port 22, or drop them as a firewall does."""
        await self._map_errors(self._submit(self._host.admit, instance_id, admits))

    async def open_network(self, name: str, is_open: bool) -> None:
        """Let a VPC network's machines reach each other, or the internet only."""
        await self._map_errors(self._submit(self._host.open_network, name, is_open))

    async def readdress(self, instance_id: str, address: str | None) -> Booted | None:
        """Let a machine listen at another address, any free one if None; None if it has ended."""
        return await self._map_errors(self._submit(self._host.readdress, instance_id, address))

    async def enter(self, instance_id: str, connection: socket.socket) -> bool:
        """Pass a connection to a machine's sshd past its firewall; False if it has ended."""
        return await self._map_errors(self._submit(self._host.enter, instance_id, connection))

    async def freeze(self, instance_id: str) -> None:
        """Stop every process of a machine; its memory stays, and nothing reaches it."""
        await self._map_errors(self._submit(self._host.freeze, instance_id))

    async def thaw(self, instance_id: str) -> bool:
        """Let a frozen machine run on; False if it has ended meanwhile."""
        return await self._map_errors(self._submit(self._host.thaw, instance_id))

    async def attach(self, instance_id: str, disk: DataDisk) -> None:
        """Show a disk in a machine as /mnt/disks/NAME."""
        await self._map_errors(self._submit(self._host.attach, instance_id, disk))

    async def detach(self, instance_id: str, name: str) -> None:
        """Take a disk away from a machine, whatever uses it."""
        await self._map_errors(self._submit(self._host.detach, instance_id, name))

    async def resize(self, instance_id: str, name: str | None, size_gb: int) -> None:
        """Let a machine's disk, None for its boot disk, hold so much from now on."""
        await self._map_errors(self._submit(self._host.resize, instance_id, name, size_gb))

    async def end_fault(self, instance_id: str, what: str) -> None:
        """End a boot fault: `arrive` (the driver) or `unlock` (the package lock)."""
        await self._map_errors(self._submit(self._host.end_fault, instance_id, what))

    async def forward(self, port: int, wanted: bool) -> None:
        """Let machines reach a port of 127.0.0.1 on this computer, or stop it."""
        forwards = self._host.forwards
        await self._map_errors(self._submit(forwards.add if wanted else forwards.remove, port))

    @property
    def forwards(self) -> list[int]:
        """The ports of this computer that machines reach."""
        return self._host.forwards.ports

    async def serial_output(self, instance_id: str) -> tuple[int, bytes]:
        """Return the last megabyte of a serial port, and how many bytes were written before it."""
        return await self._map_errors(self._submit(self._host.serial_output, instance_id))

    async def wipe(self, disk_id: str) -> None:
        """Remove a disk's content once no copy of it is running."""
        if reading := self._reading.pop(disk_id, None):
            await asyncio.wait(reading)
        try:
            await self._submit(delete_disk, self.disk(disk_id))
        except OSError as error:
            log.warning("could not remove all of disk %s: %s", disk_id, error)

    async def copy(self, source_id: str, target_id: str) -> int:
        """Copy a disk's or snapshot's content to a new one; returns its size in bytes."""
        copying = self._submit(copy_disk, self.disk(source_id), self.disk(target_id))
        reading = self._reading.setdefault(source_id, set())
        reading.add(copying)
        try:
            return await self._map_errors(asyncio.shield(copying))
        finally:
            reading.discard(copying)

    async def sweep(self, known_disks: set[str]) -> None:
        """Remove the content of disks that no longer exist, left by a deletion cut short."""
        for folder in list(self._disks.glob("*")):
            if folder.name.removesuffix(COPYING) not in known_disks:
                await self.wipe(folder.name)

    async def close(self, instance_ids: list[str]) -> None:
        """Power all machines off, as a shutdown of their host does; nothing is left running."""
        if self._booting:
            await asyncio.wait(self._booting, timeout=ANSWER_LIMIT_S)
        await asyncio.gather(
            *(self.shutdown(instance_id, CLOSE_GRACE_S) for instance_id in instance_ids),
            return_exceptions=True,
        )
        self.backend.target = None
        await self._submit(self._host.close)
        self._workers.shutdown(wait=False, cancel_futures=True)

    def _submit(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._workers, call, *args)

    async def _map_errors(self, result: asyncio.Future[T]) -> T:
        try:
            return await result
        except MachineError as error:
            raise OperationError(
                "INTERNAL_ERROR", str(error), http_code=500, http_message="INTERNAL SERVER ERROR"
            ) from error
