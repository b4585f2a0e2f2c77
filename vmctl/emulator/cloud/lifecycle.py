"""An instance's lifecycle: declared transitions, carried out by operations in the background.

Handlers check a transition and set its first state at once. The work that follows is serialised
per instance, and work that a restart interrupted is resumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime

from ..clock import stamp
from ..errors import Json, OperationError, not_ready
from ..store import Record
from ..vertex.jobs import Jobs
from . import disk_copies, metadata
from .cloud import Cloud
from .operations import SYSTEM
from .power import Power, grace_s
from .run_limits import RunLimits, read_limit

# Operations that change their resource at the end only: one that was cut short has done nothing
NOT_DONE = ("suspend", "resume", "update", "detachDisk", "resize")
GUEST_ATTRIBUTES = 100  # of one instance: a machine must not fill this computer's disk

log = logging.getLogger("vmctl.emulator")


@dataclass(frozen=True, slots=True)
class Transition:
    """The states in which a call is accepted or has no effect, and the first state it sets."""

    accepted: frozenset[str]
    nothing_to_do: frozenset[str]
    first: str | None


_ALL = frozenset(
    {"PROVISIONING", "STAGING", "RUNNING", "STOPPING", "TERMINATED", "SUSPENDING", "SUSPENDED"}
)
TRANSITIONS = {
    "start": Transition(frozenset({"TERMINATED"}), frozenset({"RUNNING"}), "PROVISIONING"),
    "stop": Transition(frozenset({"RUNNING"}), frozenset({"TERMINATED"}), "STOPPING"),
    "suspend": Transition(frozenset({"RUNNING"}), frozenset({"SUSPENDED"}), "SUSPENDING"),
    "resume": Transition(frozenset({"SUSPENDED"}), frozenset({"RUNNING"}), "PROVISIONING"),
    "reset": Transition(frozenset({"RUNNING"}), frozenset(), None),
    "delete": Transition(_ALL, frozenset(), "STOPPING"),
}


class Lifecycle:
    """Carries out transitions of instances, and answers their machines' questions."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._locks: dict[str, asyncio.Lock] = {}
        self._limits = RunLimits(cloud.clock, self._enforce)
        self._power = Power(cloud, self._limits)
        self._tasks: set[asyncio.Task[None]] = set()
        self._early_exits: dict[str, str] = {}
        self._closing = False
        self.jobs = Jobs(cloud)

    # --- called by handlers -------------------------------------------------------------------

    def enter(self, verb: str, record: Record) -> bool:
        """Set a transition's first state; False if it has no effect, ApiError if it is refused."""
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
        if transition.first:
            record.body["status"] = transition.first
        try:
            self._cloud.store.save(record)
        except OSError:  # a full disk: the call is refused, so nothing may have changed
            record.body["status"] = status
            record.private.pop("deleting", None)
            raise
        if verb == "delete":
            self._power.cancel_start(record)
        return True

    # --- the work of operations ---------------------------------------------------------------

    async def insert(self, operation: Record, record: Record) -> None:
        """Start a new instance; on failure it is deleted, with the disks made for it."""
        async with self._turn(record):
            try:
                await self._power.on(operation, record)
            except Exception:
                await self._remove(record)
                raise

    async def discard(self, record: Record) -> None:
        """Remove a new instance that is wanted no more, with the disks made for it."""
        async with self._turn(record):
            await self._remove(record)

    async def _remove(self, record: Record) -> None:
        await self._cloud.machines.shutdown(record.body["id"], 0.0)
        await self._power.remove(record, all_disks=True)

    async def start(self, operation: Record, record: Record) -> None:
        """Start a stopped instance; on failure it is TERMINATED again."""
        async with self._turn(record):
            try:
                await self._power.on(operation, record)
            except Exception:
                await self._cloud.machines.shutdown(record.body["id"], 0.0)
                if not record.private.get("deleting"):
                    record.body["status"] = "TERMINATED"
                    self._cloud.store.save(record)
                raise

    async def stop(self, operation: Record, record: Record, *, graceful: bool = True) -> None:
        """Shut an instance down; its ephemeral address is released."""
        async with self._turn(record):
            await self._power.off(record, graceful)

    async def suspend(self, operation: Record, record: Record) -> None:
        """Freeze an instance; its memory lasts as long as this emulator runs."""
        async with self._turn(record):
            await self._power.suspend(record)

    async def resume(self, operation: Record, record: Record) -> None:
        """Let a suspended instance run on; without a place for it, it stays suspended."""
        async with self._turn(record):
            try:
                await self._power.on(operation, record)
            except Exception:
                self._power.mark_suspended(record)
                raise

    async def reset(self, operation: Record, record: Record) -> None:
        """Pull the plug and boot again at the same address."""
        async with self._turn(record):
            await self._cloud.machines.shutdown(record.body["id"], 0.0)
            await self._power.boot(record)

    async def delete(self, operation: Record, record: Record) -> None:
        """Shut an instance down and remove it with its autoDelete disks."""
        async with self._turn(record):
            await self._cloud.machines.shutdown(record.body["id"], grace_s(record))
            await self._power.remove(record, all_disks=False)
        self._locks.pop(record.body["id"], None)

    async def preempt(self, operation: Record, record: Record) -> None:
        """Preempt a Spot instance: notice, ACPI grace, then its termination action."""
        self._cloud.operations.report(operation, "Instance was preempted.")
        await self._cloud.machines.metadata_changed(record.body["id"])
        async with self._turn(record):
            await self._power.off(record, graceful=True)
            if record.body["scheduling"].get("instanceTerminationAction") == "DELETE":
                await self._power.remove(record, all_disks=False)

    # --- without a call ------------------------------------------------------------------------

    def wake(self) -> None:
        """After a restart: finish interrupted operations, boot the machines that were running."""
        self.jobs.wake()
        operations = self._cloud.operations
        resumed: set[str] = set()
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
            copied = disk_copies.find_unfinished(self._cloud, operation)
            if copied is not None:
                operations.start(operation, lambda op, r=copied: disk_copies.finish(self._cloud, r))  # type: ignore[misc]
            elif record is None or work is None:
                lost = kind == "insert" and "/instances/" in operation.body["targetLink"]
                if lost:
                    self._forget_disks(target)
                failed = lost or kind in NOT_DONE
                operations.finish(operation, _interrupted() if failed else None)
            else:
                resumed.add(target)
                operations.start(operation, lambda op, w=work, r=record: w(op, r))  # type: ignore[misc]
        for record in self._cloud.store.find("instances"):
            if record.body["id"] not in resumed:
                self._wake(record)
        self._release_disks()
        if not self._cloud.store.unreadable():  # else one of those may own a disk
            disks = {record.body["id"] for record in self._cloud.store.find("disks")}
            for copies in ("snapshots", "images"):
                disks |= {record.body["id"] for record in self._cloud.store.find(copies)}
            # Never the disk of an instance, even if the disk's own record is lost.
            disks |= {r.private["boot_disk_id"] for r in self._cloud.store.find("instances")}
            self._run(self._cloud.machines.sweep(disks))

    def _forget_disks(self, instance_id: str) -> None:
        """Forget the disks made for an instance that was never saved."""
        for disk in self._cloud.store.find("disks"):
            if disk.private.get("created_with") == instance_id:
                self._cloud.store.delete(disk.key)

    def _release_disks(self) -> None:
        """Detach disks from deleted instances, so that others can use them."""
        instances = {record.body["selfLink"] for record in self._cloud.store.find("instances")}
        for disk in self._cloud.store.find("disks"):
            users = [user for user in disk.body.get("users", ()) if user in instances]
            if users != disk.body.get("users", []):
                disk.body["users"] = users
                self._cloud.store.save(disk)

    def _wake(self, record: Record) -> None:
        status = record.body["status"]
        if record.private.get("deleting"):  # the emulator was killed before there was an operation
            operation = self._cloud.operations.create(
                "delete", record.key, record.body["id"], user=SYSTEM
            )
            self._cloud.operations.start(operation, lambda op: self.delete(op, record))
        elif status == "RUNNING":
            limit = read_limit(record)
            if limit and limit <= self._cloud.clock.now():
                self._run(self._enforce(record))
            else:
                self._run(self._host_reboot(record))
        elif status != "TERMINATED":  # of a suspended one, the memory is gone
            self._power.mark_stopped(record, self._cloud.clock.now())

    async def _host_reboot(self, record: Record) -> None:
        async with self._turn(record):
            try:
                await self._power.boot(record)
            except OperationError as error:
                log.error("%s did not come back: %s", record.key.path, error)
                self._system_operation("compute.instances.hostError", record, error)
                self._power.mark_stopped(record, self._cloud.clock.now())

    def exited(self, instance_id: str, reason: str) -> None:
        """Handle a machine that shut down from inside, rebooted or crashed."""
        record = self._by_id(instance_id)
        if record is None:
            self.jobs.exited(instance_id)
        if record is None or self._closing:
            return
        lock = self._locks.get(instance_id)
        if lock is not None and lock.locked():  # it booted and ended before its boot was reported
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
        self._power.mark_stopped(record, self._cloud.clock.now())

    async def close(self) -> None:
        """Stop watching; AsyncMachineHost powers the machines off."""
        self._closing = True
        await self.jobs.close()
        self._limits.close()
        self._power.close()
        for task in self._tasks:
            task.cancel()

    # --- what the machines ask ----------------------------------------------------------------

    def metadata(self, instance_id: str) -> Json:
        """Return a machine's metadata tree, and how far this clock is ahead of real time."""
        record = self._by_id(instance_id)
        if record is None:
            return self.jobs.metadata(instance_id) or {}
        tree = metadata.build_metadata_tree(self._cloud.store, record)
        clock = self._cloud.clock
        if clock.kind != "real":
            tree["ahead_s"] = (clock.now() - datetime.now(UTC)).total_seconds()
        if clock.kind == "stepped":
            tree["moved"] = stamp(clock.now())
        return tree

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        """Save a guest attribute; False if the instance does not allow it."""
        record = self._by_id(instance_id)
        if record is None or not metadata.allows_guest_attributes(self._cloud.store, record):
            return False
        attributes = record.private.setdefault("guest_attributes", {})
        if path not in attributes and len(attributes) >= GUEST_ATTRIBUTES:
            return False
        attributes[path] = value
        self._cloud.store.save(record)
        return True

    async def _enforce(self, record: Record) -> None:
        """Stop or delete an instance at the end of its run time, as a system operation."""
        if record.body["status"] != "RUNNING":
            return
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


def _interrupted() -> OperationError:
    return OperationError(
        "INTERNAL_ERROR",
        "Internal error. Please try again or contact Google Support.",
        http_code=500,
        http_message="INTERNAL SERVER ERROR",
    )
