"""Faults on request: stockouts, quota limits, slow boots, refused and slow calls.

A fault is a small JSON object posted to the admin route. It acts `calls` times or for `lasts_s`
seconds (for ever without either), is kept on disk, and is shown with how often it has acted.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..clock import Clock
from ..cloud.catalog import Catalog
from ..cloud.quotas import Limit, Quotas
from ..errors import ApiError, Json, OperationError
from ..store import write_json
from . import boot_faults, schedule
from .boot_faults import BootFaults
from .stockout import stockout_error

_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, tuple[Any, bool]]] = {  # kind -> field -> (type, required)
    "stockout": {
        "zone": (str, False),
        "gpu": (str, False),
        "machineType": (str, False),
        "zonesAvailable": (list, False),
        "plain": (bool, False),
    },
    "capacity": {  # a zone's total number of a GPU, for all projects together
        "zone": (str, False),
        "gpu": (str, True),
        "count": (int, True),
    },
    "operation": {  # an insert or a start that is accepted and then fails with this error
        "code": (str, True),
        "message": (str, False),
        "details": (list, False),
        "httpStatus": (int, False),
        "httpMessage": (str, False),
        "zone": (str, False),
        "gpu": (str, False),
        "machineType": (str, False),
    },
    "quota": {
        "metric": (str, True),
        "region": (str, False),
        "limit": (_NUMBER, True),
        "family": (str, False),
    },
    "slow-boot": {"seconds": (_NUMBER, True), "zone": (str, False), "instance": (str, False)},
    "http": {
        "method": (str, False),
        "status": (int, True),
        "reason": (str, False),
        "message": (str, False),
        "domain": (str, False),
        "rpcStatus": (str, False),
        "details": (list, False),
        **schedule.FOR_CALLS,
    },
    "latency": {"seconds": (_NUMBER, True), "method": (str, False), **schedule.FOR_CALLS},
    "drop": {"method": (str, False), "when": (str, False), **schedule.FOR_CALLS},
    **boot_faults.FIELDS,
}
_HTTP_DEFAULTS = {
    401: ("authError", "Request had invalid authentication credentials."),
    403: ("forbidden", "Forbidden"),
    429: ("rateLimitExceeded", "Rate Limit Exceeded"),
    500: ("backendError", "Internal error. Please try again."),
    503: ("backendError", "The service is currently unavailable."),
}


class Faults:
    """The faults in force, in the order in which they were added."""

    def __init__(self, file: Path, catalog: Catalog, quotas: Quotas, clock: Clock) -> None:
        self._file = file
        self._catalog = catalog
        self._clock = clock
        self._quotas = quotas
        self._faults: list[Json] = []
        try:
            if file.exists():
                self._faults = list(json.loads(file.read_bytes())["faults"])
            self._ids = itertools.count(1 + max((int(f["id"]) for f in self._faults), default=0))
            self._limits()
            self._quotas.limits = self._limits
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"{file} is damaged: delete it, and with it all faults") from None

    def add(self, fault: Json) -> Json:
        """Put a fault in force and return it with its id; ValueError when it is malformed."""
        kind = fault.get("kind")
        if kind not in _FIELDS:
            raise ValueError(f"unknown kind of fault {kind!r}: use one of {', '.join(_FIELDS)}")
        fields = _FIELDS[kind] | {"kind": (str, True)} | schedule.FOR_ALL
        for name, value in fault.items():
            if name not in fields:
                raise ValueError(f"a {kind} fault has no field {name!r}: use {', '.join(fields)}")
            if not isinstance(value, fields[name][0]) or isinstance(value, bool) != (
                fields[name][0] is bool
            ):
                raise ValueError(f"{name} of a {kind} fault has the wrong type: {value!r}")
        missing = [name for name, (_, required) in fields.items() if required and name not in fault]
        if missing:
            raise ValueError(f"a {kind} fault needs {', '.join(missing)}")
        known_states = boot_faults.STATES.get(kind)
        if known_states and fault.get("state", known_states[0]) not in known_states:
            raise ValueError(f"state of a {kind} fault is one of {', '.join(known_states)}")
        schedule.check(fault)
        known = schedule.with_end(fault, self._clock.now())
        known |= {"id": str(next(self._ids)), "acted": 0}
        self._faults.append(known)
        self._save()
        return known

    def all(self) -> list[Json]:
        """Return the faults in force, without those whose time has passed."""
        over = [fault for fault in self._faults if schedule.is_over(fault, self._clock.now())]
        if over:
            self._faults = [fault for fault in self._faults if fault not in over]
            self._save()
        return list(self._faults)

    def remove(self, fault_id: str | None) -> int:
        """End one fault, or all of them with None; return how many ended."""
        before = len(self._faults)
        self._faults = [f for f in self._faults if fault_id is not None and f["id"] != fault_id]
        self._save()
        return before - len(self._faults)

    def refuse_call(self, method: str) -> ApiError | None:
        """Return the error that a fault gives this call, and count it."""
        for fault in self._matching("http", method=method):
            if not schedule.strikes(fault):
                continue
            self._act(fault)
            default = _HTTP_DEFAULTS.get(fault["status"], ("badRequest", "Bad Request"))
            return ApiError(
                fault["status"],
                fault.get("reason", default[0]),
                fault.get("message", default[1]),
                status=fault.get("rpcStatus"),
                details=fault.get("details"),
                domain=fault.get("domain", "global"),
            )
        return None

    def latency_s(self, method: str) -> float:
        """Return how long this call is delayed, in real seconds."""
        return self._take_seconds("latency", method=method)

    def drops(self, method: str, when: str) -> bool:
        """Whether the connection breaks `before` the call acts or `after` it acted."""
        for fault in self._matching("drop", method=method):
            if fault.get("when", "after") == when and schedule.strikes(fault):
                self._act(fault)
                return True
        return False

    def slow_boot_s(self, zone: str, instance: str) -> float:
        """Return how much longer this boot takes, in emulated seconds."""
        return self._take_seconds("slow-boot", zone=zone, instance=instance)

    def take_boot_faults(self, zone: str, instance: str) -> BootFaults:
        """Return the faults of this boot, and count them."""
        found = [
            fault
            for kind in boot_faults.FIELDS
            for fault in self._matching(kind, zone=zone, instance=instance)
        ]
        for fault in found:
            self._act(fault)
        return BootFaults.of(found)

    def check_capacity(
        self, project: str, zone: str, machine_type: str, gpu: str | None, count: int
    ) -> None:
        """Raise the OperationError of a zone that has no capacity for such a machine."""
        about = {"zone": zone, "gpu": gpu, "machineType": machine_type}
        for fault in self._matching("operation", **about):
            self._act(fault)
            raise OperationError(
                fault["code"],
                fault.get("message", ""),
                http_code=fault.get("httpStatus", 400),
                http_message=fault.get("httpMessage", "BAD REQUEST"),
                details=fault.get("details"),
            )
        for fault in self._matching("stockout", **about):
            self._act(fault)
            raise self._stockout(fault, project, zone, machine_type, gpu, count)
        full = self._full(zone, gpu, 0)  # the new instance is counted already
        if full is not None:
            self._act(full)
            raise self._stockout({}, project, zone, machine_type, gpu, count)

    def _stockout(
        self, fault: Json, project: str, zone: str, machine: str, gpu: str | None, count: int
    ) -> OperationError:
        others = fault.get("zonesAvailable")
        if others is None:
            others = self._zones_left(zone, machine, gpu, count)
        place = f"projects/{project}/zones/{zone}"
        return stockout_error(place, machine, gpu, count, others, plain=fault.get("plain", False))

    def _full(self, zone: str, gpu: str | None, more: int) -> Json | None:
        """The capacity fault that `more` of a GPU would exceed in a zone, if any."""
        for fault in self._matching("capacity", zone=zone, gpu=gpu):
            if gpu and self._quotas.gpus_in_use(zone, gpu) + more > fault["count"]:
                return fault
        return None

    def _zones_left(self, zone: str, machine: str, gpu: str | None, count: int) -> list[str]:
        """The zones of the same region with capacity for `count` of the GPU."""
        region = zone.rpartition("-")[0]
        zones = self._catalog.zones_with(gpu) if gpu else self._catalog.zones
        return [
            other
            for other in zones
            if other != zone
            and other.startswith(region + "-")
            and not any(self._matching("stockout", zone=other, gpu=gpu, machineType=machine))
            and self._full(other, gpu, count) is None
        ]

    def _take_seconds(self, kind: str, **about: str | None) -> float:
        total = 0.0
        for fault in self._matching(kind, **about):
            if schedule.strikes(fault):
                total += fault["seconds"]
                self._act(fault)
        return total

    def _matching(self, kind: str, **about: str | None) -> Iterator[Json]:
        for fault in self.all():
            if fault["kind"] == kind and all(
                name not in fault or (value is not None and fnmatch.fnmatch(value, fault[name]))
                for name, value in about.items()
            ):
                yield fault

    def _act(self, fault: Json) -> None:
        fault["acted"] += 1
        if fault["acted"] >= fault.get("calls", float("inf")):
            self._faults.remove(fault)
        self._save()

    def _save(self) -> None:
        write_json(self._file, {"faults": self._faults})

    def _limits(self) -> list[Limit]:
        """The quota limits that faults set now."""
        return [
            Limit(f["metric"], f.get("region"), f["limit"], f.get("family"))
            for f in self.all()
            if f["kind"] == "quota"
        ]
