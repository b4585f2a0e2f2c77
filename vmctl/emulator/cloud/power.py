"""Power on, power off, remove: the steps of an instance's transitions.

The built-in delays only make states visible; slow boots are faults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from ..clock import stamp
from ..errors import OperationError
from ..faults.boot_faults import BootFaultTimers
from ..http import urls
from ..store import Record
from . import disk_copies, metadata
from .cloud import Cloud
from .run_limits import RunLimits, compute_limit, read_limit

T = TypeVar("T")
VISIBLE_S = 0.08  # real seconds that PROVISIONING and STAGING stay to be seen
ACPI_GRACE_S = 120.0
ACPI_GRACE_SPOT_S = 30.0


class Power:
    """The steps; callers take one at a time for each instance."""

    def __init__(self, cloud: Cloud, limits: RunLimits) -> None:
        self._cloud = cloud
        self._limits = limits
        self._boot_faults = BootFaultTimers(cloud.clock, cloud.machines, cloud.firewall)
        self._deleted: dict[str, asyncio.Event] = {}

    def close(self) -> None:
        """Cancel the boot faults that are still to come."""
        self._boot_faults.close()

    def cancel_start(self, record: Record) -> None:
        """Cancel a start that waits for an image or a slow boot: the instance is being deleted."""
        self._deleted.setdefault(record.body["id"], asyncio.Event()).set()

    async def on(self, operation: Record, record: Record) -> None:
        """Find capacity and quota, prepare the image, boot; OperationError if one is missing."""
        cloud, body = self._cloud, record.body
        zone = urls.last(record.key.scope)
        accelerator = next(iter(body.get("guestAccelerators", ())), None)
        await asyncio.sleep(VISIBLE_S)
        cloud.faults.check_capacity(
            record.key.project,
            zone,
            urls.last(body["machineType"]),
            urls.last(accelerator["acceleratorType"]) if accelerator else None,
            accelerator["acceleratorCount"] if accelerator else 0,
        )
        cloud.quotas.check(record)
        image = record.private["machine"]
        preparing = cloud.machines.prepare_image(
            image, lambda message: cloud.operations.report(operation, message)
        )
        await self._unless_deleted(record, preparing)
        self._set_status(record, "STAGING")
        await self._fill_disks(record)
        await asyncio.sleep(VISIBLE_S)
        slow_s = cloud.faults.slow_boot_s(zone, record.key.name)
        if slow_s:
            until = cloud.clock.now() + timedelta(seconds=slow_s)
            await self._unless_deleted(record, cloud.clock.sleep_until(until))
        if record.private.get("deleting"):
            raise _deleted_meanwhile()
        if not record.private.get("suspended"):
            record.private.pop("nat_ip", None)  # an ephemeral address changes at each start
        for event in ("preempted", "maintenance"):
            record.private.pop(event, None)
        thawed = record.private.pop("suspended", False) and await cloud.machines.thaw(body["id"])
        if thawed:
            self._show_address(record)
            await cloud.machines.admit(body["id"], cloud.firewall.is_open(record))
            await cloud.machines.metadata_changed(body["id"])
        else:
            await self.boot(record)
        now = cloud.clock.now()
        body["lastStartTimestamp"] = stamp(now)
        if limit := compute_limit(record, now):
            body["resourceStatus"]["scheduling"]["terminationTimestamp"] = stamp(limit)
            self._limits.watch(record, limit)
        self._set_status(record, "RUNNING")

    async def _fill_disks(self, record: Record) -> None:
        for attached in record.body["disks"]:
            if disk := metadata.find_disk(self._cloud.store, record, attached):
                await disk_copies.fill_disk(self._cloud, disk)

    async def boot(self, record: Record) -> None:
        """Start the machine and show its address, the previous one if it is free."""
        faults = self._cloud.faults.take_boot_faults(urls.last(record.key.scope), record.key.name)
        self._cloud.firewall.clear(record)
        if faults.silent:
            self._cloud.firewall.block(record)
        spec = metadata.make_machine_spec(self._cloud, record)
        spec = replace(spec, admits=self._cloud.firewall.is_open(record), trouble=faults.trouble)
        booted = await self._cloud.machines.boot(spec)
        self._boot_faults.begin(record, faults)
        record.private |= {"nat_ip": booted.nat_ip, "ssh_port": booted.ssh_port}
        self._show_address(record)
        metadata.show_ssh_port(record)
        self._cloud.store.save(record)
        limit = read_limit(record)
        if limit and record.body["status"] == "RUNNING":
            self._limits.watch(record, limit)

    def _show_address(self, record: Record) -> None:
        for interface in record.body["networkInterfaces"][:1]:
            for access in interface.get("accessConfigs", ()):
                access["natIP"] = record.private.get("static_ip", record.private["nat_ip"])

    async def suspend(self, record: Record) -> None:
        """Freeze the machine: no address, no run limit, and its memory stays."""
        await asyncio.sleep(VISIBLE_S)
        try:
            await self._cloud.machines.freeze(record.body["id"])
        except OperationError:
            await self._cloud.machines.thaw(record.body["id"])
            await self._cloud.machines.admit(
                record.body["id"], self._cloud.firewall.is_open(record)
            )
            self._set_status(record, "RUNNING")
            raise
        record.body["lastSuspendedTimestamp"] = stamp(self._cloud.clock.now())
        self.mark_suspended(record)

    def mark_suspended(self, record: Record) -> None:
        """Show an instance as SUSPENDED."""
        record.private["suspended"] = True
        self._let_go(record)
        self._set_status(record, "SUSPENDED")

    async def off(self, record: Record, graceful: bool) -> None:
        """Press the power button and wait, or cut the power; then the instance is TERMINATED."""
        self._set_status(record, "STOPPING")
        await self._cloud.machines.shutdown(record.body["id"], grace_s(record) if graceful else 0.0)
        self.mark_stopped(record, self._cloud.clock.now())

    def mark_stopped(self, record: Record, when: datetime) -> None:
        """Show an instance as TERMINATED: no ephemeral address, no run limit, stopped at `when`."""
        record.private.pop("suspended", None)
        self._let_go(record)
        self._boot_faults.end(record.body["id"])
        record.body["lastStopTimestamp"] = stamp(when)
        self._set_status(record, "TERMINATED")

    def _let_go(self, record: Record) -> None:
        """Take an instance's ephemeral address and its run limit away."""
        body = record.body
        self._limits.unwatch(body["id"])
        for interface in body["networkInterfaces"]:
            for access in interface.get("accessConfigs", ()):
                if "static_ip" not in record.private:
                    access.pop("natIP", None)
        body["resourceStatus"]["scheduling"].pop("terminationTimestamp", None)

    async def remove(self, record: Record, *, all_disks: bool) -> None:
        """Delete the instance with its autoDelete disks, or with all disks made for it."""
        store, instance = self._cloud.store, record.body
        self._limits.unwatch(instance["id"])
        self._boot_faults.end(instance["id"])
        self._cloud.firewall.clear(record)
        for attached in instance["disks"]:
            disk = metadata.find_disk(store, record, attached)
            if disk is None:
                continue
            users = [u for u in disk.body.get("users", ()) if u != instance["selfLink"]]
            created_here = disk.private.get("created_with") == instance["id"]
            goes = created_here if all_disks else attached["autoDelete"]
            if goes and not users:
                store.delete(disk.key)
                await self._cloud.machines.wipe(disk.body["id"])
            else:
                disk.body["users"] = users
                disk.body["lastDetachTimestamp"] = stamp(self._cloud.clock.now())
                store.save(disk)
        store.delete(record.key)  # last: an interrupted deletion is resumed from this record
        self._deleted.pop(instance["id"], None)

    def _set_status(self, record: Record, status: str) -> None:
        if not record.private.get("deleting"):
            record.body["status"] = status
        self._cloud.store.save(record)

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


def grace_s(record: Record) -> float:
    """Return how long the guest may take to shut down, in seconds."""
    spot = record.body["scheduling"].get("provisioningModel") == "SPOT"
    return ACPI_GRACE_SPOT_S if spot else ACPI_GRACE_S


def _deleted_meanwhile() -> OperationError:
    return OperationError(
        "OPERATION_CANCELED_BY_USER",
        "The instance was deleted while it was being started.",
        http_code=409,
        http_message="CONFLICT",
    )
