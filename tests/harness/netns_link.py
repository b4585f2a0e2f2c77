"""The process that is a link: two network namespaces, and every packet between them in its hands.

Started by link.py with one end of a socket pair, over which it is asked in JSON lines; it ends when
the other end is closed. Run by the bare interpreter: nothing of the environment's packages.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CLOUD_NETWORK = "10.77.0.0/16"
CLOUD_ADDRESS = "10.77.0.1"
LAPTOP_NETWORK = "10.78.0.0/16"
LAPTOP_ADDRESSES = [f"10.78.0.{last}" for last in range(2, 250)]
MTU = 1500
QUEUE_S = 0.2  # what each side's queue holds before it drops
SLOT_S = 0.0002  # packets due within it are carried together: fewer wake-ups
CLONE_NEWNET = 0x40000000
TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
PR_SET_PDEATHSIG, PR_SET_TIMERSLACK = 1, 29

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _new_namespace() -> int:
    """Put this thread into a new network namespace; a descriptor that keeps it."""
    _checked(_libc.unshare(CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter(namespace: int) -> None:
    """Put this thread into a network namespace."""
    _checked(_libc.setns(namespace, CLONE_NEWNET))


def _payload(packet: bytes) -> int:
    """Bytes of TCP payload in an IPv4 packet; 0 for anything else."""
    if packet[9] != 6:
        return 0
    header = (packet[0] & 15) * 4
    return len(packet) - header - ((packet[header + 12] >> 4) << 2)


@dataclass
class Direction:
    """One direction: what it does to packets, and what it has carried."""

    delay_s: float = 0.0
    rate: float | None = None  # bytes a second
    cut: bool = False
    packets: int = 0
    ip_bytes: int = 0  # of IP packets delivered
    payload: int = 0  # of TCP payload delivered
    dropped: int = 0  # packets: a full queue, or a cut
    turns: int = 0  # times that data passed this way and then back, seen from the laptop
    free_at: float = 0.0
    is_asking: bool | None = None  # data passed up since it passed down; None: downward
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, packet: bytes, now: float) -> None:
        """Queue a packet until it is due, or drop it."""
        if self.is_asking is not None and _payload(packet):
            self.is_asking = True
        if self.cut:
            self.dropped += 1
            return
        due = now
        if self.rate is not None:
            start = self.free_at if self.free_at > now else now
            if start - now > QUEUE_S:
                self.dropped += 1
                return
            due = self.free_at = start + len(packet) / self.rate
        self.queue.append((due + self.delay_s, packet))

    def release(self, until: float, device: int, asking: Direction | None = None) -> None:
        """Deliver what is due; `asking` is the opposite direction, which this one answers."""
        queue = self.queue
        write = os.write
        while queue and queue[0][0] <= until:
            packet = queue.popleft()[1]
            if self.cut:
                self.dropped += 1
                continue
            self.packets += 1
            self.ip_bytes += len(packet)
            payload = _payload(packet)
            self.payload += payload
            if payload and asking is not None and asking.is_asking:
                asking.is_asking = False
                asking.turns += 1
            with contextlib.suppress(OSError):  # the far side has no such route now
                write(device, packet)


def _tun(name: str) -> int:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN_NO_PI))
    return device


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, stdin=subprocess.DEVNULL)


def _device(address: str, network: str) -> int:
    """A TUN device in this thread's namespace; `network` lies behind it."""
    _ip("link", "set", "lo", "up")
    device = _tun("link0")
    _ip("addr", "add", f"{address}/32", "dev", "link0")
    _ip("link", "set", "link0", "mtu", str(MTU), "txqueuelen", "2000", "up")
    _ip("route", "add", network, "dev", "link0")
    # a transfer must not profit from what an earlier one learned of the path
    Path("/proc/sys/net/ipv4/tcp_no_metrics_save").write_text("1")
    return device


