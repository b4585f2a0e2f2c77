"""What the wire's rows stand on: machines beyond a link, contestants in turn, and verdicts."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.benchmarks import trees
from scripts.benchmarks.cloud import VMCTL
from tests.harness.link import Link

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
def report():
    with open(out, "w") as file:
        json.dump([n for n in sys.modules if n != "__main__"], file)
def reporting(function):
    def wrapper(*words, **options):
        report()
        return function(*words, **options)
    return wrapper
for function in ("_exit", "execv", "execve", "execvp", "execvpe"):
    setattr(os, function, reporting(getattr(os, function)))
sys.argv = ["vmctl", *sys.argv[2:]]
try:
    from vmctl.__main__ import run
    run()
finally:
    report()
"""
IMPORT = """
import contextlib, importlib, json, sys
for name in json.load(open(sys.argv[1])):
    with contextlib.suppress(Exception):
        importlib.import_module(name)
"""


class Bench:
    """A link, an emulator behind it, machines with a project each, and what was measured."""

    def __init__(self, link: Link, base: Path, runs: int) -> None:
        self.link, self.base, self.runs = link, base, runs
        self.failed: list[str] = []
        self.verdicts: list[str] = []
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("VMCTL_")},
            "VMCTL_LOCAL": "1",
            "VMCTL_HOME": str(base / "home"),
            "VMCTL_EMULATOR_HOME": str(base / "emulator"),
            "VMCTL_OWNER": "bench",
            "XDG_RUNTIME_DIR": str(base / "r"),  # the masters' sockets: a path short enough
        }
        (base / "r").mkdir(mode=0o700)
        link.serve_emulator(base / "emulator", self.environ)

    def on_a_link(self, rtt_ms: float, rate_mbit: float | None = 100) -> None:
        """Another delay, and only connections that have never known another one.

        What TCP has learned of a shorter path (its least delay, above all) makes it slow."""
        for path in [*(self.base / "r").rglob("*"), *self.base.glob("*.s")]:
            if path.is_socket():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    subprocess.run(
                        ["ssh", "-F", "/dev/null", "-S", str(path), "-O", "exit", "bench"],
                        capture_output=True, check=False, timeout=10,
                    )  # fmt: skip
        self.link.reset(rtt_ms=rtt_ms, rate_mbit=rate_mbit)

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

    def processor(self, argv: Sequence[str], *, cwd: Path) -> float:
        """Seconds of processor time, user and system, of a command and all that it waited for."""
        process = subprocess.Popen(
            [*self.link.laptop, *argv], cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RowError(f"{' '.join(argv)[:200]} ended with {process.returncode}")
        return used.ru_utime + used.ru_stime

    def text(self, argv: Sequence[str], *, cwd: Path) -> str:
        """What a command prints."""
        return subprocess.run(
            [*self.link.laptop, *argv], cwd=cwd, env=self.environ, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    def let_gcloud_in(self, machine: Machine) -> None:
        """The exports of `vmctl emulator env` hold for what is run from now on."""
        exports = self.text([VMCTL, "emulator", "env"], cwd=machine.folder)
        shell = subprocess.run(
            ["bash", "-c", exports + "\nenv -0"], env={"PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        pairs = (item.split("=", 1) for item in shell.split("\0") if "=" in item)
        self.environ |= {k: v for k, v in pairs if k.startswith(("CLOUDSDK_", "REQUESTS_"))}

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

    @property
    def least(self) -> float:
        """What it takes where nothing else runs: the load of a busy computer only adds to it."""
        return min(self.values)

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
    """Each contestant, and ours as a ratio of it: by the medians, and by the least times."""
    mine = times[ours]
    for name, value in times.items():
        by_median, by_least = mine.median / value.median, mine.least / value.least
        ratio = "" if name == ours else f"   ours = {by_median:6.3f} x, least {by_least:6.3f} x"
        print(f"  {name:<34}{value}{ratio}", flush=True)


def verdict(bench: Bench, what: str, value: float, reach: float, unit: str = "") -> None:
    """Say whether a reach is met; remember what is not."""
    _judge(bench, value <= reach, f"{what}: {value:.3g}{unit}, reach {reach:.3g}{unit}")


def at_least(bench: Bench, what: str, value: float, reach: float, unit: str = "") -> None:
    """As `verdict`, where more is better."""
    _judge(bench, value >= reach, f"{what}: {value:.3g}{unit}, reach at least {reach:.3g}{unit}")


def _judge(bench: Bench, met: bool, line: str) -> None:
    bench.verdicts.append(f"  {'yes' if met else 'NO '}  {line}")
    print(bench.verdicts[-1], flush=True)
    if not met:
        bench.failed.append(line)


def compare_with(
    bench: Bench, what: str, times: Mapping[str, Times], peer: str, reach: float
) -> None:
    """Ours, the first, as a ratio of a peer: the whole process, by the least times of both."""
    ours, theirs = next(iter(times.values())), times[peer]
    verdict(bench, f"{what}: x {peer}, whole process", ours.least / theirs.least, reach)
    if IMPORTS in times:
        rest = (ours.median - times[IMPORTS].median) / theirs.median
        print(f"       {what}: x {peer}, imports taken out: {rest:.3g}", flush=True)


def on_the_wire(bench: Bench, contestant: Callable[[], float]) -> None:
    """What one more run sends, and how often data goes and comes."""
    before = bench.link.counters()
    contestant()
    after = bench.link.counters()
    up = (after.up.payload - before.up.payload) / 1000
    down = (after.down.payload - before.down.payload) / 1000
    turns = after.round_trips - before.round_trips
    print(f"  ours on the wire: {up:.1f} KB up, {down:.1f} KB down, {turns} times there and back")


def slope(at_30: Times, at_80: Times) -> float:
    """Round trips: what 50 ms more of delay cost."""
    return (at_80.median - at_30.median) / 50


# -- the machines -----------------------------------------------------------------------------


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
            self._bench.on_a_link(0, None)
            machine = Machine(self._bench, name)
            size = TREES[name](machine.folder) if name in TREES else 0
            count = sum(path.is_file() for path in machine.folder.rglob("*"))
            if size:
                packed = trees.gzip_size(machine.folder) / 1e6
                print(f"  tree {name}: {count} files, {size / 1e6:.2f} MB, gzip -1 {packed:.2f} MB")
            self._made[name] = machine
        return self._made[name]
