"""Kill -9 and a dead link on the way of a transfer: the same command again ends it whole."""

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
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from tests.harness.endpoint import LIMIT_S
from tests.harness.eventually import eventually
from tests.harness.fixtures import Linked
from tests.harness.fork_server import Forked
from tests.harness.laptop import BASE, project
from tests.harness.link import Count

LARGE = 8_000_000
SMALL = [40_000] * 150
SIZE = LARGE + sum(SMALL)
# What is in flight when a program is killed is lost: ssh's window (2 MB), and what the link holds.
IN_FLIGHT = 2_500_000
# Connections, questions and answers of one command.
OVERHEAD = 150_000
RATE_MBIT = 60  # a command takes two seconds, time enough to be killed on its way
SUMS = "find . -type f -exec sha256sum {} +"


def random_tree(folder: Path, seed: str) -> dict[str, str]:
    """150 small files and one large one, which nothing can compress; SHA-256 by path."""
    source = random.Random(seed)
    proven = {}
    for index, size in enumerate([*SMALL, LARGE]):
        path = folder / f"part_{index % 9}" / f"file_{index:03d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = source.randbytes(size)
        path.write_bytes(data)
        proven[str(path.relative_to(folder))] = hashlib.sha256(data).hexdigest()
    return proven


@dataclass
class Client:
    """A command at work in a process of its own, and what it has told so far."""

    process: Forked
    file: IO[bytes]

    @property
    def told(self) -> str:
        return os.pread(self.file.fileno(), 10_000_000, 0).decode()

    def kill(self) -> None:
        """End it as a crash does, with what it started in its own group."""
        if self.process.poll() is None:
            pid = self.process.pid
            eventually(lambda: os.getpgid(pid) == pid, "it has a group of its own")
            os.killpg(pid, signal.SIGKILL)
            self.process.wait(LIMIT_S)


@contextlib.contextmanager
def at_work(linked: Linked, *words: str) -> Iterator[Client]:
    """A command that is killed when the block ends, should it still be at work."""
    with tempfile.TemporaryFile() as file:
        client = Client(linked.laptop.start_forked(*words, cwd=linked.folder, output=file), file)
        try:
            yield client
        finally:
            client.kill()


class Transfer:
    """One push or fetch of a tree of 14 MB, again and again until it is through."""

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

    def at_work(self) -> contextlib.AbstractContextManager[Client]:
        return at_work(self.linked, *self.words)

    def until(self, client: Client, done: Callable[[], bool]) -> None:
        """Wait for a moment that has to come before the command is through."""
        eventually(lambda: done() or client.process.poll() is not None, within_s=60)
        assert client.process.poll() is None, client.told

    def nothing_is_half(self) -> None:
        """What stands under its name already is whole."""
        for path, digest in self.sums().items():
            assert self.proven.get(path, digest) == digest, path

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
            "exec", "--", "sh", "-c", f"cd {self.name} || exit 0; {SUMS}", cwd=self.linked.folder
        ).stdout  # fmt: skip
        pairs = (line.split("  ", 1) for line in told.splitlines())
        return {path.removeprefix("./"): digest for digest, path in pairs}


@pytest.fixture(params=["push", "fetch"])
def transfer(linked: Linked, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Transfer]:
    seed = re.sub("[^a-z0-9]+", "-", request.node.name)
    made = Transfer(linked, tmp_path, request.param, seed)
    linked.link.set(rate_mbit=RATE_MBIT)
    yield made
    linked.link.reset()
    shutil.rmtree(made.tree)
    linked.laptop("push", "--force", cwd=linked.folder)


TENTHS = pytest.mark.parametrize(
    "tenths",
    [(3, 6, 9), pytest.param(range(1, 10), marks=pytest.mark.exhaustive)],
    ids=["some", "all"],
)


