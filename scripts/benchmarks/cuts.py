"""Times what happens when the link or the program breaks, and what the tunnel costs.

The page server is the same program on the VM, behind the tunnel, and at the link's far end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from scripts.benchmarks import trees
from scripts.benchmarks.cloud import VMCTL
from scripts.benchmarks.programs import ASKER, LOAD, PAGES
from scripts.benchmarks.rig import Bench, Machine, RowError, Trees, at_least, title, verdict
from tests.harness.eventually import NotInTime, eventually
from tests.harness.link import CLOUD_ADDRESS

CUT_S = 20.0
LINES_S = 90.0
GAP_S = 0.01  # so much later than the truth an answer may be: some of them are timed


# -- cut at 50 % -----------------------------------------------------------------------------------


def row_cut(bench: Bench, machines: Trees) -> None:
    machine = machines["cuts"]
    size = 200_000_000 if bench.runs > 3 else 40_000_000
    for direction in ("push", "fetch"):
        for kind in ("process killed", "link dead"):
            title(f"{direction} of {size // 1_000_000} MB cut at 50 %: {kind}; 30 ms, 100 Mbit/s")
            began = time.monotonic()
            try:
                sent, how = _cut_once(bench, machine, direction, kind, size)
            finally:
                (machine.folder / "big.bin").unlink(missing_ok=True)
            twice = sent - size
            print(f"  {sent / 1e6:.1f} MB crossed, {how}; {time.monotonic() - began:.0f} s in all")
            # what is in flight does not shrink with the file: a small one is held to the same MB
            verdict(bench, f"{direction} cut, {kind}: sent twice, of 200 MB", twice / 2e6, 2, " %")


def _cut_once(
    bench: Bench, machine: Machine, direction: str, kind: str, size: int
) -> tuple[int, str]:
    """TCP payload bytes in the data's direction until the file is there, proven; and how."""
    seed = f"{direction} {kind}"
    here = machine.folder / "big.bin"
    bench.on_a_link(0, None)
    machine.ssh("mkdir -p Workspace/cuts; rm -f Workspace/cuts/big.bin")
    trees.random_file(here, size, seed)
    wanted = bench.text(["sha256sum", str(here)], cwd=machine.folder).split()[0]
    words = ["push"]
    if direction == "fetch":
        machine.shell("scp -qF $CONFIG big.bin $VM:Workspace/cuts/big.bin")
        here.unlink()
        words = ["fetch", "big.bin", "--to", "."]
    bench.on_a_link(30)
    machine.warm_up()

    def crossed() -> int:
        counters = bench.link.counters()
        return (counters.up if direction == "push" else counters.down).payload

    before = crossed()
    if kind == "link dead":
        bench.link.set(cut_after_bytes=size // 2)
    client = _start(bench, machine, *words)
    try:
        eventually(
            lambda: crossed() - before >= size // 2 - 100_000 or client.poll() is not None,
            "half of the file crossed",
            within_s=120,
            gap_s=GAP_S,
        )
        if client.poll() is not None:
            raise RowError(f"vmctl {words[0]} ended before the cut, with {client.returncode}")
        if kind == "process killed":
            os.killpg(client.pid, signal.SIGKILL)
        else:
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(timeout=CUT_S)
            bench.link.set(cut=False)
        client.wait(timeout=120)
    finally:
        if client.poll() is None:
            os.killpg(client.pid, signal.SIGKILL)
        client.wait()
        bench.link.set(cut=False)
    how = "by itself"
    if client.returncode != 0:
        how = "with the same command again"
        machine.vmctl(*words)
    sent = crossed() - before
    if direction == "push":
        summed = bench.text(
            ["ssh", "-n", "-F", machine.warm, machine.host, "sha256sum Workspace/cuts/big.bin"],
            cwd=machine.folder,
        )
    else:
        summed = bench.text(["sha256sum", str(here)], cwd=machine.folder)
    if summed.split()[0] != wanted:
        raise RowError("the file is not the one that was sent")
    return sent, how


def _start(bench: Bench, machine: Machine, *words: str) -> subprocess.Popen[bytes]:
    log = (bench.base / "client.log").open("wb")
    with log:
        return subprocess.Popen(
            [*bench.link.laptop, VMCTL, *words], cwd=machine.folder, env=bench.environ,
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


# -- the tunnel ------------------------------------------------------------------------------------


class Tunnel:
    """`vmctl tunnel bench` held open, and its lines with their times."""

    def __init__(self, bench: Bench, machine: Machine, port: int) -> None:
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [*bench.link.laptop, VMCTL, "tunnel", "bench", "--port", str(port)],
            cwd=machine.folder, env=bench.environ | {"PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    def close(self) -> None:
        if self.process.poll() is None:
            os.kill(self.process.pid, signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextlib.contextmanager
def _tunnel(bench: Bench, machine: Machine, port: int) -> Iterator[Tunnel]:
    pages = bench.base / "pages.py"
    pages.write_text(PAGES)
    bench.on_a_link(0, None)
    machine.shell(f"scp -qF $CONFIG {pages} $VM:pages.py")
    machine.ssh("mkdir -p Workspace/" + machine.name)
    bench.on_a_link(30)
    machine.warm_up()
    tunnel = Tunnel(bench, machine, port)
    try:
        eventually(
            lambda: (
                any(f":{port}" in line for _, line in tunnel.lines)
                or tunnel.process.poll() is not None
            ),
            "the tunnel says its URL",
            within_s=60,
            gap_s=GAP_S,
        )
        if tunnel.process.poll() is not None:
            raise RowError(f"the tunnel ended: {tunnel.lines[-3:]}")
        yield tunnel
    finally:
        bench.link.set(cut=False)
        tunnel.close()


def row_tunnel(bench: Bench, machines: Trees) -> None:
    machine = machines["a"]
    seconds, rounds = (5, 3) if bench.runs > 3 else (3, 2)
    load = bench.base / "load.py"
    load.write_text(LOAD)
    with _tunnel(bench, machine, 8201):
        server = [*bench.link.cloud, sys.executable, str(bench.base / "pages.py"), CLOUD_ADDRESS,
                  "8000"]  # fmt: skip
        with subprocess.Popen(server, stdout=subprocess.PIPE) as serving:
            assert serving.stdout is not None
            serving.stdout.readline()
            try:
                for kind in ("new", "keep"):
                    title(f"16 clients, {kind}: connections, 1 KB pages, 30 ms, 100 Mbit/s")
                    rates: dict[str, list[float]] = {"direct": [], "tunnel": []}
                    for _ in range(rounds):
                        for way, address, port in (
                            ("direct", CLOUD_ADDRESS, 8000), ("tunnel", "127.0.0.1", 8201),
                        ):  # fmt: skip
                            argv = [sys.executable, str(load), address, str(port), str(seconds)]
                            rate = bench.text([*argv, kind], cwd=machine.folder)
                            rates[way].append(float(rate))
                    for way, values in rates.items():
                        middle = sorted(values)[len(values) // 2]
                        print(f"  {way}: {middle:.0f} a second  (of {len(values)} rounds: "
                              f"{min(values):.0f}–{max(values):.0f})")  # fmt: skip
                    ratio = (
                        sorted(rates["tunnel"])[rounds // 2] / sorted(rates["direct"])[rounds // 2]
                    )
                    name = "new connections" if kind == "new" else "keep-alive"
                    at_least(bench, f"tunnel, 16 clients, {name}: x direct", ratio, 0.95)
            finally:
                serving.kill()


def row_heal(bench: Bench, machines: Trees) -> None:
    machine = machines["a"]
    rounds = 3 if bench.runs > 3 else 1
    with _tunnel(bench, machine, 8202) as tunnel:
        asker = subprocess.Popen(
            [*bench.link.laptop, sys.executable, "-c", ASKER, "8202"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            for _ in range(rounds):
                _heal_once(bench, tunnel, asker)
        finally:
            asker.kill()
            asker.wait()


def _heal_once(bench: Bench, tunnel: Tunnel, asker: subprocess.Popen[str]) -> None:
    title(f"a tunnel after a cut of {CUT_S:g} s, with traffic, 30 ms")
    _answered(asker, time.monotonic())
    before = len(tunnel.lines)
    bench.link.set(cut=True)
    cut_at = time.monotonic()
    with contextlib.suppress(NotInTime):
        eventually(
            lambda: len(tunnel.lines) > before, "the tunnel notices", within_s=CUT_S, gap_s=GAP_S
        )
    if len(tunnel.lines) > before:
        at, line = tunnel.lines[before]
        print(f"  it printed: {line}")
        verdict(bench, "tunnel, cut: noticed after", at - cut_at, 8, " s")
    else:
        verdict(bench, "tunnel, cut: not noticed within", CUT_S, 8, " s")
    time.sleep(max(0.0, cut_at + CUT_S - time.monotonic()))  # so long a cut is what is measured
    bench.link.set(cut=False)
    healed_at = time.monotonic()
    back = _answered(asker, healed_at)
    verdict(bench, "tunnel, cut: usable after the link's return", back - healed_at, 2, " s")


def _answered(asker: subprocess.Popen[str], since: float) -> float:
    """When the first page arrived that was answered after `since`."""
    assert asker.stdout is not None
    limit = time.monotonic() + LINES_S
    while time.monotonic() < limit:
        if select.select([asker.stdout], [], [], 5)[0]:
            word, at = asker.stdout.readline().split()
            if word == "ok" and float(at) > since:
                return float(at)
    raise RowError(f"the tunnel did not answer within {LINES_S:g} s")


# -- a stale master --------------------------------------------------------------------------------


def row_stale(bench: Bench, machines: Trees) -> None:
    machine = machines["a"]
    bench.on_a_link(30)
    for command in (["exec", "echo", "right"], ["push"]):
        took = []
        for _ in range(max(3, bench.runs // 2)):
            machine.warm_up()
            bench.link.move()
            began = time.monotonic()
            output = bench.text([VMCTL, *command], cwd=machine.folder)
            took.append(time.monotonic() - began)
            if command[0] == "exec" and output.strip() != "right":
                raise RowError(f"the command printed {json.dumps(output)}")
            _cold_peer(machine)
        title(f"`vmctl {command[0]}` after the laptop's address changed, 30 ms")
        print("  " + ", ".join(f"{value:.2f} s" for value in took))
        verdict(bench, f"stale master, {command[0]}: the slowest", max(took), 3, " s")


def _cold_peer(machine: Machine) -> None:
    """The peer's own master is stale too: ended, so that it does not hang what comes next."""
    socket = Path(f"{machine.bench.base}/{machine.name}.s")
    if socket.exists():
        subprocess.run(
            ["ssh", "-F", machine.warm, "-O", "exit", machine.host],
            capture_output=True, check=False, timeout=20,
        )  # fmt: skip
