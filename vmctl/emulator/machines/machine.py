"""One running machine, seen from the computer: processes, control socket, serial port."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from . import plain_process, process_tree, sandbox
from .bounds import Bounds, Disk, DiskWatch
from .disks.data_disks import DataDisks, make_mount_folder
from .disks.serial_port import SerialPort
from .interface import Booted, GuestBackend, MachineError, MachineSpec
from .network.forwards import Forwards
from .network.hub import Hub
from .network.uplink import Uplink, find_resolver
from .socket_relay import Listener, SocketRelay
from .spawner import Spawner
from .storage import provision

logger = logging.getLogger(__name__)

READY_S = 60.0
LAST_OUTPUT_S = 2.0
MESSAGE_BYTES = 4 << 20  # of one message from a machine; a guest attribute is the longest
SENDING_S = 5
ATTRIBUTE = re.compile(r"[\w.-]{1,128}/[\w.-]{1,128}")
ATTRIBUTE_BYTES = 256 * 1024


class HostedMachine:
    """Runs from `boot` until it ends, then calls `on_end` with the reason.

    `on_end` returns whether the end is to be reported to the API side."""

    def __init__(
        self,
        spec: MachineSpec,
        backend: GuestBackend,
        listener: Listener,
        relay: SocketRelay,
        forwards: Forwards,
        bounds: Bounds,
        watch: DiskWatch,
        hub: Hub | None,
        on_end: Callable[[HostedMachine, str], bool],
    ) -> None:
        self.spec = spec
        self.listener = listener
        self.serial = SerialPort(spec.disk / "serial.log")
        self.ended = threading.Event()
        self._backend = backend
        self._relay = relay
        self._forwards = forwards
        self._bounds, self._watch = bounds, watch
        self._hub = hub
        self._on_end = on_end
        self._alive = threading.Event()
        self._ready = threading.Event()
        self._up = False
        self._failure = ""
        self._reason = "crash"
        self._plain = False
        self.booted = False
        self.reason = ""  # of its end, once it has ended
        self._process: subprocess.Popen[bytes] | None = None
        self._uplink: Uplink | None = None
        self._sending = threading.Lock()
        self._serial_ended = threading.Event()
        self._admits: bool | None = None  # not set yet
        self._admit_lock = threading.Lock()
        self._frozen: list[int] = []
        self.data_disks = DataDisks(spec, watch, self._end_with)
        self._control, self._control_inside = socket.socketpair()
        # A machine that does not read its orders must not block the sender.
        timeout = struct.pack("ll", SENDING_S, 0)
        self._control.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
        self._accepted, self._accepted_inside = socket.socketpair(type=socket.SOCK_SEQPACKET)

    # -- up ------------------------------------------------------------------------------------

    def boot(
        self, spawner: Spawner, seed: Path, mode: str, image: Path | None, overlay: bool
    ) -> Booted:
        """Returns when sshd answers; MachineError, with nothing left behind, if it does not."""
        spec = self.spec
        try:
            try:
                provision(spec.disk, sandbox.machine_uid())
                make_mount_folder(spec.disk)
                (spec.disk / "instance").write_text(spec.instance_id + "\n")
            except OSError as error:
                raise MachineError(f"cannot write the disk of {spec.name}: {error}") from error
            self._start(spawner, seed, mode, image)
            if not self._plain and self._process is not None:
                self.data_disks.begin(self._process.pid)
            order = self._boot_order(seed, mode, image, overlay)
            threading.Thread(
                target=self._serve, args=(order,), name=f"machine {spec.name}", daemon=True
            ).start()
        except BaseException:
            self.kill()
            self._release()
            raise
        self._alive.wait(READY_S)
        if not self._plain and find_resolver() is not None and not self.ended.is_set():
            self._attach(spawner)
        if not self.ended.is_set():
            self._connect()
        if not self._plain and self._process is not None and not self.ended.is_set():
            self._forwards.attach(spec.instance_id, self._process.pid)
        self.send_order("online")
        if not self._ready.wait(READY_S) or self._failure or not self._up:
            self.kill()
            self.ended.wait(10)
            lines = self.serial.read()[1].decode("utf-8", "replace").strip().splitlines()
            reason = self._failure or (lines[-1] if lines else "no output on the serial port")
            raise MachineError(f"machine {spec.name} did not boot: {reason}")
        self.admit(spec.admits)
        return Booted(self.listener.nat_ip, self.listener.port)

    def _start(self, spawner: Spawner, seed: Path, mode: str, image: Path | None) -> None:
        serial_read, serial_write = os.pipe()
        try:
            self._plain = mode == "plain"
            spec = self.spec
            launch = sandbox.Launch(
                spec.disk, seed, spec.name, image,
                self._control_inside.fileno(), self._accepted_inside.fileno(), self._bounds.memory,
                self._hub.pid if self._hub is not None else None,
                spec.internal.address if spec.internal is not None else None,
            )  # fmt: skip
            ends = serial_write, self._control_inside, self._accepted_inside
            bind = partial(self._bounds.join, self.spec.instance_id)
            start = plain_process.start if mode == "plain" else sandbox.start
            self._process = start(launch, spawner, bind, *ends)
            disk = Disk(self.spec.disk, self.spec.disk_gb << 30, self._process.pid, self._end_with)
            self._watch.add(self.spec.instance_id, disk)
        except OSError as error:
            os.close(serial_read)
            raise MachineError(f"cannot start {error.filename}: {error.strerror}") from error
        except BaseException:
            os.close(serial_read)
            raise
        finally:
            os.close(serial_write)
        # The pipe must close with the machine: no copy of its ends may stay open here.
        self._control_inside.close()
        self._accepted_inside.close()
        self._relay.copy(serial_read, self._on_serial)

    def _attach(self, spawner: Spawner) -> None:
        """Gives the machine its outbound network; without one it runs on and logs that."""
        assert self._process is not None
        log = self.spec.disk / "uplink.log"
        try:
            self._uplink = Uplink(spawner, self._process.pid, sandbox.machine_uid(), log)
            self._uplink.wait_ready()
        except OSError as error:
            if not self.ended.is_set():
                self.serial.write(f"vmctl emulator: no outbound network: {error}\n".encode())
        if self.ended.is_set() and self._uplink is not None:
            self._uplink.close()  # it ended while this was starting

    def _connect(self) -> None:
        """Gives the machine its internal network; without one it runs on and logs that."""
        if self._hub is None:
            return
        assert self._process is not None and self.spec.internal is not None
        try:
            self._hub.connect(self.spec.instance_id, self._process.pid, self.spec.internal)
        except MachineError as error:
            if not self.ended.is_set():
                self.serial.write(f"vmctl emulator: {error}\n".encode())

    def _on_serial(self, data: bytes) -> None:
        if data:
            self.serial.write(data)
        else:
            self._serial_ended.set()

    def _boot_order(
        self, seed: Path, mode: str, image: Path | None, overlay: bool
    ) -> dict[str, Any]:
        spec = self.spec
        own = plain_process.paths(spec.disk, seed, image) if mode == "plain" else {
            "root": "/",
            "seed": sandbox.GUEST,
            "local": "/usr/local",
            "image": sandbox.IMAGE if image is not None else None,
            "python": sandbox.IMAGE_TARGET if image is not None else None,
            "layer": sandbox.LAYER,
            "dns": find_resolver() or "",
            "owns_names": True,
        }  # fmt: skip
        return {
            "op": "boot",
            "metadata": self._backend.metadata(spec.instance_id),
            "spec": {
                "instance_id": spec.instance_id,
                "name": spec.name,
                "hostname": spec.hostname,
                "gpus": [describe_gpu(spec.gpu)] * spec.gpu_count if spec.gpu else [],
                "thin": not overlay,
                "slurm": spec.image == "slurm",
                "trouble": spec.trouble,
                "own_name": self._own_name(),
                **own,
            },
        }

    def _own_name(self) -> list[str]:
        """The line of /etc/hosts about the machine itself: its address, and its names."""
        spec = self.spec
        if self._hub is None or spec.internal is None:
            return ["127.0.1.1", spec.hostname, spec.name]
        return [spec.internal.address, spec.internal.full_name, spec.name]

    # -- running -------------------------------------------------------------------------------

    def admit(self, admits: bool) -> None:
        """Lets connections reach port 22, or drops them as a firewall does."""
        with self._admit_lock:
            if admits != self._admits and not self.ended.is_set():
                self._admits = admits
                if admits:
                    self._relay.connect(self.listener, self._accepted)
                else:
                    self._relay.silence(self.listener)

    def readdress(self, listener: Listener) -> Booted | None:
        """Listens there instead, and lets nobody in before `admit`; None if it has ended."""
        with self._admit_lock:
            if self.ended.is_set():
                listener.server.close()
                return None
            self._relay.disconnect(self.listener)
            self.listener = listener
            self._relay.silence(listener)
            self._admits = False
        return Booted(listener.nat_ip, listener.port)

    def enter(self, connection: socket.socket) -> bool:
        """Passes one connection to sshd past the firewall; False if the machine takes none."""
        try:
            socket.send_fds(self._accepted, [b"c"], [connection.fileno()], socket.MSG_DONTWAIT)
        except OSError:
            return False
        return True

    def send_order(self, op: str, **values: object) -> None:
        """Sends an order to the machine; does nothing if it has ended."""
        self._send({"op": op, **values})

    def _send(self, message: dict[str, object]) -> None:
        with self._sending:
            try:
                self._control.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                pass

    def _serve(self, order: dict[str, Any]) -> None:
        """Answers the machine until it hangs up, then removes what is left of it."""
        self._send(order)
        try:
            with self._control.makefile("rb") as lines:
                while (line := lines.readline(MESSAGE_BYTES)).endswith(b"\n"):
                    self._answer(json.loads(line))
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            pass  # it ended within a message or sent an invalid one: both end it below
        except Exception:
            logger.exception("machine %s", self.spec.name)
        self.kill()
        assert self._process is not None
        self._process.wait()
        self._serial_ended.wait(LAST_OUTPUT_S)
        self._release()
        self._alive.set()
        self._ready.set()
        # Off the list before `ended` is set, so that it can be booted again at once.
        is_news = self._on_end(self, self._reason)
        self.ended.set()
        if is_news:
            self._backend.exited(self.spec.instance_id, self._reason)

    def _answer(self, message: dict[str, Any]) -> None:
        op, identity = message["op"], self.spec.instance_id
        if op == "alive":
            self._alive.set()
        elif op == "ready":
            self._up = True
            self._ready.set()
        elif op == "failed":
            self._failure = str(message.get("error"))
            self._ready.set()
        elif op == "exiting":
            self._reason = str(message.get("reason"))
        elif op == "metadata":
            try:
                tree: object = self._backend.metadata(identity)
            except Exception:
                logger.exception("metadata of %s", self.spec.name)
                tree = None
            self._send({"re": message["id"], "result": tree})
        elif op == "put_guest_attribute":
            path, value = str(message["path"]), str(message["value"])
            stored = False
            if ATTRIBUTE.fullmatch(path) and len(value) <= ATTRIBUTE_BYTES:
                try:
                    stored = self._backend.put_guest_attribute(identity, path, value)
                except Exception:
                    logger.exception("guest attribute of %s", self.spec.name)
            self._send({"re": message["id"], "result": stored})

    def freeze(self) -> None:
        """Stops every process; MachineError if one does not stop."""
        self.admit(False)
        if self._process is not None and not self._frozen:
            try:
                self._frozen = process_tree.freeze(self._process.pid)
            except OSError as error:
                raise MachineError(f"{self.spec.name} cannot be suspended: {error}") from error

    def thaw(self) -> None:
        """Lets them run on."""
        process_tree.thaw(self._frozen)
        self._frozen = []

    # -- down ----------------------------------------------------------------------------------

    def press_power_button(self, grace_s: float) -> None:
        """ACPI: the machine runs its shutdown-script and ends; it is killed after grace_s."""
        started = time.monotonic()
        if self._frozen:
            grace_s = 0.0  # nothing in there could react
        self.send_order("power", grace_s=grace_s)
        if not self.ended.wait(max(grace_s - (time.monotonic() - started), 0)):
            self.kill()
            self.ended.wait()

    def _end_with(self, reason: str) -> None:
        """Cuts the power, and writes the reason to the serial port and the log."""
        self.serial.write(f"vmctl emulator: switched off: {reason}\n".encode())
        logger.warning("machine %s is switched off: %s", self.spec.name, reason)
        self.kill()

    def kill(self) -> None:
        """Cuts the power."""
        if self._process is not None and self._process.poll() is None:
            if self._plain:
                self.thaw()  # a stopped init would not obey
                plain_process.kill(self._process)
            else:
                self._process.kill()

    def _release(self) -> None:
        self._relay.disconnect(self.listener)
        self._forwards.detach(self.spec.instance_id)
        self._watch.remove(self.spec.instance_id)
        self.data_disks.close()
        self._bounds.leave(self.spec.instance_id)
        if self._hub is not None:
            self._hub.disconnect(self.spec.instance_id)
        if self._uplink is not None:
            self._uplink.close()
        for end in (self._control, self._control_inside, self._accepted, self._accepted_inside):
            end.close()


GPUS = {
    "nvidia-tesla-t4": ("Tesla T4", 15360),
    "nvidia-tesla-p4": ("Tesla P4", 7680),
    "nvidia-tesla-p100": ("Tesla P100-PCIE-16GB", 16384),
    "nvidia-tesla-v100": ("Tesla V100-SXM2-16GB", 16384),
    "nvidia-l4": ("NVIDIA L4", 23034),
    "nvidia-tesla-a100": ("NVIDIA A100-SXM4-40GB", 40960),
    "nvidia-a100-80gb": ("NVIDIA A100-SXM4-80GB", 81920),
    "nvidia-h100-80gb": ("NVIDIA H100 80GB HBM3", 81559),
    "nvidia-h100-mega-80gb": ("NVIDIA H100 80GB HBM3", 81559),
    "nvidia-h200-141gb": ("NVIDIA H200", 143771),
    "nvidia-b200": ("NVIDIA B200", 183359),
}


def describe_gpu(gpu: str) -> str:
    """Return `NAME;MEMORY_MIB`, as the driver shows an accelerator type."""
    name, memory = GPUS.get(gpu, (gpu, 0))
    return f"{name};{memory}"
