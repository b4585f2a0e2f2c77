"""Faults during boot: what is late or missing after RUNNING, on the emulator's clock.

They act once per boot. In all of them `zone` and `instance` select the machines, and seconds are
emulated ones, counted from RUNNING:

slow-ssh     {"seconds": 40}    port 22 does not answer before; without seconds: never
slow-driver  {"seconds": 90}    until then the driver is being installed and the package lock held
driver       {"state": "failed"} the installation fails at once; "missing": no driver;
             {"count": 1}       the GPUs that nvidia-smi sees; {"cuda": "11.4"} the driver's CUDA
dpkg-lock    {"seconds": 60}    unattended-upgr holds the package lock; without seconds: for ever
agent        {"state": "dead"}  the guest agent: no keys and no host keys in this boot
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from ..clock import Clock
from ..cloud.firewall import SshFirewall
from ..cloud.machine_host import AsyncMachineHost
from ..errors import Json
from ..store import Record

Step = Callable[[], Awaitable[None]]
_NUMBER = (int, float)
_WHERE: dict[str, tuple[Any, bool]] = {"zone": (str, False), "instance": (str, False)}
FIELDS: dict[str, dict[str, tuple[Any, bool]]] = {  # kind -> field -> (type, required)
    "slow-ssh": {"seconds": (_NUMBER, False), **_WHERE},
    "slow-driver": {"seconds": (_NUMBER, True), **_WHERE},
    "driver": {
        "state": (str, False),
        "count": (int, False),
        "cuda": ((str, *_NUMBER), False),
        **_WHERE,
    },
    "dpkg-lock": {"seconds": (_NUMBER, False), **_WHERE},
    "agent": {"state": (str, True), **_WHERE},
}
STATES = {"driver": ("failed", "missing"), "agent": ("dead",)}


@dataclass(frozen=True, slots=True)
class BootFaults:
    """The faults of one boot; times in seconds after RUNNING, None for a fault that never ends."""

    trouble: dict[str, object] = field(default_factory=dict)  # what the machine itself simulates
    silent: bool = False
    ssh_s: float | None = None
    driver_s: float | None = None
    lock_s: float | None = None

    @staticmethod
    def of(faults: Iterable[Json]) -> BootFaults:
        """Combine the faults that act on one boot."""
        trouble: dict[str, object] = {}
        silent, times = False, dict[str, float | None]()
        for fault in faults:
            kind, seconds = fault["kind"], fault.get("seconds")
            if kind == "slow-ssh":
                silent, times["ssh"] = True, seconds
            elif kind == "slow-driver":
                trouble["driver"], times["driver"] = "installing", seconds
            elif kind == "dpkg-lock":
                trouble["lock"], times["lock"] = True, seconds
            elif kind == "agent":
                trouble["agent"] = fault["state"]
            else:
                trouble |= {key: fault[key] for key in ("count", "cuda") if key in fault}
                if "state" in fault:
                    trouble["driver"] = fault["state"]
                    times["driver"] = 0.0
        return BootFaults(trouble, silent, times.get("ssh"), times.get("driver"), times.get("lock"))


class BootFaultTimers:
    """Ends each boot's faults at their times, once the machine is RUNNING."""

    def __init__(self, clock: Clock, machines: AsyncMachineHost, firewall: SshFirewall) -> None:
        self._clock = clock
        self._machines = machines
        self._firewall = firewall
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}

    def begin(self, record: Record, faults: BootFaults) -> None:
        """Start the timers: the machine is RUNNING."""
        identity = record.body["id"]
        self.end(identity)
        steps: list[tuple[float | None, Step]] = [
            (faults.driver_s, lambda: self._machines.end_fault(identity, "arrive")),
            (faults.lock_s, lambda: self._machines.end_fault(identity, "unlock")),
            (faults.ssh_s, lambda: self._firewall.unblock(record)),
        ]
        loop = asyncio.get_running_loop()
        self._tasks[identity] = [
            loop.create_task(self._later(seconds, step))
            for seconds, step in steps
            if seconds is not None
        ]

    def end(self, instance_id: str) -> None:
        """Cancel the timers of a machine that stops."""
        for task in self._tasks.pop(instance_id, ()):
            task.cancel()

    def close(self) -> None:
        """Cancel all timers."""
        for instance_id in list(self._tasks):
            self.end(instance_id)

    async def _later(self, seconds: float, step: Step) -> None:
        async with self._clock.working():
            await self._clock.sleep_until(self._clock.now() + timedelta(seconds=seconds))
            await step()
