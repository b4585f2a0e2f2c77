"""Kill -9 and a dead link at every tenth of a transfer: the same command again ends it whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scripts.link import Count
from tests.harness.eventually import eventually
from tests.harness.fixtures import Linked
from tests.harness.laptop import BASE, project

LARGE = 16_000_000
SMALL = [40_000] * 200
SIZE = LARGE + sum(SMALL)
# What is in flight when a program is killed is lost: ssh's window (2 MB), and what the link holds.
IN_FLIGHT = 2_500_000
# Connections, questions and answers of one command.
OVERHEAD = 150_000


def random_tree(folder: Path, seed: str) -> dict[str, str]:
    """200 small files and one large one, which nothing can compress; SHA-256 by path."""
    source = random.Random(seed)
    proven = {}
    for index, size in enumerate([*SMALL, LARGE]):
        path = folder / f"part_{index % 9}" / f"file_{index:03d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = source.randbytes(size)
        path.write_bytes(data)
        proven[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return proven


def kill(client: subprocess.Popen[bytes]) -> None:
    """End a program as a crash does, with what it started in its own group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(client.pid, signal.SIGKILL)
    client.communicate()


class Transfer:
    """One push or fetch of a tree of 24 MB, again and again until it is through."""

    def __init__(self, linked: Linked, base: Path, direction: str, seed: str) -> None:
        self.linked = linked
        self.direction = direction
        # The name is the VM's: the tree lies in a folder of its own beside the machine's.
        self.name = f"tree-{seed}"
        self.tree = linked.folder / self.name
        self.proven = random_tree(self.tree, seed)
        self.got = base / "got"
        self.words = ["push"]
        if direction == "fetch":
            linked.laptop("push", cwd=linked.folder)
            self.got.mkdir()
            self.words = ["fetch", self.name, "--to", str(self.got)]
        linked.laptop("exec", "true", cwd=linked.folder)  # the connection is warm
        self.before = self.count().payload

    def count(self) -> Count:
        """What the link has delivered in the data's direction."""
        counters = self.linked.link.counters()
        return counters.up if self.direction == "push" else counters.down

    @property
    def crossed(self) -> int:
        return self.count().payload - self.before

    def start(self) -> subprocess.Popen[bytes]:
        return self.linked.laptop.start(*self.words, cwd=self.linked.folder)

    def until(self, client: subprocess.Popen[bytes], done: Callable[[], bool]) -> bool:
        """Wait for the moment; False when the command was through before it."""
        eventually(lambda: done() or client.poll() is not None, within_s=60, what="the moment")
        if client.poll() is None:
            return True
        out, err = client.communicate()
        assert client.returncode == 0, (out + err).decode()
        return False

    def finish(self) -> None:
        """The same command again, to its end: everything is there, byte for byte."""
        self.linked.laptop(*self.words, cwd=self.linked.folder)
        assert self.sums() == self.proven

    def sums(self) -> dict[str, str]:
        """SHA-256 by path at the far end."""
        if self.direction == "fetch":
            # a folder arrives under its own name
            root = self.got / self.name if (self.got / self.name).is_dir() else self.got
            return {
                str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in root.rglob("*")
                if path.is_file()
            }
        told = self.linked.laptop(
            "exec", "--", "sh", "-c", f"cd {self.name} && find . -type f -exec sha256sum {{}} +",
            cwd=self.linked.folder,
        ).stdout  # fmt: skip
        pairs = (line.split("  ", 1) for line in told.splitlines())
        return {path.removeprefix("./"): digest for digest, path in pairs}


@pytest.fixture(params=["push", "fetch"])
def transfer(linked: Linked, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Transfer]:
    seed = re.sub("[^a-z0-9]+", "-", request.node.name)
    made = Transfer(linked, tmp_path, request.param, seed)
    yield made
    linked.link.reset()
    shutil.rmtree(made.tree)
    linked.laptop("push", "--force", cwd=linked.folder)


