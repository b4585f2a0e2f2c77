"""A hostile machine: it reaches nothing of this computer but what was named for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.machines.host import Bench, children, needs_sandbox, opened
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from vmctl.emulator import machines
from vmctl.emulator.machines import bounds
from vmctl.emulator.machines.bounds import Bounds, count_written
from vmctl.emulator.machines.sandbox import list_own_networks

pytestmark = needs_sandbox

# Every address at which a process of this computer might be asked, from inside.
CONNECT = """
import json, socket, sys, threading
found = []

def ask(address, port, device):
    with socket.socket() as caller:
        caller.settimeout(1.5)
        try:
            if device:
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0\\0")
            caller.connect((address, port))
            caller.sendall(b"GET / HTTP/1.0\\r\\nHost: 127.0.0.1:%d\\r\\n\\r\\n" % port)
            found.append([address, port, caller.recv(99).decode()])
        except OSError:
            pass

threads = [
    threading.Thread(target=ask, args=(*target, device))
    for target in json.loads(sys.argv[1]) for device in (False, True)
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(json.dumps(sorted(found)))
"""
SEND = """
import json, socket, sys
for address, port in json.loads(sys.argv[1]):
    for kind in (0, 1):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
            try:
                if kind:
                    caller.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"tap0\\0")
                caller.sendto(b"hello", (address, port))
            except OSError:
                pass
"""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """One machine, "1"; the way out is there, where this computer allows one."""
    path = public_folder("escape")
    try:
        with opened(path) as made:
            made.host.bounds.memory = 400 << 20
            made.boot("1")
            yield made
    finally:
        machines.delete_disk(path)


class Service:
    """Greets whoever connects, and keeps what is sent to it without a connection."""

    def __init__(self, address: str) -> None:
        self._tcp = socket.create_server((address, 0))
        self.port: int = self._tcp.getsockname()[1]
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind((address, self.port))
        self._udp.setblocking(False)
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def heard(self) -> bytes:
        try:
            return self._udp.recv(99)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self._tcp.shutdown(socket.SHUT_RDWR)
        self._tcp.close()
        self._udp.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._tcp.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"hello from the laptop")


@pytest.fixture(scope="module")
def services() -> Iterator[list[Service]]:
    """One for this computer's own programs, one for everybody who reaches the computer."""
    made = [Service("127.0.0.1"), Service("0.0.0.0")]
    yield made
    for service in made:
        service.close()


def addresses() -> list[str]:
    """All of this computer's, and those that stand for it in a machine's network."""
    own = list_own_networks(Path("/proc/net/fib_trie").read_text())
    named = [network.partition("/")[0] for network in own if not network.startswith("127.")]
    stand = ["10.0.2.2", "10.0.2.3", "10.0.2.15", "10.213.98.2", "10.213.98.3", "169.254.169.254"]
    return ["127.0.0.1", "127.0.0.53", "0.0.0.0", "255.255.255.255", *stand, *named]


def targets(bench: Bench, services: list[Service]) -> str:
    own = bench.places["1"]
    every = [(address, s.port) for address in addresses() for s in services]
    return json.dumps([*every, (own.nat_ip, own.ssh_port)])


