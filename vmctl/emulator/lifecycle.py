"""The life of an instance: declared transitions, carried out by operations in the background.

Handlers check a transition and set the first state at once; the work that follows here is
serialised per instance. Artificial delays only make states visible; slow boots come by fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Coroutine
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from . import guest_view, links
from .clock import parse_stamp, stamp
from .cloud import Cloud
from .errors import Json, OperationError, not_ready
from .operations import SYSTEM
from .store import Record

T = TypeVar("T")
VISIBLE_S = 0.08  # real seconds that PROVISIONING and STAGING stay to be seen
ACPI_GRACE_S = 120.0
ACPI_GRACE_SPOT_S = 30.0

log = logging.getLogger("vmctl.emulator")


@dataclass(frozen=True, slots=True)
class Transition:
    """From which states a call is accepted, in which it has nothing to do, what is shown first."""

    accepted: frozenset[str]
    nothing_to_do: frozenset[str]
    first: str | None


_ALL = frozenset({"PROVISIONING", "STAGING", "RUNNING", "STOPPING", "TERMINATED"})
TRANSITIONS = {
    "start": Transition(frozenset({"TERMINATED"}), frozenset({"RUNNING"}), "PROVISIONING"),
    "stop": Transition(frozenset({"RUNNING"}), frozenset({"TERMINATED"}), "STOPPING"),
    "reset": Transition(frozenset({"RUNNING"}), frozenset(), None),
    "delete": Transition(_ALL, frozenset(), "STOPPING"),
}


class Lifecycle:
    """Carries instances through their transitions and answers for them to their machines."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._locks: dict[str, asyncio.Lock] = {}
        self._deleted: dict[str, asyncio.Event] = {}
        self._limits: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._early_exits: dict[str, str] = {}
        self._closing = False

    # --- called by handlers -------------------------------------------------------------------

    def enter(self, verb: str, record: Record) -> bool:
        """Take a transition's first step; False if there is nothing to do, ApiError if refused."""
        transition = TRANSITIONS[verb]
        status = record.body["status"]
        if record.private.get("deleting"):
            raise not_ready(record.key.path)
        if status in transition.nothing_to_do:
            return False
        if status not in transition.accepted:
            raise not_ready(record.key.path)
        if verb == "delete":
            record.private["deleting"] = True
            self._deleted.setdefault(record.body["id"], asyncio.Event()).set()
        if transition.first:
            record.body["status"] = transition.first
        self._cloud.store.save(record)
        return True

    # --- the work of operations ---------------------------------------------------------------

    async def insert(self, operation: Record, record: Record) -> None:
        """Bring a new instance up; on failure it and the disks made for it are gone."""
        async with self._turn(record):
            try:
                await self._power_on(operation, record)
            except OperationError:
                await self._remove(record, all_disks=True)
                raise

    async def start(self, operation: Record, record: Record) -> None:
        """Bring a stopped instance up; on failure it is TERMINATED as before."""
        async with self._turn(record):
            try:
                await self._power_on(operation, record)
            except OperationError:
                if not record.private.get("deleting"):
                    record.body["status"] = "TERMINATED"
                    self._cloud.store.save(record)
                raise

    async def stop(self, operation: Record, record: Record, *, graceful: bool = True) -> None:
        """Shut an instance down; its ephemeral address is released."""
        async with self._turn(record):
            await self._power_off(record, graceful)

    async def reset(self, operation: Record, record: Record) -> None:
        """Pull the plug and boot again at the same address."""
        async with self._turn(record):
            await self._cloud.hosting.shutdown(record.body["id"], 0.0)
            await self._boot(record)

    async def delete(self, operation: Record, record: Record) -> None:
        """Shut an instance down and remove it with its autoDelete disks."""
        async with self._turn(record):
            await self._cloud.hosting.shutdown(record.body["id"], _grace_s(record))
            await self._remove(record, all_disks=False)

    async def preempt(self, operation: Record, record: Record) -> None:
        """Take a Spot instance back: notice, ACPI grace, then its termination action."""
        self._cloud.operations.report(operation, "Instance was preempted.")
        await self._cloud.hosting.metadata_changed(record.body["id"])
        async with self._turn(record):
            await self._power_off(record, graceful=True)
            if record.body["scheduling"].get("instanceTerminationAction") == "DELETE":
                await self._remove(record, all_disks=False)

    # --- what happens by itself ---------------------------------------------------------------

    def resume(self) -> None:
        """After a restart of the emulator: finish what was begun, boot what was running."""
        operations = self._cloud.operations
        begun: set[str] = set()
        for operation in operations.unfinished():
            kind, target = operation.body["operationType"], operation.body["targetId"]
            record = self._by_id(target)
            work = {
                "insert": self.insert,
                "start": self.start,
                "stop": self.stop,
                "delete": self.delete,
                "reset": self.reset,
                "compute.instances.preempted": self.preempt,
            }.get(kind)
            if record is None or work is None:
                lost = kind == "insert" and "/instances/" in operation.body["targetLink"]
                operations.finish(operation, _interrupted() if lost else None)
            else:
                begun.add(target)
                operations.start(operation, lambda op, w=work, r=record: w(op, r))  # type: ignore[misc]
        for record in self._cloud.store.find("instances"):
            if record.body["id"] not in begun:
                self._wake(record)
        disks = {record.body["id"] for record in self._cloud.store.find("disks")}
        self._run(self._cloud.hosting.sweep(disks))

    def _wake(self, record: Record) -> None:
        status = record.body["status"]
        if status == "RUNNING":
            limit = _limit_of(record)
            if limit and limit <= self._cloud.clock.now():
                self._run(self._enforce(record, limit))
            else:
                self._run(self._host_reboot(record))
        elif status != "TERMINATED":
            self._mark_stopped(record, self._cloud.clock.now())

    async def _host_reboot(self, record: Record) -> None:
        async with self._turn(record):
            try:
                await self._boot(record)
            except OperationError as error:
                log.error("%s did not come back: %s", record.key.path, error)
                self._system_operation("compute.instances.hostError", record, error)
                self._mark_stopped(record, self._cloud.clock.now())

    def exited(self, instance_id: str, reason: str) -> None:
        """A machine went down by itself: shut down inside, rebooted, or crashed."""
        record = self._by_id(instance_id)
        if record is None or self._closing:
            return
        lock = self._locks.get(instance_id)
        if lock is not None and lock.locked():  # it booted and went down before we heard of it
            self._early_exits[instance_id] = reason
            return
        if record.body["status"] != "RUNNING":
            return
        if reason == "reboot":
            self._run(self._host_reboot(record))
            return
        if reason == "crash":
            self._system_operation("compute.instances.hostError", record)
            if record.body["scheduling"].get("automaticRestart"):
                self._system_operation("compute.instances.automaticRestart", record)
                self._run(self._host_reboot(record))
                return
        else:
            self._system_operation("compute.instances.guestTerminate", record)
        self._mark_stopped(record, self._cloud.clock.now())

    async def close(self) -> None:
        """Stop watching; the machines themselves are powered off by the hosting."""
        self._closing = True
        for task in [*self._tasks, *self._limits.values()]:
            task.cancel()

    # --- what the machines ask ----------------------------------------------------------------

    def metadata(self, instance_id: str) -> Json:
        """Return a machine's metadata tree."""
        record = self._by_id(instance_id)
        if record is None:
            return {}
        return guest_view.metadata_tree(self._cloud.store, record)

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        """Save a guest attribute if the instance or its project enables them."""
        record = self._by_id(instance_id)
        if record is None or not guest_view.guest_attributes_enabled(self._cloud.store, record):
            return False
        record.private.setdefault("guest_attributes", {})[path] = value
        self._cloud.store.save(record)
        return True

    # --- steps --------------------------------------------------------------------------------

    async def _power_on(self, operation: Record, record: Record) -> None:
        cloud, body = self._cloud, record.body
        zone = links.last(record.key.scope)
        accelerator = next(iter(body.get("guestAccelerators", ())), None)
        await asyncio.sleep(VISIBLE_S)
        cloud.faults.check_capacity(
            record.key.project,
            zone,
            links.last(body["machineType"]),
            links.last(accelerator["acceleratorType"]) if accelerator else None,
            accelerator["acceleratorCount"] if accelerator else 0,
        )
        cloud.quotas.check(record)
        image = record.private["machine"]
        preparing = cloud.hosting.prepare_image(
            image, lambda message: cloud.operations.report(operation, message)
        )
        await self._unless_deleted(record, preparing)
        self._set_status(record, "STAGING")
        await asyncio.sleep(VISIBLE_S)
        slow_s = cloud.faults.slow_boot_s(zone, record.key.name)
        if slow_s:
            until = cloud.clock.now() + timedelta(seconds=slow_s)
            await self._unless_deleted(record, cloud.clock.sleep_until(until))
        if record.private.get("deleting"):
            raise _deleted_meanwhile()
        record.private.pop("nat_ip", None)  # an ephemeral address is a new one at each start
        record.private.pop("preempted", None)
        await self._boot(record)
        now = cloud.clock.now()
        body["lastStartTimestamp"] = stamp(now)
        if limit := _limit_from(record, now):
            body["resourceStatus"]["scheduling"]["terminationTimestamp"] = stamp(limit)
            self._watch(record, limit)
        self._set_status(record, "RUNNING")

    async def _boot(self, record: Record) -> None:
        booted = await self._cloud.hosting.boot(guest_view.machine_spec(self._cloud, record))
        record.private |= {"nat_ip": booted.nat_ip, "ssh_port": booted.ssh_port}
        for interface in record.body["networkInterfaces"][:1]:
            for access in interface.get("accessConfigs", ()):
                access["natIP"] = booted.nat_ip
        guest_view.show_ssh_port(record)
        self._cloud.store.save(record)
        limit = _limit_of(record)
        if limit and record.body["status"] == "RUNNING":
            self._watch(record, limit)

    async def _power_off(self, record: Record, graceful: bool) -> None:
        self._set_status(record, "STOPPING")
        await self._cloud.hosting.shutdown(record.body["id"], _grace_s(record) if graceful else 0.0)
        self._mark_stopped(record, self._cloud.clock.now())

    def _mark_stopped(self, record: Record, when: datetime) -> None:
        body = record.body
        self._unwatch(body["id"])
        for interface in body["networkInterfaces"]:
            for access in interface.get("accessConfigs", ()):
                access.pop("natIP", None)
        body["resourceStatus"]["scheduling"].pop("terminationTimestamp", None)
        body["lastStopTimestamp"] = stamp(when)
        self._set_status(record, "TERMINATED")

    async def _remove(self, record: Record, *, all_disks: bool) -> None:
        store, instance = self._cloud.store, record.body
        self._unwatch(instance["id"])
        for attached in instance["disks"]:
            name = links.last(attached.get("source", ""))
            disk = store.get(record.key._replace(collection="disks", name=name))
            if disk is None:
                continue
            created_here = disk.private.get("created_with") == instance["id"]
            if (all_disks and created_here) or (not all_disks and attached["autoDelete"]):
                store.delete(disk.key)
                await self._cloud.hosting.wipe(disk.body["id"])
            else:
                users = [u for u in disk.body.get("users", ()) if u != instance["selfLink"]]
                disk.body["users"] = users
                disk.body["lastDetachTimestamp"] = stamp(self._cloud.clock.now())
                store.save(disk)
        store.delete(record.key)  # last: a deletion cut short is taken up again from here
        self._locks.pop(instance["id"], None)
        self._deleted.pop(instance["id"], None)

    # --- run limits ---------------------------------------------------------------------------

    def _watch(self, record: Record, limit: datetime) -> None:
        self._unwatch(record.body["id"])
        task = asyncio.get_running_loop().create_task(self._limit(record, limit))
        self._limits[record.body["id"]] = task

    def _unwatch(self, instance_id: str) -> None:
        task = self._limits.pop(instance_id, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()

    async def _limit(self, record: Record, limit: datetime) -> None:
        async with self._cloud.clock.working():
            await self._cloud.clock.sleep_until(limit)
            await self._enforce(record, limit)

    async def _enforce(self, record: Record, limit: datetime) -> None:
        """Stop or delete an instance whose run time is over, as Compute Engine's own doing."""
        if record.body["status"] != "RUNNING":
            return
        self._limits.pop(record.body["id"], None)
        action = record.body["scheduling"].get("instanceTerminationAction", "STOP")
        verb = "delete" if action == "DELETE" else "stop"
        self.enter(verb, record)
        operation = self._cloud.operations.create(verb, record.key, record.body["id"], user=SYSTEM)
        self._cloud.operations.report(operation, "Instance reached its maximum run duration.")
        work = self.delete if verb == "delete" else self.stop
        await self._cloud.operations.start(operation, lambda op: work(op, record))

    # --- small helpers ------------------------------------------------------------------------

    def _system_operation(
        self, kind: str, record: Record, error: OperationError | None = None
    ) -> None:
        operations = self._cloud.operations
        operation = operations.create(kind, record.key, record.body["id"], user=SYSTEM)
        operations.finish(operation, error)

    def _set_status(self, record: Record, status: str) -> None:
        if not record.private.get("deleting"):
            record.body["status"] = status
        self._cloud.store.save(record)

    @contextlib.asynccontextmanager
    async def _turn(self, record: Record) -> AsyncIterator[None]:
        lock = self._locks.setdefault(record.body["id"], asyncio.Lock())
        async with lock:
            self._early_exits.pop(record.body["id"], None)
            yield
        reason = self._early_exits.pop(record.body["id"], None)
        if reason is not None:
            self.exited(record.body["id"], reason)

    def _run(self, work: Coroutine[object, object, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _by_id(self, instance_id: str) -> Record | None:
        for record in self._cloud.store.find("instances"):
            if record.body["id"] == instance_id:
                return record
        return None

    async def _unless_deleted(self, record: Record, work: Awaitable[T]) -> T:
        deleted = self._deleted.setdefault(record.body["id"], asyncio.Event())
        working = asyncio.ensure_future(work)
        cancelled = asyncio.ensure_future(deleted.wait())
        try:
            await asyncio.wait({working, cancelled}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise _deleted_meanwhile()
            return working.result()
        finally:
            cancelled.cancel()
            working.cancel()


def _grace_s(record: Record) -> float:
    spot = record.body["scheduling"].get("provisioningModel") == "SPOT"
    return ACPI_GRACE_SPOT_S if spot else ACPI_GRACE_S


def _limit_of(record: Record) -> datetime | None:
    text = record.body["resourceStatus"]["scheduling"].get("terminationTimestamp")
    return parse_stamp(text) if text else None


def _limit_from(record: Record, started: datetime) -> datetime | None:
    scheduling = record.body["scheduling"]
    if "terminationTime" in scheduling:
        return parse_stamp(scheduling["terminationTime"])
    if "maxRunDuration" in scheduling:
        return started + timedelta(seconds=int(scheduling["maxRunDuration"]["seconds"]))
    return None


def _deleted_meanwhile() -> OperationError:
    return OperationError(
        "OPERATION_CANCELED_BY_USER",
        "The instance was deleted while it was being started.",
        http_code=409,
        http_message="CONFLICT",
    )


def _interrupted() -> OperationError:
    return OperationError(
        "INTERNAL_ERROR",
        "Internal error. Please try again or contact Google Support.",
        http_code=500,
        http_message="INTERNAL SERVER ERROR",
    )
