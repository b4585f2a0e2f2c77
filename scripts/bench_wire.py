"""Times what crosses the link, ours and the peers' in turn on the same machine, in one run.

Every figure is a whole process: interpreter, imports, and all. `imports` is measured in the
same turns: the same process importing the same modules and ending. `round trips` is the slope
between 30 and 80 ms. Peers get a warm ControlMaster of their own, unless they are called cold.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trees
from link import CLOUD_ADDRESS, Link, LinkError

VMCTL = str(Path(sys.executable).with_name("vmctl"))
IMPORTS = "our imports alone"
TOML = """\
[vm]
image = "debian-12"
[services.bench]
port = 8000
command = "python3 ~/pages.py 127.0.0.1 {port}"
"""
ALIVE = ["ServerAliveInterval 5", "ServerAliveCountMax 3", "ConnectTimeout 5", "BatchMode yes"]
# What the program has imported when it ends, however it ends.
MODULES = """
import json, os, sys
out, name = sys.argv[1:3]
def tell():
    with open(out, "w") as file:
        json.dump([n for n in sys.modules if n != "__main__"], file)
def told(function):
    def wrapper(*words, **options):
        tell()
        return function(*words, **options)
    return wrapper
for function in ("_exit", "execv", "execve", "execvp", "execvpe"):
    setattr(os, function, told(getattr(os, function)))
sys.argv = ["vmctl", *sys.argv[2:]]
try:
    from vmctl.__main__ import run
    run()
finally:
    tell()
"""
IMPORT = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""
RAW_SERVER = """
import socket
server = socket.create_server(("{address}", 5001))
print("ready", flush=True)
data = b"x" * 65536
while True:
    link, _ = server.accept()
    with link:
        left = int.from_bytes(link.recv(8), "big")
        while left:
            left -= link.send(data[:min(left, 65536)])
"""
RAW_CLIENT = """
import socket, sys
size = int(sys.argv[1])
link = socket.create_connection(("{address}", 5001))
link.send(size.to_bytes(8, "big"))
buffer, got = bytearray(1 << 20), 0
while got < size:
    got += link.recv_into(buffer) or sys.exit(1)