def test_killed_at_every_tenth_it_goes_on_where_it_was(transfer: Transfer) -> None:
    kills = 0
    for tenth in range(1, 10):
        client = transfer.start()
        try:
            # one kill after the other: each command has to get further than the one before
            if not transfer.until(client, lambda due=tenth: transfer.crossed >= SIZE * due // 10):
                break
        finally:
            kill(client)
        kills += 1
    transfer.finish()
    assert kills >= 5, "the transfer was through before it could be killed"
    most = SIZE * 1.02 + kills * IN_FLIGHT + (kills + 1) * OVERHEAD
    assert transfer.crossed <= most, f"{transfer.crossed:,} bytes for {SIZE:,}, {kills} kills"


@pytest.mark.slow
def test_a_link_cut_at_every_tenth_and_another_address(transfer: Transfer) -> None:
    """The user loses patience, moves to another network, and gives the command again."""
    cuts = 0
    for tenth in range(1, 10):
        missing = SIZE * tenth // 10 - transfer.crossed
        if missing <= 0:
            continue
        client = transfer.start()
        try:
            transfer.linked.link.set(cut_after_bytes=missing)
            through = not transfer.until(client, lambda: transfer.count().cut)
        finally:
            kill(client)
        transfer.linked.link.set(cut=False)
        if through:
            break
        transfer.linked.link.move()
        cuts += 1
    transfer.finish()
    assert cuts >= 5, "the transfer was through before the link could be cut"
    most = SIZE * 1.02 + cuts * IN_FLIGHT + (cuts + 1) * OVERHEAD
    assert transfer.crossed <= most, f"{transfer.crossed:,} bytes for {SIZE:,}, {cuts} cuts"


@pytest.mark.slow
def test_a_link_dead_at_half_costs_almost_nothing_again(transfer: Transfer) -> None:
    """The link is dead for as long as it takes to notice; nobody kills anything."""
    client = transfer.start()
    try:
        transfer.linked.link.set(cut_after_bytes=SIZE // 2)
        assert transfer.until(client, lambda: transfer.count().cut)
        with contextlib.suppress(subprocess.TimeoutExpired):
            client.wait(timeout=20)
        transfer.linked.link.set(cut=False)
        client.communicate(timeout=60)
    finally:
        kill(client)
    transfer.finish()
    assert transfer.crossed <= SIZE * 1.02 + 2 * OVERHEAD, f"{transfer.crossed:,} for {SIZE:,}"


# -- what goes on over a cut -------------------------------------------------------------------


@pytest.mark.slow
def test_a_followed_run_goes_on_over_a_cut(linked: Linked) -> None:
    """No line is lost or repeated, and the exit code is the job's."""
    command = 'for i in $(seq 1 60); do echo "line $i"; sleep 0.5; done; exit 7'
    toml = BASE + f"[jobs.count]\ncommand = '''{command}'''\n"
    old = (linked.folder / "vmctl.toml").read_text()
    project(linked.folder, toml)
    try:
        linked.laptop("push", cwd=linked.folder)
        client = linked.laptop.start("run", "count", cwd=linked.folder)
        try:
            eventually(lambda: runs_line(linked) > 5, within_s=30, what="the run's first lines")
            linked.link.set(cut=True)
            with contextlib.suppress(subprocess.TimeoutExpired):
                client.wait(timeout=20)
            assert client.poll() is None, "the follower gave up"
            linked.link.set(cut=False)
            out, err = client.communicate(timeout=90)
        finally:
            kill(client)
    finally:
        (linked.folder / "vmctl.toml").write_text(old)
    told = re.findall(r"^line (\d+)$", out.decode(), re.MULTILINE)
    assert told == [str(number) for number in range(1, 61)], err.decode()
    assert client.returncode == 7, err.decode()


def runs_line(linked: Linked) -> int:
    """The number of the last line that the newest run has written."""
    told = linked.laptop("logs", cwd=linked.folder, code=None).stdout
    numbers = re.findall(r"^line (\d+)$", told, re.MULTILINE)
    return int(numbers[-1]) if numbers else 0


PAGE = """
import sys, urllib.request
with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/", timeout=2) as answer:
    sys.stdout.buffer.write(answer.read())
"""


def page(linked: Linked, port: int) -> str:
    """The page at a port of the laptop; "" while nothing answers."""
    done = subprocess.run(
        [*linked.link.laptop, sys.executable, "-I", "-c", PAGE, str(port)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout if done.returncode == 0 else ""


@pytest.mark.slow
def test_a_tunnel_is_back_after_a_cut_and_after_a_move(linked: Linked, tmp_path: Path) -> None:
    site = (
        BASE + '[services.page]\nport = 8777\ncommand = "python3 -m http.server {port} --bind '
        '127.0.0.1 --directory /etc"\n'
    )
    old = (linked.folder / "vmctl.toml").read_text()
    project(linked.folder, site)
    linked.laptop("push", cwd=linked.folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    log = tmp_path / "tunnel.log"
    with log.open("wb") as told:
        client = linked.laptop.start(
            "tunnel", "page", "--port", str(port), cwd=linked.folder, stdout=told, stderr=told
        )
    try:
        eventually(lambda: "passwd" in page(linked, port), what=log.read_text())
        linked.link.set(cut=True)
        eventually(lambda: "lost" in log.read_text(), within_s=20, what="the cut is noticed")
        assert page(linked, port) == ""
        linked.link.set(cut=False)
        eventually(lambda: "passwd" in page(linked, port), what="back after the cut")
        linked.link.move()
        eventually(lambda: log.read_text().count("lost") > 1, within_s=20, what="the move")
        eventually(lambda: "passwd" in page(linked, port), what="back after the move")
        assert client.poll() is None
    finally:
        client.send_signal(signal.SIGINT)
        client.wait(timeout=20)
        (linked.folder / "vmctl.toml").write_text(old)
