"""The admin route: status, faults, preemptions, the stepped clock, stop.

Google has no such route, so this is its documentation. All bodies are JSON.

GET    /emulator/v1/status           how the emulator runs and what runs on it
POST   /emulator/v1/stop             clean stop, machines powered off
POST   /emulator/v1/clock            {"advance_s": 3600} on a stepped clock
GET    /emulator/v1/faults           the faults in force
POST   /emulator/v1/faults           add a fault, see faults.py: {"kind": "stockout", "zone": ...}
DELETE /emulator/v1/faults[/ID]      end one fault or all
POST   /emulator/v1/preempt          {"project": P, "zone": Z, "instance": N}: preempt a machine
POST   /emulator/v1/crash            the same body: crash the machine's host
POST   /emulator/v1/hold             {"call": 3, "when": "after"}: pause the third call from now on;
                                     "changes": true or "method": ID count only some calls,
                                     "repeats": false counts a repeated GET once
POST   /emulator/v1/books            {} or {"since": STAMP, "until": STAMP}: the actual bill
GET    /emulator/v1/hold             the number of calls since, and the one that is paused
DELETE /emulator/v1/hold             end the paused call without a reply
GET    /emulator/v1/forwards         the ports of this computer that machines can reach
POST   /emulator/v1/forwards         {"port": N}: add one, at 10.0.2.2:N in every machine
DELETE /emulator/v1/forwards/N       remove one
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime

from .clock import parse_stamp, stamp
from .cloud.cloud import DEFAULT_PROJECT, Cloud
from .cloud.lifecycle import Lifecycle
from .cloud.operations import SYSTEM
from .errors import ApiError, Json, bad_request, not_found
from .http import urls
from .store import Key, Record

PREFIX = "/emulator/v1/"


class Admin:
    """Answers admin calls for one cloud; `stop` is called to end the server."""

    def __init__(
        self, cloud: Cloud, lifecycle: Lifecycle, stop: Callable[[], None], about: Json
    ) -> None:
        self._cloud = cloud
        self._lifecycle = lifecycle
        self._stop = stop
        self._about = about

    async def answer(self, method: str, path: str, body: Json) -> Json:
        """Answer one admin call; ApiError when it is refused."""
        name, _, argument = path.removeprefix(PREFIX).partition("/")
        match method, name, argument:
            case "GET", "status", "":
                return self._status()
            case "POST", "stop", "":
                self._stop()
                return {"stopping": True, "pid": os.getpid()}
            case "POST", "clock", "":
                return await self._advance(body)
            case "GET", "faults", "":
                return {"faults": self._cloud.faults.all()}
            case "POST", "faults", "":
                return _checked(lambda: self._cloud.faults.add(body))
            case "DELETE", "faults", _:
                removed = self._cloud.faults.remove(argument or None)
                if argument and not removed:
                    raise not_found(path)
                return {"removed": removed}
            case "POST", "preempt", "":
                return await self._preempt(self._instance(body))
            case "POST", "crash", "":
                return await self._crash(self._instance(body))
            case "POST", "books", "":
                return self._billing(body)
            case "POST", "hold", "":
                return _checked(lambda: self._cloud.breakpoints.set(body))
            case "GET", "hold", "":
                return self._cloud.breakpoints.status()
            case "DELETE", "hold", "":
                return self._cloud.breakpoints.release()
            case "GET", "forwards", "":
                return {"forwards": self._cloud.machines.forwards}
            case "POST", "forwards", "":
                return await self._forward(body.get("port"), wanted=True)
            case "DELETE", "forwards", _:
                return await self._forward(int(argument) if argument.isdecimal() else None)
        raise not_found(path)

    async def _forward(self, port: object, *, wanted: bool = False) -> Json:
        if not isinstance(port, int) or not 0 < port < 65536 or port == self._about["port"]:
            raise bad_request(
                f"{port} cannot be forwarded to machines: name a port from 1 to 65535, and not "
                "the emulator's own."
            )
        await self._cloud.machines.forward(port, wanted)
        return {"forwards": self._cloud.machines.forwards}

    def _status(self) -> Json:
        cloud = self._cloud
        instances = [
            {
                "project": record.key.project,
                "zone": urls.last(record.key.scope),
                "name": record.key.name,
                "id": record.body["id"],
                "status": record.body["status"],
                "nat_ip": record.private.get("nat_ip"),
                "ssh_port": record.private.get("ssh_port"),
            }
            for record in cloud.store.find("instances")
        ]
        return self._about | {
            "now": stamp(cloud.clock.now()),
            "instances": instances,
            "faults": len(cloud.faults.all()),
        }

    async def _advance(self, body: Json) -> Json:
        seconds = body.get("advance_s")
        if not isinstance(seconds, int | float) or isinstance(seconds, bool):
            raise bad_request('The body must be {"advance_s": SECONDS}.')
        try:
            await self._cloud.clock.advance(float(seconds))
        except ValueError as error:
            raise bad_request(f"{error}.") from None
        for record in self._cloud.store.find("instances"):
            if record.body["status"] == "RUNNING":  # machines live by this clock, too
                await self._cloud.machines.metadata_changed(record.body["id"])
        return {"now": stamp(self._cloud.clock.now())}

    def _billing(self, body: Json) -> Json:
        def moment(name: str) -> datetime | None:
            return parse_stamp(str(body[name])) if name in body else None

        billing = self._cloud.billing
        try:
            sums = billing.sum_costs(moment("since"), moment("until") or self._cloud.clock.now())
        except ValueError as error:
            raise bad_request(f"{error}.") from None
        return {**sums, "starts": billing.list_starts()}

    def _instance(self, body: Json) -> Record:
        key = Key(
            str(body.get("project", DEFAULT_PROJECT)),
            "instances",
            f"zones/{body.get('zone', '')}",
            str(body.get("instance", "")),
        )
        record = self._cloud.store.get(key)
        if record is None:
            raise not_found(key.path)
        if record.body["status"] != "RUNNING":
            raise ApiError(400, "resourceNotReady", f"{key.path} is not RUNNING")
        return record

    async def _preempt(self, record: Record) -> Json:
        if record.body["scheduling"]["provisioningModel"] != "SPOT":
            raise bad_request(f"{record.key.path} is not a Spot instance.")
        record.private["preempted"] = True
        self._lifecycle.enter("stop", record)
        operation = self._cloud.operations.create(
            "compute.instances.preempted", record.key, record.body["id"], user=SYSTEM
        )
        answer = dict(operation.body)
        self._cloud.operations.start(operation, lambda op: self._lifecycle.preempt(op, record))
        return answer

    async def _crash(self, record: Record) -> Json:
        await self._cloud.machines.shutdown(record.body["id"], 0.0)
        self._lifecycle.exited(record.body["id"], "crash")
        return {"crashed": record.key.path}


def _checked(action: Callable[[], Json]) -> Json:
    try:
        return action()
    except ValueError as error:
        raise bad_request(f"{error}.") from None