@pytest.mark.slow
@TENTHS
def test_killed_on_its_way_it_goes_on_where_it_was(
    transfer: Transfer, tenths: Sequence[int]
) -> None:
    """One kill after the other: each command has to get further than the one before."""
    kills = 0
    for tenth in tenths:
        if transfer.crossed >= SIZE * tenth // 10:  # more than that was in flight
            continue
        with transfer.at_work() as client:
            transfer.until(client, lambda due=tenth: transfer.crossed >= SIZE * due // 10)
        if tenth == tenths[0]:
            transfer.nothing_is_half()
        kills += 1
    transfer.finish()
    assert kills >= 2
    assert transfer.crossed <= at_most(kills), f"{transfer.crossed:,} bytes for {SIZE:,}"


def one_way(way: str, more: str) -> pytest.MarkDecorator:
    """Only one way in every run: over a dead link, both are the same but for who waits."""
    both = [way, pytest.param(more, marks=pytest.mark.exhaustive)]
    return pytest.mark.parametrize("transfer", both, indirect=True)


@pytest.mark.slow
@TENTHS
@one_way("fetch", more="push")
def test_a_link_cut_on_its_way_and_another_address(
    transfer: Transfer, tenths: Sequence[int]
) -> None:
    """The user loses patience, moves to another network, and gives the command again."""
    cuts = 0
    for tenth in tenths:
        missing = SIZE * tenth // 10 - transfer.crossed
        if missing <= 0:  # more than that was in flight
            continue
        transfer.linked.link.set(cut_after_bytes=missing)
        with transfer.at_work() as client:
            transfer.until(client, lambda: transfer.count().cut)
        transfer.linked.link.set(cut=False)
        transfer.linked.link.move()
        cuts += 1
    transfer.finish()
    assert cuts >= 2
    assert transfer.crossed <= at_most(cuts), f"{transfer.crossed:,} bytes for {SIZE:,}"


def at_most(breaks: int) -> float:
    """How many bytes may cross the link for a transfer that was broken off so many times."""
    return SIZE * 1.02 + breaks * IN_FLIGHT + (breaks + 1) * OVERHEAD


@pytest.mark.slow
@one_way("push", more="fetch")
def test_a_link_dead_at_half_costs_almost_nothing_again(transfer: Transfer) -> None:
    """The link is dead for as long as it takes to notice; nobody kills anything."""
    transfer.linked.link.set(cut_after_bytes=SIZE // 2)
    with transfer.at_work() as client:
        transfer.until(client, lambda: transfer.count().cut)
        eventually(lambda: "Connection lost" in client.told, within_s=60)
        transfer.linked.link.set(cut=False)
        assert client.process.wait(60) == 0, client.told
    transfer.finish()
    assert transfer.crossed <= SIZE * 1.02 + 2 * OVERHEAD, f"{transfer.crossed:,} for {SIZE:,}"


# -- what goes on over a cut -------------------------------------------------------------------


@pytest.mark.slow
def test_a_followed_run_goes_on_over_a_cut(linked: Linked) -> None:
    """No line is lost or repeated, and the exit code is the job's."""
    command = 'for i in $(seq 1 60); do echo "line $i"; sleep 0.2; done; exit 7'
    toml = BASE + f"[jobs.count]\ncommand = '''{command}'''\n"
    old = (linked.folder / "vmctl.toml").read_text()
    project(linked.folder, toml)
    try:
        linked.laptop("push", cwd=linked.folder)
        with at_work(linked, "run", "count") as client:
            eventually(lambda: "line 5\n" in client.told, "the run's first lines")
            linked.link.set(cut=True)
            eventually(lambda: "lost" in client.told.lower(), "the cut is noticed", within_s=60)
            assert client.process.poll() is None, "the follower gave up"
            linked.link.set(cut=False)
            code = client.process.wait(90)
            told = client.told
    finally:
        (linked.folder / "vmctl.toml").write_text(old)
    lines = re.findall(r"^line (\d+)$", told, re.MULTILINE)
    assert lines == [str(number) for number in range(1, 61)], told
    assert code == 7, told


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
def test_a_tunnel_is_back_after_a_cut_and_after_a_move(linked: Linked) -> None:
    site = (
        BASE + '[services.page]\nport = 8777\ncommand = "python3 -m http.server {port} --bind '
        '127.0.0.1 --directory /etc"\n'
    )
    old = (linked.folder / "vmctl.toml").read_text()
    project(linked.folder, site)
    linked.laptop("push", cwd=linked.folder)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    try:
        with at_work(linked, "tunnel", "page", "--port", str(port)) as client:
            eventually(lambda: "passwd" in page(linked, port), "the page", within_s=60)
            linked.link.set(cut=True)
            eventually(lambda: "lost" in client.told, "the cut is noticed", within_s=60)
            assert page(linked, port) == ""
            linked.link.set(cut=False)
            eventually(lambda: "passwd" in page(linked, port), "back after the cut", within_s=60)
            linked.link.move()
            eventually(lambda: client.told.count("lost") > 1, "the move is noticed", within_s=60)
            eventually(lambda: "passwd" in page(linked, port), "back after the move", within_s=60)
            assert client.process.poll() is None
            os.kill(client.process.pid, signal.SIGINT)
            client.process.wait(LIMIT_S)
    finally:
        (linked.folder / "vmctl.toml").write_text(old)
