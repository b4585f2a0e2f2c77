"""The internal network: a bridge for each VPC network, and a cable from it to every machine.

The hub is a user namespace around those of all machines, with a network namespace for the bridges:
its owner may lay a cable into each machine, and needs no rights over this computer. A machine has
rights over neither its end of the cable nor the hub.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterable, Sequence

from ..interface import Internal, MachineError
from ..sandbox import find_program, machine_uid
from ..spawner import Spawner

NETWORKS = "10.128.0.0/9"  # the subnetworks of all regions
MTU = 65520  # of every part: a smaller one is slow, and packets between two sizes are lost
HOLD = "ip link set lo up && echo up && exec cat"  # ends with the emulator, which closes its input
CHANGE_S = 10.0


def find_obstacle() -> str | None:
    """Return why machines have no internal network on this computer; None if they have one."""
    return None if find_program("ip") else "ip (of iproute2) is not installed"


class Hub:
    """The bridges and cables of all machines; every method may be called from any thread."""

    def __init__(self, spawner: Spawner) -> None:
        """MachineError, with nothing left behind, if this computer refuses it."""
        self._changing = threading.Lock()
        self._bridges: dict[str, str] = {}  # by network
        self._cables: dict[str, tuple[str, str]] = {}  # by instance: the cable's name, the network
        self._count = 0
        read, self._input = os.pipe()
        try:
            self._process = spawner.start(
                ["unshare", "--user", "--map-root-user", "--net", "--mount", "--",
                 "/bin/sh", "-c", HOLD],
                uid=machine_uid(), stdin=read, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            )  # fmt: skip
        except OSError as error:
            os.close(self._input)
            raise MachineError(f"{error.filename or 'unshare'}: {error.strerror}") from error
        finally:
            os.close(read)
        assert self._process.stdout is not None
        said = self._process.stdout.readline()
        if said != b"up\n":
            self.close()
            raise MachineError(said.decode("utf-8", "replace").strip() or "no reason given")

    @property
    def pid(self) -> int:
        """The process whose namespaces the hub is."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether cables can still be laid; those that are there last as long as their machines."""
        return self._process.poll() is None

    def connect(self, instance_id: str, pid: int, internal: Internal) -> None:
        """Lay a cable to the machine whose outer process is pid; MachineError if refused."""
        with self._changing:
            lines = []
            bridge = self._bridges.get(internal.network)
            if bridge is None:
                bridge = f"net{len(self._bridges)}"
                lines += [f"link add {bridge} type bridge",
                          f"link set {bridge} addrgenmode none mtu {MTU} up"]  # fmt: skip
            self._count += 1
            cable = f"vm{self._count}"
            isolated = "off" if internal.is_open else "on"
            lines += [
                f"link add {cable} mtu {MTU} type veth peer name eth0 mtu {MTU} netns {pid}",
                f"link set {cable} addrgenmode none master {bridge}",
                f"link set {cable} type bridge_slave isolated {isolated}",
                f"link set {cable} up",
            ]
            _change(self.pid, lines)
            self._bridges[internal.network] = bridge
            self._cables[instance_id] = cable, internal.network
        # What the cable does not reach must not go out to the internet instead.
        _change(pid, [
            "link set eth0 addrgenmode none",
            f"addr add {internal.address}/32 dev eth0",
            "link set eth0 up",
            f"route add {NETWORKS} dev eth0 scope link src {internal.address}",
            f"route add prohibit {NETWORKS} metric 4096",
        ])  # fmt: skip

    def disconnect(self, instance_id: str) -> None:
        """Forget a machine that has ended: its cable ends with it."""
        with self._changing:
            self._cables.pop(instance_id, None)

    def open(self, network: str, is_open: bool) -> None:
        """Let a network's machines reach each other, or the internet only."""
        state = "off" if is_open else "on"
        with self._changing:
            cables = [cable for cable, joined in self._cables.values() if joined == network]
            _change(self.pid, (f"link set {c} type bridge_slave isolated {state}" for c in cables))

    def cut(self, instance_id: str, is_cut: bool) -> None:
        """Cut a machine's cable, or mend it; does nothing for a machine without one."""
        with self._changing:
            if (found := self._cables.get(instance_id)) is not None:
                _change(self.pid, [f"link set {found[0]} {'down' if is_cut else 'up'}"])

    def close(self) -> None:
        """End the hub, whose machines have ended; returns when its process has."""
        os.close(self._input)
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def _change(pid: int, lines: Iterable[str]) -> None:
    """Run commands of `ip` in the namespaces of a process; MachineError for the first refused."""
    enter: Sequence[str] = [
        "nsenter", f"--target={pid}", "--user", "--net", "--preserve-credentials", "--",
        "ip", "-batch", "-",
    ]  # fmt: skip
    uid = machine_uid()  # who owns these namespaces, and is root there
    try:
        done = subprocess.run(
            enter, input="\n".join(lines), capture_output=True, text=True, check=False,
            user=uid, group=uid, extra_groups=None if uid is None else [], timeout=CHANGE_S,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, cwd="/",
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MachineError(f"the internal network did not change: {error}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["ip failed"])[0]
        raise MachineError(f"the internal network did not change: {reason.strip()}")
