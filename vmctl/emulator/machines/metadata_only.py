"""The host of an emulator whose instances are metadata only: it boots no machine at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from .forwards import Forwards
from .interface import Booted, MachineError, MachineSpec
from .socket_relay import random_address
from .storage import enclose


class MetadataOnlyHost:
    """Answers as MachineHost does, with addresses at which nothing listens."""

    mode = "metadata-only"
    note = "instances are metadata only: no machine is booted, and none answers ssh"
    bounds = SimpleNamespace(note="")

    def __init__(self, home: Path) -> None:
        enclose(home)
        enclose(home / "machines")
        self._lock = threading.Lock()
        self._addresses: dict[str, str] = {}  # of those that run
        self.forwards = Forwards(home / "seed")

    def prepare_image(self, image: str, progress: Callable[[str], None]) -> None:
        """There is nothing to be built."""

    def boot(self, spec: MachineSpec) -> Booted:
        """Give the instance an address of its own, the previous one if it is free."""
        with self._lock:
            if spec.instance_id in self._addresses:
                raise MachineError(f"machine {spec.name} is running already")
            taken = set(self._addresses.values())
            address = spec.nat_ip or random_address()
            while address in taken and not spec.static:
                address = random_address()
            self._addresses[spec.instance_id] = address
        return Booted(address, 22)

    def shutdown(self, instance_id: str, grace_s: float) -> None:
        """Free its address."""
        with self._lock:
            self._addresses.pop(instance_id, None)

    def metadata_changed(self, instance_id: str) -> None:
        """Nobody is there who would read it."""

    def admit(self, instance_id: str, admits: bool) -> None:
        """Nothing listens at its port 22."""

    def enter(self, instance_id: str, connection: object) -> bool:
        """There is no sshd."""
        return False

    def end_fault(self, instance_id: str, what: str) -> None:
        """No boot is late."""

    def serial_output(self, instance_id: str) -> tuple[int, bytes]:
        """Nothing was written."""
        return 0, b""

    def close(self) -> None:
        """End the thread that would forward ports."""
        self.forwards.close()