class Carrier:
    """Both namespaces, both devices, and the loop between them."""

    def __init__(self) -> None:
        self.laptop = _new_namespace()
        self.address = LAPTOP_ADDRESSES[0]
        self.laptop_device = _device(self.address, CLOUD_NETWORK)
        self.cloud = _new_namespace()
        self.cloud_device = _device(CLOUD_ADDRESS, LAPTOP_NETWORK)
        # every address of the network is this namespace's own, as 127.0.0.0/8 is everywhere
        _ip("route", "add", "local", CLOUD_NETWORK, "dev", "lo")
        _enter(self.laptop)
        self.up, self.down = Direction(is_asking=False), Direction()
        self.cut_after: int | None = None  # TCP payload delivered both ways

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request says, and tell the counters."""
        directions = {"up": (self.up,), "down": (self.down,), "both": (self.up, self.down)}[
            request.get("direction", "both")
        ]
        for direction in directions:
            if "rtt_ms" in request:
                direction.delay_s = request["rtt_ms"] / 2000
            if "rate_mbit" in request:
                rate = request["rate_mbit"]
                direction.rate = None if rate is None else rate * 125_000
                direction.free_at = 0.0
            if "cut" in request:
                direction.cut = request["cut"]
                self.cut_after = None
        if "cut_after_bytes" in request:
            self.cut_after = self.up.payload + self.down.payload + request["cut_after_bytes"]
        if request.get("move"):
            self._move()
        if "relay" in request:
            self._relay(request["relay"])
        counts = {
            name: {"packets": w.packets, "ip_bytes": w.ip_bytes, "payload": w.payload,
                   "dropped": w.dropped, "turns": w.turns, "cut": w.cut}
            for name, w in (("up", self.up), ("down", self.down))
        }  # fmt: skip
        return {**counts, "address": self.address, "pid": os.getpid(),
                "laptop": self.laptop, "cloud": self.cloud}  # fmt: skip

    def _move(self) -> None:
        index = LAPTOP_ADDRESSES.index(self.address) + 1
        old, self.address = self.address, LAPTOP_ADDRESSES[index % len(LAPTOP_ADDRESSES)]
        _ip("addr", "add", f"{self.address}/32", "dev", "link0")
        _ip("addr", "del", f"{old}/32", "dev", "link0")

    def _relay(self, port: int) -> None:
        """A process that carries 127.0.0.1:port of `laptop` to the same port of `cloud`."""
        child = os.fork()
        if child == 0:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            try:
                relay(port, self.laptop, self.cloud)
            finally:
                os._exit(1)

    def carry(self, control: socket.socket) -> None:
        """Carry packets until the other end of `control` is closed."""
        laptop, cloud, up, down = self.laptop_device, self.cloud_device, self.up, self.down
        listening: list[int | socket.socket] = [laptop, cloud, control]
        monotonic, wait, read = time.monotonic, select.select, os.read
        lines = control.makefile("rwb", buffering=0)
        gc.disable()
        _libc.prctl(PR_SET_TIMERSLACK, 1000)
        while True:
            until = monotonic() + SLOT_S / 2
            up.release(until, cloud)
            down.release(until, laptop, up)
            if self.cut_after is not None and up.payload + down.payload >= self.cut_after:
                up.cut = down.cut = True
                self.cut_after = None
            timeout = 3600.0
            if up.queue:
                timeout = up.queue[0][0] - monotonic()
            if down.queue:
                timeout = min(timeout, down.queue[0][0] - monotonic())
            ready, _, _ = wait(listening, [], [], timeout if timeout > SLOT_S else SLOT_S)
            now = monotonic()
            for source in ready:
                if not isinstance(source, int):
                    line = lines.readline()
                    if not line:
                        return
                    answer = self.answer(json.loads(line))
                    lines.write(json.dumps(answer).encode() + b"\n")
                    continue
                direction = up if source == laptop else down
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        packet = read(source, 2048)
                        if packet[0] >> 4 == 4:  # the kernel's own IPv6 chatter stays here
                            direction.take(packet, now)


def relay(port: int, inside: int, outside: int) -> None:
    """Accept at 127.0.0.1:port in one namespace and connect to it in another, for ever."""
    _enter(inside)
    server = socket.create_server(("127.0.0.1", port), backlog=256)

    def pump(accepted: socket.socket) -> None:
        _enter(outside)
        with accepted:
            try:
                far = socket.create_connection(("127.0.0.1", port))
            except OSError:
                return
            with far:
                for one in (accepted, far):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                other = {accepted: far, far: accepted}
                open_ends = [accepted, far]
                with contextlib.suppress(OSError):
                    while open_ends:
                        for end in select.select(open_ends, [], [])[0]:
                            data = end.recv(65536)
                            if data:
                                other[end].sendall(data)
                            else:
                                open_ends.remove(end)
                                other[end].shutdown(socket.SHUT_WR)

    while True:
        accepted, _ = server.accept()
        threading.Thread(target=pump, args=(accepted,), daemon=True).start()


def main(descriptor: int) -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    with socket.socket(fileno=descriptor) as control:
        try:
            carrier = Carrier()
        except (OSError, subprocess.CalledProcessError) as error:
            control.sendall(json.dumps({"error": str(error)}).encode() + b"\n")
            return
        control.sendall(json.dumps(carrier.answer({})).encode() + b"\n")
        carrier.carry(control)


if __name__ == "__main__":
    main(int(sys.argv[1]))
