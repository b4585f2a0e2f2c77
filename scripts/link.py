"""A network link of its own, delayed, rate-limited, cuttable: for tests and the bench. Root only.

Two network namespaces, `laptop` and `cloud`, each with a TUN device; one process carries every IP
packet from one to the other, late, at a rate, or not at all. TCP sees a real path: slow start,
full queues, and silence when the link is cut (no RST, no ICMP). An embedded Compute Engine runs in
`cloud` and gives its machines addresses on the link; its API is at the same 127.0.0.1:PORT in
`laptop`, carried past the link, neither delayed nor cut.

In a test (fixtures in tests/e2e/conftest.py; the link is reset before each test):

    def test_it(linked: Linked) -> None:            # 30 ms there and back, 100 Mbit/s
        linked.laptop("push", cwd=linked.folder)    # a machine (no torch) is up in linked.folder
        linked.link.set(rtt_ms=80, rate_mbit=None)  # from now on
        linked.link.set(cut=True)                   # silence both ways; cut=False heals
        linked.link.set(cut_after_bytes=10_000_000) # cuts itself after so many TCP payload bytes
        linked.link.move()                          # the laptop gets another address
        before = linked.link.counters()             # .up.payload: TCP payload bytes delivered

In a script, or by hand:

    with Link.opened(rtt_ms=30, rate_mbit=100) as link:
        link.serve_emulator(home, environ)               # VMCTL_EMULATOR_HOME=home for the client
        subprocess.run([*link.laptop, "vmctl", "up"])    # link.cloud: a command on the other side

    scripts/link.py --rtt-ms 80 --rate-mbit 100 [--home DIR] [COMMAND...]   # a shell in `laptop`
"""

from __future__ import annotations

import argparse
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
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
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


# -- the carrier: a process of its own ----------------------------------------------------------