"""


class Bench:
    """A link, an emulator behind it, machines with a project each, and what was measured."""

    def __init__(self, link: Link, base: Path, runs: int) -> None:
        self.link, self.base, self.runs = link, base, runs
        self.failed: list[str] = []
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("VMCTL_")},
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(base / "home"),
            "VMCTL_EMULATOR_HOME": str(base / "emulator"),
            "VMCTL_OWNER": "bench",
            "XDG_RUNTIME_DIR": "",
        }
        link.serve_emulator(base / "emulator", self.environ)

    def run(
        self, argv: Sequence[str], *, cwd: Path, check: bool = True, timeout_s: float = 900
    ) -> float:
        """Seconds that a command takes at the laptop's end; a failure stops the row."""
        began = time.perf_counter()
        done = subprocess.run(
            [*self.link.laptop, *argv], cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False, timeout=timeout_s,
        )  # fmt: skip
        took = time.perf_counter() - began
        if check and done.returncode:
            raise RowError(f"{' '.join(argv)[:200]} ended with {done.returncode}: {done.stderr}")
        return took

    def text(self, argv: Sequence[str], *, cwd: Path) -> str:
        """What a command prints."""
        return subprocess.run(
            [*self.link.laptop, *argv], cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def imports_of(self, machine: Machine, *words: str) -> Callable[[], float]:
        """A contestant: importing what `vmctl WORDS` has imported when it ends, and ending."""
        listed = self.base / f"modules-{words[0]}.json"
        machine.warm_up()
        self.run([sys.executable, "-c", MODULES, str(listed), *words], cwd=machine.folder)
        argv = [sys.executable, "-c", IMPORT, str(listed)]
        return lambda: self.run(argv, cwd=machine.folder)


class RowError(Exception):
    """A row could not be measured; the text says why."""


@dataclass
class Machine:
    """One VM: vmctl's project, and a peer's ssh to the same VM and folder tree."""

    bench: Bench
    name: str
    folder: Path = field(init=False)
    host: str = field(init=False)
    warm: str = field(init=False)
    cold: str = field(init=False)

    def __post_init__(self) -> None:
        bench = self.bench
        self.folder = bench.base / self.name
        self.folder.mkdir()
        (self.folder / "vmctl.toml").write_text(TOML)
        bench.run([VMCTL, "up", "--gpu", "t4", "--yes"], cwd=self.folder)
        about = json.loads(bench.text([VMCTL, "status", "--json"], cwd=self.folder))["machine"]
        user = bench.text([VMCTL, "exec", "--", "id", "-un"], cwd=self.folder).strip()
        self.host = str(about["address"])
        known = bench.base / f"{self.name}.known_hosts"
        scan = ["ssh-keyscan", "-t", "ed25519", "-p", str(about["ssh_port"]), self.host]
        known.write_text(bench.text(scan, cwd=self.folder))
        options = [
            f"Port {about['ssh_port']}", f"User {user}", "IdentitiesOnly yes", "IdentityAgent none",
            f"IdentityFile {bench.base}/home/data/id_ed25519", f"UserKnownHostsFile {known}",
            "GlobalKnownHostsFile /dev/null", "LogLevel ERROR", *ALIVE,
        ]  # fmt: skip
        self.cold, self.warm = (str(bench.base / f"{self.name}.{kind}") for kind in ("cold", "mux"))
        Path(self.cold).write_text("\n".join(["Host *", *options, ""]))
        socket = f"{bench.base}/{self.name}.s"
        Path(self.warm).write_text(
            "\n".join(["Host *", *options, "ControlMaster auto", f"ControlPath {socket}",
                       "ControlPersist 3600", ""])
        )  # fmt: skip

    def warm_up(self) -> None:
        """Both connections are there and have been used."""
        self.vmctl("exec", "true")
        self.ssh("true")

    def vmctl(self, *words: str) -> float:
        return self.bench.run([VMCTL, *words], cwd=self.folder)

    def ssh(self, command: str, *, warm: bool = True) -> float:
        """`ssh VM COMMAND`."""
        config = self.warm if warm else self.cold
        return self.bench.run(["ssh", "-n", "-F", config, self.host, command], cwd=self.folder)

    def rsync(self, source: str, target: str, *options: str, warm: bool = True) -> float:
        """rsync with a master of its own, or without; ":" stands for the VM."""
        config = self.warm if warm else self.cold
        ends = [end.replace(":", f"{self.host}:", 1) for end in (source, target)]
        argv = ["rsync", *options, "-e", f"ssh -F {config}", *ends]
        return self.bench.run(argv, cwd=self.folder)

    def shell(self, command: str) -> float:
        """A pipeline; $CONFIG and $VM stand for the warm connection."""
        words = f"set -o pipefail; CONFIG={self.warm} VM={self.host}; {command}"
        return self.bench.run(["bash", "-c", words], cwd=self.folder)


# -- measuring and showing ------------------------------------------------------------------------


@dataclass
class Times:
    """Milliseconds of one contestant."""

    values: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def __str__(self) -> str:
        return (
            f"{self.median:9.0f} ms  ({min(self.values):.0f}–{max(self.values):.0f}, "
            f"n={len(self.values)})"
        )


Contestants = Mapping[str, Callable[[], float]]


def in_turn(
    contestants: Contestants,
    runs: int,
    *,
    before: Callable[[str, int], object] = lambda name, turn: None,
    warm_up: bool = True,
) -> dict[str, Times]:
    """A B A B …: seconds become milliseconds; the first turn only warms caches up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(-1 if warm_up else 0, runs):
        for name, contestant in contestants.items():
            before(name, turn)
            took = contestant()
            if turn >= 0:
                times[name].append(1000 * took)
    return {name: Times(values) for name, values in times.items()}


def title(text: str) -> None:
    print(f"\n{text}   [load {os.getloadavg()[0]:.1f}]", flush=True)


def show(times: Mapping[str, Times], ours: str) -> None:
    """Each contestant, and ours as a ratio of it."""
    mine = times[ours].median
    for name, value in times.items():
        ratio = "" if name == ours else f"   ours = {mine / value.median:6.3f} x"
        print(f"  {name:<34}{value}{ratio}", flush=True)


def verdict(bench: Bench, what: str, value: float, reach: float, unit: str = "") -> None:
    """Say whether a reach is met; remember what is not."""
    met = value <= reach
    line = f"{what}: {value:.3g}{unit}, reach {reach:.3g}{unit}"
    print(f"  {'yes' if met else 'NO '}  {line}", flush=True)
    if not met:
        bench.failed.append(line)


def at_least(bench: Bench, what: str, value: float, reach: float, unit: str = "") -> None:
    """As `verdict`, where more is better."""
    met = value >= reach
    line = f"{what}: {value:.3g}{unit}, reach at least {reach:.3g}{unit}"
    print(f"  {'yes' if met else 'NO '}  {line}", flush=True)
    if not met:
        bench.failed.append(line)


def _ratio(bench: Bench, what: str, times: Mapping[str, Times], peer: str, reach: float) -> None:
    """Ours, the first, as a ratio of a peer: the whole process, and without its imports."""
    ours, theirs = next(iter(times.values())).median, times[peer].median
    verdict(bench, f"{what}: x {peer}, whole process", ours / theirs, reach)
    in_process = ours - times[IMPORTS].median
    verdict(bench, f"{what}: x {peer}, imports taken out", in_process / theirs, reach)


def slope(at_30: Times, at_80: Times) -> float:
    """Round trips: what 50 ms more of delay cost."""
    return (at_80.median - at_30.median) / 50


# -- the rows ---------------------------------------------------------------------------------


TREES: dict[str, Callable[[Path], int]] = {
    "a": trees.small,
    "b": trees.many,
    "tenth": lambda folder: trees.many(folder, share=0.1),
    "c": trees.large,
}


class Trees:
    """The machines with trees a, b and c, made when first asked for."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._made: dict[str, Machine] = {}

    def __getitem__(self, name: str) -> Machine:
        if name not in self._made:
            self._bench.link.reset(rtt_ms=0, rate_mbit=None)
            machine = Machine(self._bench, name)
            size = TREES[name](machine.folder) if name in TREES else 0
            count = sum(path.is_file() for path in machine.folder.rglob("*"))
            if size:
                packed = trees.gzip_size(machine.folder) / 1e6
                print(f"  tree {name}: {count} files, {size / 1e6:.2f} MB, gzip -1 {packed:.2f} MB")
            self._made[name] = machine
        return self._made[name]


def row_exec(bench: Bench, machines: Trees) -> None:
    machine = machines["a"]
    imports = bench.imports_of(machine, "exec", "true")
    seen = {}
    for rtt_ms in (30, 80):
        bench.link.reset(rtt_ms=rtt_ms)
        machine.warm_up()
        title(f"warm exec of `true`, {rtt_ms} ms")
        times = in_turn(
            {
                "vmctl exec": lambda: machine.vmctl("exec", "true"),
                "ssh over a warm mux": lambda: machine.ssh("true"),
                "ssh cold": lambda: machine.ssh("true", warm=False),
                IMPORTS: imports,
            },
            bench.runs,
        )
        show(times, "vmctl exec")
        seen[rtt_ms] = times["vmctl exec"]
        rest = times["vmctl exec"].median - times[IMPORTS].median - 2 * rtt_ms
        verdict(bench, f"exec {rtt_ms} ms: beyond 2 round trips + imports", rest, 60, " ms")
    print(f"  round trips: {slope(seen[30], seen[80]):.2f}")


def _push_peers(machine: Machine) -> dict[str, Callable[[], float]]:
    everything = ("-az", "--delete", "--exclude=/vmctl.toml")
    return {
        "vmctl push": lambda: machine.vmctl("push"),
        "rsync -az warm": lambda: machine.rsync("./", ":peer/", *everything),
        "rsync -az cold": lambda: machine.rsync("./", ":peer/", *everything, warm=False),
    }


def row_noop(bench: Bench, machines: Trees) -> None:
    for name in ("a", "b"):
        machine = machines[name]
        bench.link.reset(rtt_ms=0, rate_mbit=None)
        for contestant in _push_peers(machine).values():
            contestant()
        # files that were just made are read again, not trusted by their times: let them be old
        time.sleep(2.1)
        machine.vmctl("push")
        imports = bench.imports_of(machine, "push")
        seen = {}
        for rtt_ms in (30, 80):
            bench.link.reset(rtt_ms=rtt_ms)
            machine.warm_up()
            title(f"push of {name}, nothing changed, {rtt_ms} ms")
            times = in_turn({**_push_peers(machine), IMPORTS: imports}, bench.runs)
            show(times, "vmctl push")
            ours = times["vmctl push"]
            seen[rtt_ms] = ours
            rest = ours.median - times[IMPORTS].median - 3 * rtt_ms
            what = f"no-op push {name} {rtt_ms} ms"
            verdict(bench, f"{what}: beyond 3 round trips + imports", rest, 60, " ms")
            _ratio(bench, what, times, "rsync -az warm", 0.45)
            _ratio(bench, what, times, "rsync -az cold", 0.2)
            before = bench.link.counters()
            machine.vmctl("push")
            passed = bench.link.counters()
            up, down = (passed.up.payload - before.up.payload,
                        passed.down.payload - before.down.payload)  # fmt: skip
            print(f"  on the wire: {up / 1000:.1f} KB up, {down / 1000:.1f} KB down")
        print(f"  round trips: {slope(seen[30], seen[80]):.2f}")


def row_one(bench: Bench, machines: Trees) -> None:
    machine = machines["b"]
    files = sorted(machine.folder.rglob("*.py"))
    bench.link.reset(rtt_ms=0, rate_mbit=None)
    contestants = _push_peers(machine)
    for contestant in contestants.values():
        contestant()
    imports = bench.imports_of(machine, "push")
    changes = iter(range(1, 100_000))
    bench.link.reset(rtt_ms=30)
    machine.warm_up()
    title("push of b, one file changed, 30 ms")

    def change(name: str, turn: int) -> None:
        number = next(changes)
        trees.change_one(files[number % len(files)], number)

    del contestants["rsync -az cold"]
    times = in_turn({**contestants, IMPORTS: imports}, bench.runs, before=change)
    show(times, "vmctl push")
    rest = times["vmctl push"].median - times[IMPORTS].median - 3 * 30
    print(f"  beyond 3 round trips and imports {rest:.0f} ms")
    _ratio(bench, "one-file push b 30 ms", times, "rsync -az warm", 0.45)


# What a push left on the VM and here: a first push finds nothing of it.
FORGET = "chmod -R u+w Workspace peer 2>/dev/null; rm -rf Workspace peer .vmctl/push .vmctl/tmp"


def _forget(machine: Machine) -> None:
    machine.ssh(FORGET)
    for path in (machine.bench.base / "home" / "cache").iterdir():
        if path.name != "targets":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def row_first(bench: Bench, machines: Trees) -> None:
    machine = machines["b"]
    bench.link.reset(rtt_ms=30)
    machine.warm_up()
    title("first push of b, 30 ms, 100 Mbit/s")
    tar = "tar -c . | gzip -1 | ssh -F $CONFIG $VM 'mkdir -p peer && tar -xz -C peer'"
    times = in_turn(
        {
            "vmctl push": lambda: machine.vmctl("push"),
            "tar | gzip -1 | ssh warm": lambda: machine.shell(tar),
            "rsync -az warm": lambda: machine.rsync("./", ":peer/", "-az"),
        },
        max(3, bench.runs // 2),
        before=lambda name, turn: _forget(machine),
        warm_up=False,
    )
    show(times, "vmctl push")
    ours = times["vmctl push"].median
    ratio = ours / times["tar | gzip -1 | ssh warm"].median
    verdict(bench, "first push b: x tar|gzip|ssh", ratio, 1.1)
    verdict(bench, "first push b: x rsync warm", ours / times["rsync -az warm"].median, 0.9)


def row_gcloud(bench: Bench, machines: Trees) -> None:
    machine = machines["tenth"]
    bench.link.reset(rtt_ms=30)
    machine.warm_up()
    contestants: dict[str, Callable[[], float]] = {"vmctl push": lambda: machine.vmctl("push")}
    scp = ["scp", "-q", "-r", "-F", machine.cold, "."]
    peer = "scp -r cold (gcloud is not here)"
    if shutil.which("gcloud"):
        peer = "gcloud compute scp --recurse"
        told = bench.text([VMCTL, "emulator", "env"], cwd=machine.folder)
        shell = subprocess.run(
            ["bash", "-c", told + "\nenv -0"], env={"PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        pairs = (item.split("=", 1) for item in shell.split("\0") if "=" in item)
        bench.environ |= {k: v for k, v in pairs if k.startswith("CLOUDSDK_")}
        about = json.loads(bench.text([VMCTL, "status", "--json"], cwd=machine.folder))["machine"]
        user = bench.text([VMCTL, "exec", "--", "id", "-un"], cwd=machine.folder).strip()
        (bench.base / "gcloud-home").mkdir(exist_ok=True)
        scp = [
            "env", f"HOME={bench.base}/gcloud-home", "gcloud", "compute", "scp", "--recurse",
            "--quiet", "--zone", str(about["zone"]), "--strict-host-key-checking=yes",
        ]  # fmt: skip
        machine.ssh("mkdir -p peer")
        target = f"{user}@{about['name']}"
        with contextlib.suppress(RowError):  # the first one makes a key and learns the host's
            bench.run([*scp[:-1], "vmctl.toml", f"{target}:peer/"], cwd=machine.folder)
        scp += [".", f"{target}:peer/"]
    else:
        scp.append(f"{machine.host}:peer/")
    contestants[peer] = lambda: bench.run(scp, cwd=machine.folder)
    title("first push of a tenth of b (200 files), 30 ms, 100 Mbit/s")

    def forget(name: str, turn: int) -> None:
        _forget(machine)
        machine.ssh("mkdir -p peer")

    times = in_turn(contestants, 2, before=forget, warm_up=False)
    show(times, "vmctl push")
    faster = times[peer].median / times["vmctl push"].median
    at_least(bench, f"first push of a tenth of b: times faster than {peer}", faster, 20)


def row_delta(bench: Bench, machines: Trees) -> None:
    machine = machines["c"]
    bench.link.reset(rtt_ms=0, rate_mbit=None)
    contestants = _push_peers(machine)
    del contestants["rsync -az cold"]
    for contestant in contestants.values():
        contestant()
    bench.link.reset(rtt_ms=30)
    machine.warm_up()
    title("push of c, a 70 MB file changed in one place, 30 ms, 100 Mbit/s")
    changes = iter(range(1, 1000))
    archive = machine.folder / "data" / "archive.bin"
    contestants["rsync -a warm"] = lambda: machine.rsync("./", ":peer/", "-a", "--delete")
    times = in_turn(
        contestants,
        max(3, bench.runs // 2),
        before=lambda name, turn: trees.change_one(archive, next(changes)),
    )
    show(times, "vmctl push")
    best = min(times["rsync -az warm"].median, times["rsync -a warm"].median)
    verdict(bench, "70 MB file changed: x rsync warm", times["vmctl push"].median / best, 1.2)


def row_fetch(bench: Bench, machines: Trees) -> None:
    machine, size = machines["a"], 30_000_000
    machine.ssh(f"mkdir -p Workspace/a && head -c {size} /dev/urandom > Workspace/a/model.pth")
    imports = bench.imports_of(machine, "fetch", "model.pth", "--to", "got")
    bench.link.reset(rtt_ms=80)
    machine.warm_up()
    server = [*bench.link.cloud, sys.executable, "-c", RAW_SERVER.format(address=CLOUD_ADDRESS)]
    client = [sys.executable, "-I", "-S", "-c", RAW_CLIENT.format(address=CLOUD_ADDRESS), str(size)]
    title("fetch of 30 MB, 80 ms, 100 Mbit/s")
    got = machine.folder / "got"

    def clean(name: str, turn: int) -> None:
        shutil.rmtree(got, ignore_errors=True)
        got.mkdir()

    remote = "Workspace/a/model.pth"
    with subprocess.Popen(server, stdout=subprocess.PIPE) as serving:
        assert serving.stdout is not None
        serving.stdout.readline()
        try:
            times = in_turn(
                {
                    "vmctl fetch": lambda: machine.vmctl("fetch", "model.pth", "--to", "got"),
                    "raw TCP": lambda: bench.run(client, cwd=machine.folder),
                    "ssh cat warm": lambda: machine.shell(
                        f"ssh -n -F $CONFIG $VM cat {remote} > got/model.pth"
                    ),
                    "rsync -a warm": lambda: machine.rsync(f":{remote}", "got/", "-a"),
                    "scp warm": lambda: machine.shell(f"scp -qF $CONFIG $VM:{remote} got/"),
                    IMPORTS: imports,
                },
                max(3, bench.runs // 2),
                before=clean,
            )
        finally:
            serving.kill()
    shutil.rmtree(got)
    show(times, "vmctl fetch")
    _ratio(bench, "fetch 30 MB 80 ms", times, "raw TCP", 1.07)


Row = Callable[[Bench, Trees], None]


def all_rows() -> dict[str, Row]:
    """Every row by its name."""
    import bench_cuts

    return {
        "exec": row_exec,
        "noop": row_noop,
        "one": row_one,
        "first": row_first,
        "gcloud": row_gcloud,
        "delta": row_delta,
        "fetch": row_fetch,
        "cut": bench_cuts.row_cut,
        "tunnel": bench_cuts.row_tunnel,
        "heal": bench_cuts.row_heal,
        "stale": bench_cuts.row_stale,
    }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    base = Path(tempfile.mkdtemp(prefix="vmctl-wire-", dir="/var/tmp"))
    base.chmod(0o755)
    try:
        yield base
    finally:
        shutil.rmtree(base, ignore_errors=True)


def run(runs: int, wanted: Sequence[str]) -> None:
    """Measure the rows named, or all; a row that fails does not keep the others from theirs."""
    rows = all_rows()
    with _folder() as base, contextlib.ExitStack() as stack:
        try:
            link = stack.enter_context(Link.opened())
        except LinkError as error:
            print(f"\nThe wire is left out: {error}.")
            return
        bench = Bench(link, base, runs)
        machines = Trees(bench)
        try:
            for name in wanted or rows:
                try:
                    rows[name](bench, machines)
                except (RowError, subprocess.SubprocessError, OSError) as error:
                    print(f"  FAILED  {name}: {error}", flush=True)
                    bench.failed.append(f"{name}: not measured")
        finally:
            link.reset(rtt_ms=0, rate_mbit=None)
            for path in base.glob("*.s"):
                subprocess.run(
                    ["ssh", "-F", str(path.with_suffix(".mux")), "-O", "exit", "bench"],
                    capture_output=True, check=False,
                )  # fmt: skip
        print("\nOut of reach:" if bench.failed else "\nAll within reach.")
        for line in bench.failed:
            print(f"  {line}")