def run_inside(
    bench: Bench, code: str, *words: str, root: bool
) -> subprocess.CompletedProcess[str]:
    """Python in the machine: as its user, or with all that the machine's first process has."""
    if not root:
        quoted = " ".join(f"'{word}'" for word in words)
        return bench.try_ssh("1", f"cat > code.py; python3 code.py {quoted}", text=code)
    (outer,) = [m._process for m in bench.host._machines.values()]
    assert outer is not None
    (first,) = children()[outer.pid]
    enter = ["nsenter", f"--target={first}", "--user", "--mount", "--net", "--pid",
             "--", "/usr/bin/python3", "-I", "-c", code]  # fmt: skip
    return subprocess.run([*enter, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("root", [False, True], ids=["its user", "its root"])
def test_no_service_of_this_computer_answers_a_machine(
    bench: Bench, services: list[Service], root: bool
) -> None:
    told = run_inside(bench, CONNECT, targets(bench, services), root=root)
    assert json.loads(told.stdout) == [], told.stderr
    run_inside(bench, SEND, targets(bench, services), root=root)
    assert [service.heard() for service in services] == [b"", b""]


# What a root in there would need for a packet that slirp4netns carries to this computer's own
# 127.0.0.1: with one of these it would get there.
FORGE = """
import socket, subprocess
from pathlib import Path

def done(act):
    try:
        act()
    except OSError as error:
        return ""
    return "done"

def netlink(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)

def program(*words):
    def act():
        if subprocess.run(words, capture_output=True).returncode:
            raise OSError
    return act

print(
    done(lambda: Path("/proc/sys/net/ipv4/conf/all/route_localnet").write_text("1"))
    + done(lambda: Path("/proc/sys/net/ipv4/conf/tap0/route_localnet").write_text("1"))
    + done(program("ip", "route", "del", "prohibit", "127.0.0.0/8"))
    + done(program("ip", "route", "add", "127.0.0.8/32", "dev", "tap0"))
    + done(program("ip", "rule", "add", "from", "all", "lookup", "default"))
    + done(program("ip", "addr", "add", "10.9.9.9/32", "dev", "lo"))
    + done(program("ip", "link", "set", "tap0", "down"))
    + done(program("ip", "link", "add", "x", "type", "dummy"))
    + done(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    + done(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW))
    + done(lambda: open("/dev/net/tun", "rb+"))
    + "end"
)
"""


def test_its_root_has_no_power_over_its_network(bench: Bench) -> None:
    told = run_inside(bench, FORGE, root=True)
    assert told.stdout == "end\n", told.stderr


def test_nor_has_a_namespace_that_it_makes(bench: Bench) -> None:
    """A network of its own is nobody's way out, and the old one is not entered again."""
    code = "import os, ctypes; ctypes.CDLL(None).unshare(0x50000000); " + (
        "print(os.listdir('/sys/class/net') if os.path.isdir('/sys/class/net') else [])"
    )
    assert "tap0" not in run_inside(bench, code, root=True).stdout


def test_the_metadata_server_still_wants_its_header(bench: Bench) -> None:
    ask = "curl -s -o /dev/null -w %{http_code} http://metadata.google.internal/computeMetadata/v1/"
    assert bench.ssh("1", ask) == "403"
    assert bench.ssh("1", f"{ask} -H Metadata-Flavor:Google") == "200"


def test_a_port_that_is_named_is_the_only_one(bench: Bench, services: list[Service]) -> None:
    here = services[0]
    bench.host.forwards.add(here.port)
    try:
        told = run_inside(bench, CONNECT, targets(bench, services), root=True)
        assert json.loads(told.stdout) == [["10.0.2.2", here.port, "hello from the laptop"]]
    finally:
        bench.host.forwards.remove(here.port)
    assert json.loads(run_inside(bench, CONNECT, targets(bench, services), root=True).stdout) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes namespaces without asking")
def test_all_of_a_computers_addresses_are_found() -> None:
    """Two on one card, one on lo, and a network that is delivered here as a whole."""
    lines = "ip addr add 10.1.1.1/24 dev lo; ip addr add 10.1.1.2/24 dev lo; ip link set lo up; "
    lines += "ip addr add 10.3.3.3/32 dev lo; ip route add local 10.77.0.0/16 dev lo; "
    told = subprocess.run(
        ["unshare", "--net", "sh", "-c", lines + "cat /proc/net/fib_trie"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    wanted = {"127.0.0.0/8", "10.1.1.1/32", "10.1.1.2/32", "10.3.3.3/32", "10.77.0.0/16"}
    assert wanted <= set(list_own_networks(told))


# -- what a machine may take ---------------------------------------------------------------------

BOMB = """
import os, signal
made = []
try:
    while len(made) < 20000:
        pid = os.fork()
        if not pid:
            signal.pause()
        made.append(pid)
except OSError:
    pass
print(len(made))
for pid in made:
    os.kill(pid, signal.SIGKILL)
"""
HOG = """
kept = []
while True:
    kept.append(bytearray(b"x") * (16 << 20))
"""
needs_groups = pytest.mark.skipif(
    os.geteuid() != 0, reason="control groups are made by root in these tests"
)


@pytest.fixture
def tight(bench: Bench) -> Iterator[Bench]:
    """The machine with a bound of processes that is reached quickly."""
    groups = bench.host.bounds._of("1")
    assert len(groups) == 2, bench.host.bounds.note
    for group in groups:
        if "pids.max" in group.limits:
            type(group)(group.folder, "pids", {"pids.max": 300}).make()
    yield bench
    for group in groups:
        group.make()


@needs_groups
def test_a_fork_bomb_ends_in_its_machine(tight: Bench) -> None:
    made = int(run_inside(tight, BOMB, root=False).stdout)
    assert 100 < made < 300
    assert tight.ssh("1", "echo lives") == "lives"


@needs_groups
def test_who_takes_all_memory_ends_in_its_machine(tight: Bench) -> None:
    told = run_inside(tight, HOG, root=False)
    assert told.returncode != 0
    assert tight.ssh("1", "head -c 100M /dev/zero | tail -c 1 | wc -c") == "1"


@needs_groups
def test_its_tmpfs_counts_as_its_memory(tight: Bench) -> None:
    told = tight.try_ssh("1", "head -c 1G /dev/zero > /tmp/big; rm -f /tmp/big")
    assert "No space left" in told.stderr
    group = next(g for g in tight.host.bounds._of("1") if "memory.max" in g.limits)
    peaks = [group.folder / name for name in ("memory.peak", "memory.max_usage_in_bytes")]
    assert [int(f.read_text()) <= 401 << 20 for f in peaks if f.exists()] == [True]
    assert tight.ssh("1", "echo lives") == "lives"


def test_who_fills_its_disk_is_switched_off_and_keeps_it(monkeypatch: pytest.MonkeyPatch) -> None:
    path = public_folder("full")
    try:
        with opened(path) as bench:
            bench.boot("1", disk_gb=1)
            watch = bench.host._watch
            watch.check()  # what is on it at first
            watch._disks["1"].most = 64 << 20
            bench.ssh("1", "head -c 100M /dev/zero > ~/data")
            watch._known += 1 << 30  # as much as a second of a quick disk
            watch.check()
            eventually(lambda: bench.answers.exits == [("1", "crash")], "it is off")
            assert "its disk is full: 0.1 GiB are on it" in bench.serial("1")
            bench.answers.exits.clear()
            bench.host.bounds._all.clear()  # as on a computer without control groups
            bench.boot("1", disk_gb=1)
            assert int(bench.ssh("1", "bash -c 'ulimit -u'")) <= bounds.PROCESSES_OF_USER
            watch.check()
            assert bench.ssh("1", "stat -c %s ~/data; rm ~/data") == str(100 << 20)
            # this computer's own disk, by a file that has no name any more
            code = "import os; f = open('x', 'wb'); os.unlink('x'); f.write(bytes(200 << 20))"
            bench.ssh("1", f'python3 -c "{code}"')
            monkeypatch.setattr(bounds, "RESERVE", 1 << 60)
            eventually(lambda: watch.check() or bench.answers.exits, "it is off")
            assert "this computer's disk is full" in bench.serial("1")
    finally:
        machines.delete_disk(path)


def test_what_is_written_to_a_file_without_a_name_is_known(bench: Bench) -> None:
    (machine,) = bench.host._machines.values()
    assert machine._process is not None
    pid = machine._process.pid
    before = count_written(pid)
    code = "import os; f = open('x', 'wb'); os.unlink('x'); f.write(bytes(50 << 20)); f.flush(); "
    bench.ssh("1", f'python3 -c "{code}"')
    eventually(lambda: count_written(pid) - before >= 50 << 20, "its process has ended")


def test_what_is_bounded_is_said(bench: Bench) -> None:
    note = bench.host.bounds.note
    assert "4096 processes" in note or "not bounded" in note or "all together" in note


def test_without_control_groups_the_kernels_limits_remain_and_the_rest_is_said(
    tmp_path: Path,
) -> None:
    made = Bounds(tmp_path)
    made.close()
    made._all.clear()
    assert "their memory is not bounded" in made.note
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            limits = made.join("1", process.pid).split()
            shown = subprocess.run([*limits, "bash", "-c", "ulimit -u"], capture_output=True)
            assert int(shown.stdout) <= bounds.PROCESSES_OF_USER
            assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "500\n"
        finally:
            process.kill()
