"""All machines of one emulator: what this computer allows, and which run; or none at all."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from . import plain_process, sandbox
from .bounds import Bounds, DiskWatch
from .disks.serial_port import SerialPort
from .images.image import ImageStore
from .interface import Booted, DataDisk, GuestBackend, Internal, MachineError, MachineSpec
from .machine import HostedMachine
from .network import hub, uplink
from .network.forwards import Forwards
from .socket_relay import SocketRelay, listen, machine_network, random_address
from .spawner import Spawner
from .storage import check_traversable, enclose, make_seed, measure_disk

LAST_WAIT_S = 15.0
PLAIN_VARIABLE = "VMCTL_EMULATOR_PLAIN"


class MachineHost:
    """Boots, stops and describes machines; every method may be called from any thread."""

    mode: str  # "sandbox" or "plain"
    note: str  # one sentence for the user about what this computer does not allow, or empty

    def __init__(self, home: Path, images: Path, backend: GuestBackend) -> None:
        """One per home at a time; MachineError if machines cannot run here at all."""
        self._home = home.resolve()
        self._backend = backend
        self._lock = threading.Lock()
        machine_network()  # an invalid one is reported now, not at the first machine
        self._machines: dict[str, HostedMachine] = {}
        self._silent: set[str] = set()  # being stopped: no exited() for them
        self._disks: dict[str, Path] = {}
        enclose(self._home)
        enclose(self._home / "machines")
        for disk in (self._home / "machines").iterdir():
            if disk.is_dir() and not disk.is_symlink():
                enclose(disk)  # older versions left them open to other users
        if sandbox.machine_uid() is not None:
            check_traversable(self._home / "machines")
        self._seed = self._home / "seed"
        self.forwards = Forwards(self._seed)
        self.bounds = Bounds(self._home)
        self._watch = DiskWatch(self._home / "machines", measure_disk)
        self._spawner = Spawner()
        self._relay = SocketRelay()
        self._hub: hub.Hub | None = None  # as soon as there is a machine, where that can be
        self._describe()
        make_seed(self._home, sandboxed=self.mode == "sandbox")
        self._images = ImageStore(images, self._spawner, sandboxed=self.mode == "sandbox")

    def _describe(self) -> None:
        notes = []
        self._has_hub = False
        if os.environ.get(PLAIN_VARIABLE, "") not in ("", "0"):
            abilities = sandbox.Abilities(f"{PLAIN_VARIABLE} is set", overlay=False)
        else:
            abilities = sandbox.probe(self._spawner)
        self._overlay = abilities.overlay
        self.mode = "sandbox" if abilities.refusal is None else "plain"
        if abilities.refusal is not None:
            if (reason := plain_process.find_obstacle()) is not None:
                self._close_parts()
                raise MachineError(f"machines cannot run here: {reason}")
            notes.append(f"plain machines, because {abilities.refusal}: {plain_process.LIMITS}")
        else:
            if (reason := uplink.find_obstacle()) is not None:
                notes.append(f"machines have no outbound network, because {reason}")
            reason = hub.find_obstacle()
            self._has_hub = reason is None
            if reason is not None:
                notes.append(f"machines have no internal network, because {reason}")
            if not self._overlay:
                notes.append("overlay mounts are refused here: images get a thin layer instead")
        self.note = "; ".join(notes)

    def prepare_image(self, image: str, progress: Callable[[str], None]) -> None:
        """Returns when machines can boot from image; minutes the first time."""
        self._images.prepare(image, progress)

    def image_folder(self, image: str) -> Path | None:
        """The folder of a prepared image's Python on this computer; None for an image without."""
        return self._images.path(image)

    def boot(self, spec: MachineSpec) -> Booted:
        """Returns when sshd answers at the address returned."""
        image = self._images.path(spec.image)
        with self._lock:
            if spec.instance_id in self._machines:
                raise MachineError(f"machine {spec.name} is running already")
            taken = {machine.listener.nat_ip for machine in self._machines.values()}
            listener = listen(spec.nat_ip, taken, spec.static)
            machine = HostedMachine(
                spec,
                self._backend,
                listener,
                self._relay,
                self.forwards,
                self.bounds,
                self._watch,
                self._open_hub() if spec.internal is not None else None,
                self._ended,
            )
            self._machines[spec.instance_id] = machine
            self._disks[spec.instance_id] = spec.disk
        try:
            booted = machine.boot(self._spawner, self._seed, self.mode, image, self._overlay)
        except BaseException:
            with self._lock:
                self._machines.pop(spec.instance_id, None)
            raise
        with self._lock:
            machine.booted = True
            end_reason = machine.reason
        self._introduce(spec.internal)
        if end_reason:  # a startup-script may power off before the boot is reported
            threading.Thread(
                target=self._backend.exited, args=(spec.instance_id, end_reason), daemon=True
            ).start()
        return booted

    def _open_hub(self) -> hub.Hub | None:
        """The internal network, made for the first machine; None if this computer refuses it."""
        if self._hub is not None and not self._hub.is_alive:
            self._hub.close()
            self._hub = None
        if self._hub is None and self._has_hub:
            try:
                self._hub = hub.Hub(self._spawner)
            except MachineError as error:
                self._has_hub = False
                said = f"machines have no internal network, because {error}"
                self.note = f"{self.note}; {said}" if self.note else said
        return self._hub

    def _introduce(self, joined: Internal | None) -> None:
        """Tells the machines of a network each other's names."""
        if joined is None or self._hub is None:
            return
        with self._lock:
            there = [
                (machine, internal)
                for machine in self._machines.values()
                if (internal := machine.spec.internal) and internal.network == joined.network
            ]
        names = [[at.address, at.full_name, machine.spec.name] for machine, at in there]
        for machine, _ in there:
            machine.send_order("names", names=names)

    def open_network(self, name: str, is_open: bool) -> None:
        """Lets a network's machines reach each other, or the internet only, from now on."""
        if self._hub is not None:
            self._hub.open(name, is_open)

    def cut(self, instance_id: str, is_cut: bool) -> None:
        """Cuts a machine's cable to the internal network, or mends it."""
        if self._hub is not None:
            self._hub.cut(instance_id, is_cut)

    def shutdown(self, instance_id: str, grace_s: float) -> None:
        """Presses the power button, cuts the power after grace_s; no exited() follows.

        Does nothing if the machine has ended already."""
        with self._lock:
            machine = self._machines.get(instance_id)
            if machine is None:
                return
            self._silent.add(instance_id)
        machine.press_power_button(grace_s)
        with self._lock:
            self._silent.discard(instance_id)

    def metadata_changed(self, instance_id: str) -> None:
        """Makes the machine read its metadata again: accounts, keys, waiting requests."""
        if machine := self._find(instance_id):
            machine.send_order("changed")

    def admit(self, instance_id: str, admits: bool) -> None:
        """Lets connections reach the machine's port 22, or drops them as a firewall does."""
        if machine := self._find(instance_id):
            machine.admit(admits)

    def readdress(self, instance_id: str, address: str | None) -> Booted | None:
        """Lets a machine listen at another address, any free one if None; nothing reaches it
        before `admit`. None if it has ended."""
        with self._lock:
            machine = self._machines.get(instance_id)
            if machine is None:
                return None
            taken = {other.listener.nat_ip for other in self._machines.values()}
            listener = listen(address, taken, address is not None)
            return machine.readdress(listener)

    def enter(self, instance_id: str, connection: socket.socket) -> bool:
        """Passes a connection to the machine's sshd; False if it takes none."""
        machine = self._find(instance_id)
        return machine is not None and machine.enter(connection)

    def end_fault(self, instance_id: str, what: str) -> None:
        """Ends a boot fault: `arrive` (the driver) or `unlock` (the package lock)."""
        if machine := self._find(instance_id):
            machine.send_order(what)

    def freeze(self, instance_id: str) -> None:
        """Stops every process of a machine; its memory stays. No connection reaches it."""
        if machine := self._find(instance_id):
            machine.freeze()

    def thaw(self, instance_id: str) -> bool:
        """Lets a frozen machine run on; False if it has ended."""
        machine = self._find(instance_id)
        if machine is not None:
            machine.thaw()
        return machine is not None

    def attach(self, instance_id: str, disk: DataDisk) -> None:
        """Shows a disk in a machine as /mnt/disks/NAME; does nothing if the machine has ended."""
        if machine := self._find(instance_id):
            machine.data_disks.attach(disk)

    def detach(self, instance_id: str, name: str) -> None:
        """Takes a disk away from a machine, whatever uses it."""
        if machine := self._find(instance_id):
            machine.data_disks.detach(name)

    def resize(self, instance_id: str, name: str | None, size_gb: int) -> None:
        """Lets a machine's disk, None for its boot disk, hold so much from now on."""
        if machine := self._find(instance_id):
            machine.data_disks.resize(name, size_gb)

    def serial_output(self, instance_id: str) -> tuple[int, bytes]:
        """The last megabyte of the serial port, and how many bytes were written before it.

        It survives stops and restarts of the emulator."""
        with self._lock:
            machine = self._machines.get(instance_id)
            disk = self._disks.get(instance_id)
        if machine is not None:
            return machine.serial.read()
        if disk is None:
            for file in self._home.glob("machines/*/instance"):
                if file.read_text().strip() == instance_id:
                    disk = file.parent
        return (0, b"") if disk is None else SerialPort(disk / "serial.log").read()

    def _find(self, instance_id: str) -> HostedMachine | None:
        with self._lock:
            return self._machines.get(instance_id)

    def close(self) -> None:
        """Kills every machine; returns when none is left."""
        with self._lock:
            machines = list(self._machines.values())
            self._silent.update(machine.spec.instance_id for machine in machines)
        for machine in machines:
            machine.kill()
        for machine in machines:
            machine.ended.wait(LAST_WAIT_S)
        self._close_parts()

    def _close_parts(self) -> None:
        if self._hub is not None:
            self._hub.close()
        self._spawner.close()
        self._relay.close()
        self.forwards.close()
        self._watch.close()
        self.bounds.close()

    def _ended(self, machine: HostedMachine, reason: str) -> bool:
        identity = machine.spec.instance_id
        with self._lock:
            self._machines.pop(identity, None)
            machine.reason = reason
            return identity not in self._silent and machine.booted


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

    def readdress(self, instance_id: str, address: str | None) -> Booted | None:
        """Give a running instance another address, a random one if None."""
        with self._lock:
            if instance_id not in self._addresses:
                return None
            self._addresses[instance_id] = address or random_address()
            return Booted(self._addresses[instance_id], 22)

    def enter(self, instance_id: str, connection: object) -> bool:
        """There is no sshd."""
        return False

    def end_fault(self, instance_id: str, what: str) -> None:
        """No boot is late."""

    def freeze(self, instance_id: str) -> None:
        """Nothing runs."""

    def thaw(self, instance_id: str) -> bool:
        """Whether its address is still its own."""
        with self._lock:
            return instance_id in self._addresses

    def attach(self, instance_id: str, disk: DataDisk) -> None:
        """There is no file in it."""

    def detach(self, instance_id: str, name: str) -> None:
        """There was no file in it."""

    def resize(self, instance_id: str, name: str | None, size_gb: int) -> None:
        """Nobody fills it."""

    def open_network(self, name: str, is_open: bool) -> None:
        """Nobody is in it."""

    def serial_output(self, instance_id: str) -> tuple[int, bytes]:
        """Nothing was written."""
        return 0, b""

    def close(self) -> None:
        """End the thread that would forward ports."""
        self.forwards.close()