@dataclass
class Way:
    """One direction: what it does to packets, and what it has carried."""

    delay_s: float = 0.0
    rate: float | None = None  # bytes a second
    cut: bool = False
    packets: int = 0
    ip_bytes: int = 0  # of IP packets delivered
    payload: int = 0  # of TCP payload delivered
    dropped: int = 0  # packets: a full queue, or a cut
    free_at: float = 0.0
    queue: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self, packet: bytes, now: float) -> None:
        """Queue a packet until it is due, or drop it."""
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

    def release(self, until: float, device: int) -> None:
        """Deliver what is due."""
        queue = self.queue
        write = os.write
        while queue and queue[0][0] <= until:
            packet = queue.popleft()[1]
            if self.cut:
                self.dropped += 1
                continue
            self.packets += 1
            self.ip_bytes += len(packet)
            if packet[9] == 6:
                header = (packet[0] & 15) * 4
                self.payload += len(packet) - header - ((packet[header + 12] >> 4) << 2)
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
        self.up, self.down = Way(), Way()
        self.cut_after: int | None = None  # TCP payload delivered both ways

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Do what a request says, and tell the counters."""
        ways = {"up": (self.up,), "down": (self.down,), "both": (self.up, self.down)}[
            request.get("way", "both")
        ]
        for way in ways:
            if "rtt_ms" in request:
                way.delay_s = request["rtt_ms"] / 2000
            if "rate_mbit" in request:
                rate = request["rate_mbit"]
                way.rate = None if rate is None else rate * 125_000
                way.free_at = 0.0
            if "cut" in request:
                way.cut = request["cut"]
                self.cut_after = None
        if "cut_after_bytes" in request:
            self.cut_after = self.up.payload + self.down.payload + request["cut_after_bytes"]
        if request.get("move"):
            self._move()
        if "relay" in request:
            self._relay(request["relay"])
        told = {
            name: {"packets": w.packets, "ip_bytes": w.ip_bytes, "payload": w.payload,
                   "dropped": w.dropped, "cut": w.cut}
            for name, w in (("up", self.up), ("down", self.down))
        }  # fmt: skip
        return {**told, "address": self.address, "pid": os.getpid(),
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
            down.release(until, laptop)
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
                way = up if source == laptop else down
                with contextlib.suppress(BlockingIOError):
                    for _ in range(64):
                        packet = read(source, 2048)
                        if packet[0] >> 4 == 4:  # the kernel's own IPv6 chatter stays here
                            way.take(packet, now)


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


def _carry_main(descriptor: int) -> None:
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


# -- the side of those who use it -----------------------------------------------------------------


class LinkError(Exception):
    """The link cannot be made or does not answer; the text says why."""


@dataclass(frozen=True, slots=True)
class Count:
    """What one direction has delivered and dropped so far."""

    packets: int
    ip_bytes: int
    payload: int
    dropped: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Counters:
    """Both directions: `up` is from the laptop to the cloud."""

    up: Count
    down: Count

    @property
    def payload(self) -> int:
        """TCP payload bytes delivered both ways."""
        return self.up.payload + self.down.payload


def refusal() -> str | None:
    """Why this user cannot have a link here; None when they can."""
    if os.geteuid() != 0:
        return "the link needs root, for network namespaces and TUN devices"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun here"
    return None


class Link:
    """A link that lives as long as this object and this process."""

    def __init__(self, *, rtt_ms: float = 0, rate_mbit: float | None = None) -> None:
        if (reason := refusal()) is not None:
            raise LinkError(reason)
        self._control, far = socket.socketpair()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, "--carry", str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._lines = self._control.makefile("rwb", buffering=0)
        self._lock = threading.Lock()
        self._emulators: list[subprocess.Popen[bytes]] = []
        self._relayed: set[int] = set()
        first = self._read()
        pid = self._process.pid
        self.laptop = ["nsenter", f"--net=/proc/{pid}/fd/{first['laptop']}", "--"]
        self.cloud = ["nsenter", f"--net=/proc/{pid}/fd/{first['cloud']}", "--"]
        self.set(rtt_ms=rtt_ms, rate_mbit=rate_mbit)

    @classmethod
    @contextlib.contextmanager
    def opened(cls, *, rtt_ms: float = 0, rate_mbit: float | None = None) -> Iterator[Link]:
        """A link that is gone, with its emulators, when the block ends."""
        link = cls(rtt_ms=rtt_ms, rate_mbit=rate_mbit)
        try:
            yield link
        finally:
            link.close()

    def set(self, **changes: Any) -> Counters:
        """Change rtt_ms, rate_mbit (None: no limit), cut or cut_after_bytes, from now on.

        way="up" or way="down" changes one direction; rtt_ms gives it half of the time then."""
        return self._counters(self._ask(changes))

    def counters(self) -> Counters:
        """What passed so far."""
        return self.set()

    def move(self) -> str:
        """Give the laptop another address, as another Wi-Fi does; the new one."""
        return str(self._ask({"move": True})["address"])

    def reset(self, *, rtt_ms: float = 30, rate_mbit: float | None = 100) -> None:
        """Heal the link and give it this delay and rate, both ways."""
        self.set(cut=False, rtt_ms=rtt_ms, rate_mbit=rate_mbit)

    def serve_emulator(self, home: Path, environ: Mapping[str, str], *, limit_s: float = 60) -> int:
        """Start an embedded Compute Engine in `cloud`, its API in reach of `laptop`; its port.

        Its home, for the client, is VMCTL_EMULATOR_HOME=home. Started again, it has its machines'
        disks again."""
        home.mkdir(parents=True, exist_ok=True)
        with (home / "emulator.log").open("ab") as log:
            process = subprocess.Popen(
                [*self.cloud, "setpriv", "--pdeathsig", "TERM", "--",
                 sys.executable, "-m", "vmctl.emulator", "serve", "--home", str(home)],
                env={**environ, "VMCTL_EMULATOR_NETWORK": CLOUD_NETWORK},
                cwd=home,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )  # fmt: skip
        self._emulators.append(process)
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError, ValueError):
                record = json.loads((home / "emulator.json").read_text())
                if record["pid"] == process.pid:
                    port = int(record["port"])
                    if port not in self._relayed:
                        self._ask({"relay": port})
                        self._relayed.add(port)
                    self._wait_for(port, deadline)
                    return port
            time.sleep(0.03)
        raise LinkError(f"the embedded Compute Engine did not start; its log: {home}/emulator.log")

    def close(self) -> None:
        """End the emulators and the link."""
        for process in self._emulators:
            if process.poll() is None:
                process.terminate()
        for process in self._emulators:
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._lines.close()
        self._control.close()
        self._process.wait(timeout=10)

    def _wait_for(self, port: int, deadline: float) -> None:
        probe = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
        while subprocess.run(
            [*self.laptop, sys.executable, "-I", "-S", "-c", probe],
            stderr=subprocess.DEVNULL, check=False,
        ).returncode:  # fmt: skip
            if time.monotonic() > deadline:
                raise LinkError(f"the relay of port {port} did not start")

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self._lock:
            self._lines.write(json.dumps(request).encode() + b"\n")
            return self._read()

    def _read(self) -> dict[str, Any]:
        line = self._lines.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended"}
        if "error" in answer:
            raise LinkError(f"the link: {answer['error']}")
        return answer

    @staticmethod
    def _counters(answer: Mapping[str, Any]) -> Counters:
        return Counters(Count(**answer["up"]), Count(**answer["down"]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Run a command, or a shell, at one end of a delayed link with an embedded "
        "Compute Engine at the other."
    )
    parser.add_argument("--rtt-ms", type=float, default=30)
    parser.add_argument("--rate-mbit", type=float, default=100)
    parser.add_argument("--home", type=Path, help="the emulator's home; default: a new one")
    parser.add_argument("command", nargs="*")
    wanted = parser.parse_args()
    with contextlib.ExitStack() as stack:
        home = wanted.home
        if home is None:
            base = Path(stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp")))
            base.chmod(0o755)
            home = base / "emulator"
        try:
            link = stack.enter_context(
                Link.opened(rtt_ms=wanted.rtt_ms, rate_mbit=wanted.rate_mbit or None)
            )
            link.serve_emulator(home, os.environ)
        except LinkError as error:
            raise SystemExit(f"scripts/link.py: {error}.") from error
        environ = {**os.environ, "VMCTL_LOCAL": "1", "VMCTL_EMULATOR_HOME": str(home)}
        command = wanted.command or [os.environ.get("SHELL", "/bin/sh")]
        code = subprocess.run([*link.laptop, *command], env=environ, check=False).returncode
        print(json.dumps(asdict(link.counters())), file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--carry"]:
        _carry_main(int(sys.argv[2]))
    else:
        main()
