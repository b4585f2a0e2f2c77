"""Custom jobs while they run: each has a machine of its own, and a folder that both sides share.

Used from the server's event loop only. A job is saved as it changes; one whose emulator was killed
has failed, and says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import shutil
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import Json, OperationError
from ..machines import DataDisk, MachineSpec
from ..machines.sandbox import machine_uid
from ..machines.storage import enclose, provision
from ..storage.files import open_regular
from ..storage.objects import stamp
from ..store import Key, Record
from . import job_spec

if TYPE_CHECKING:
    from ..cloud.cloud import Cloud

COLLECTION = "customJobs"
ENDED = ("JOB_STATE_SUCCEEDED", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")
DISK_GB = 100
GRACE_S = 30.0  # between a job's SIGTERM and its end
EXIT_BYTES = 16
STARTUP = "#!/bin/bash\n/opt/python/bin/python -I /mnt/disks/job/container.py\nshutdown -h now\n"
NO_IMAGE_STARTUP = STARTUP.replace("/opt/python/bin/python", "python3")
# google.rpc.Code
INVALID_ARGUMENT, DEADLINE_EXCEEDED, INTERNAL, CANCELLED = 3, 4, 13, 1

log = logging.getLogger("vmctl.emulator")


class Jobs:
    """The custom jobs of one emulator."""

    def __init__(self, cloud: Cloud) -> None:
        self._cloud = cloud
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ends: dict[str, asyncio.Event] = {}  # of machines that run, by the job's id

    def begin(self, record: Record) -> None:
        """Run a new job in the background."""
        task = asyncio.create_task(self._run(record))
        self._tasks[record.key.name] = task
        task.add_done_callback(lambda _: self._tasks.pop(record.key.name, None))

    def cancel(self, record: Record) -> None:
        """Ask a job to end; one that has ended stays as it is."""
        if record.body["state"] not in ENDED:
            self._set(record, "JOB_STATE_CANCELLING")
            if (end := self._ends.get(record.key.name)) is not None:
                end.set()

    def wake(self) -> None:
        """After a restart: what ran then has failed."""
        for record in self._cloud.store.find(COLLECTION):
            if record.body["state"] not in ENDED:
                self._fail(record, INTERNAL, "The emulator ended while the job ran.")

    async def close(self) -> None:
        """End all jobs; AsyncMachineHost powers their machines off."""
        for task in list(self._tasks.values()):
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def metadata(self, job_id: str) -> Json | None:
        """The metadata of a job's machine; None if no job has this id."""
        if job_id not in self._ends:
            return None
        record = self._find(job_id)
        assert record is not None
        is_python = job_spec.image_of(record.body["jobSpec"]) != "base"
        script = STARTUP if is_python else NO_IMAGE_STARTUP
        return {
            "instance": {"attributes": {"startup-script": script}, "id": int(job_id)},
            "project": {"project-id": record.key.project},
        }

    def exited(self, job_id: str) -> bool:
        """Notice that a machine has ended; False if it was not a job's."""
        end = self._ends.get(job_id)
        if end is not None:
            end.set()
        return end is not None

    def folder(self, job_id: str) -> Path:
        """The folder that a job's machine writes its log into."""
        return self._cloud.storage.home / "jobs" / job_id

    # -- the life of one job -------------------------------------------------------------------

    async def _run(self, record: Record) -> None:
        job_id, spec = record.key.name, record.body["jobSpec"]
        end = self._ends[job_id] = asyncio.Event()
        disk = self._cloud.machines.disk(job_id)
        try:
            self._set(record, "JOB_STATE_PENDING")
            image = job_spec.image_of(spec)
            await self._cloud.machines.prepare_image(image, lambda message: None)
            machine = self._machine(record, disk, image)
            if not end.is_set():
                await self._cloud.machines.boot(machine)
                if record.body["state"] != "JOB_STATE_CANCELLING":
                    record.body["startTime"] = stamp(self._cloud.clock.now())
                    self._set(record, "JOB_STATE_RUNNING")
            late = await self._wait(end, job_spec.timeout_s(spec))
            await self._cloud.machines.shutdown(job_id, GRACE_S)
            self._end(record, late=late)
        except asyncio.CancelledError:
            self._fail(record, INTERNAL, "The emulator was stopped while the job ran.")
            raise
        except OperationError as error:
            self._fail(record, INTERNAL, error.message)
        except Exception as error:
            log.exception("custom job %s", job_id)
            self._fail(record, INTERNAL, f"The emulator failed: {error!r}")
        finally:
            self._ends.pop(job_id, None)
        await self._cloud.machines.wipe(job_id)

    async def _wait(self, end: asyncio.Event, timeout_s: float) -> bool:
        """Until a job's machine ends or is to end; whether that is by its time limit."""
        clock = self._cloud.clock
        limit = asyncio.create_task(clock.sleep_until(clock.now() + timedelta(seconds=timeout_s)))
        ended = asyncio.create_task(end.wait())
        try:
            await asyncio.wait({limit, ended}, return_when=asyncio.FIRST_COMPLETED)
            return not end.is_set()
        finally:
            for task in (limit, ended):
                task.cancel()

    def _machine(self, record: Record, disk: Path, image: str) -> MachineSpec:
        """Fill the job's folder; what to boot."""
        job_id, body = record.key.name, record.body
        storage, spec = self._cloud.storage, body["jobSpec"]
        buckets = {found["name"]: f"gcs-{n}" for n, found in enumerate(storage.buckets())}
        folder = self.folder(job_id)
        uid = machine_uid()
        enclose(folder.parent)
        provision(folder, uid, blank=True)
        content = {
            "env": job_spec.environ_of(job_id, body),
            "cwd": "/",
            "buckets": buckets,
            "commands": job_spec.commands_of(spec),
        }
        code = resources.files(__package__).joinpath("container.py").read_text()
        for name, text in (("spec.json", json.dumps(content)), ("container.py", code)):
            file = folder / "fs" / name
            file.write_text(text)
            file.chmod(0o644)
            if uid is not None:
                os.chown(file, uid, uid)
        machine = spec["workerPoolSpecs"][0]["machineSpec"]
        count = int(machine.get("acceleratorCount", 0))
        shared = [
            DataDisk(device, storage.share(bucket), DISK_GB, read_only=False, blank=True)
            for bucket, device in buckets.items()
        ]
        return MachineSpec(
            instance_id=job_id,
            name=f"workerpool0-{job_id[-6:]}",
            hostname=f"workerpool0-{job_id[-6:]}",
            disk=disk,
            image=image,
            nat_ip=None,
            gpu=job_spec.gpu_of(machine) if count else None,
            gpu_count=count,
            admits=False,
            data_disks=(DataDisk("job", folder, DISK_GB, read_only=False, blank=True), *shared),
        )

    def _end(self, record: Record, *, late: bool) -> None:
        """Set the state in which a job has ended, by the exit code that its machine left."""
        if record.body["state"] == "JOB_STATE_CANCELLING":
            record.body["error"] = {"code": CANCELLED, "message": "CANCELED"}
            self._set(record, "JOB_STATE_CANCELLED")
        elif late:
            self._fail(record, DEADLINE_EXCEEDED, "The job exceeded its timeout.")
        elif (code := self._exit_code(record.key.name)) == 0:
            self._set(record, "JOB_STATE_SUCCEEDED")
        elif code is None:
            self._fail(record, INTERNAL, "The replica workerpool0-0 ended without an exit status.")
        else:
            self._fail(
                record,
                INVALID_ARGUMENT,
                f"The replica workerpool0-0 exited with a non-zero status of {code}. To find out "
                "more about why your job exited please check the logs: "
                "https://console.cloud.google.com/logs/viewer?project="
                f"{record.key.project}&resource=ml_job%2Fjob_id%2F{record.key.name}",
            )

    def _exit_code(self, job_id: str) -> int | None:
        with contextlib.suppress(OSError, ValueError):
            descriptor = open_regular(None, str(self.folder(job_id) / "fs" / "exit"))
            with os.fdopen(descriptor, "rb") as file:
                return int(file.read(EXIT_BYTES))
        return None

    def _fail(self, record: Record, code: int, message: str) -> None:
        record.body["error"] = {"code": code, "message": message}
        self._set(record, "JOB_STATE_FAILED")

    def _set(self, record: Record, state: str) -> None:
        now = stamp(self._cloud.clock.now())
        record.body |= {"state": state, "updateTime": now}
        if state in ENDED:
            record.body["endTime"] = now
        self._cloud.store.save(record)

    def forget(self, record: Record) -> None:
        """Remove a job that has ended, and its log."""
        self._cloud.store.delete(record.key)
        shutil.rmtree(self.folder(record.key.name), ignore_errors=True)

    def _find(self, job_id: str) -> Record | None:
        found = self._cloud.store.find(COLLECTION)
        return next((record for record in found if record.key.name == job_id), None)


def key_of(project: str, region: str, job_id: str) -> Key:
    """Where a job is saved."""
    return Key(project, COLLECTION, f"regions/{region}", job_id)
