"""The link that other tests stand on: it delays, limits, cuts and moves as it says."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.harness.fixtures import Linked


def connect_s(linked: Linked, timeout_s: float = 2) -> float | None:
    """Seconds that a TCP connection to the machine takes; None when it is not made in time."""
    vm = linked.laptop.json("status", cwd=linked.folder)["machine"]
    code = (
        "import socket, sys, time; began = time.perf_counter();"
        f"socket.create_connection(({vm['address']!r}, {vm['ssh_port']}), {timeout_s});"
        "print(time.perf_counter() - began)"
    )
    done = subprocess.run(
        [*linked.link.laptop, sys.executable, "-I", "-S", "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return float(done.stdout) if done.returncode == 0 else None


def test_a_round_trip_takes_as_long_as_asked(linked: Linked) -> None:
    for rtt_ms in (30, 80):
        linked.link.set(rtt_ms=rtt_ms)
        took = connect_s(linked)
        assert took is not None and took >= rtt_ms / 1000


def test_a_cut_is_silent_until_healed(linked: Linked) -> None:
    linked.link.set(cut=True)
    assert connect_s(linked) is None
    linked.link.set(cut=False)
    assert connect_s(linked) is not None


def test_bytes_take_their_time_and_are_counted(linked: Linked) -> None:
    linked.link.set(rate_mbit=8)
    before = linked.link.counters()
    began = time.monotonic()
    linked.laptop("exec", "head", "-c", "2000000", "/dev/zero", cwd=linked.folder)
    took = time.monotonic() - began
    passed = linked.link.counters().down.payload - before.down.payload
    assert took >= 2.0  # 2 MB at 1 MB/s
    assert 2_000_000 <= passed <= 2_200_000


def test_a_command_works_from_a_new_address(linked: Linked) -> None:
    linked.laptop("exec", "true", cwd=linked.folder)
    old = linked.link.move()
    assert linked.link.move() != old
    linked.laptop("exec", "true", cwd=linked.folder)


def test_round_trips_are_counted(linked: Linked) -> None:
    """A warm command is two: the session is opened, then the command is run in it."""
    linked.laptop("exec", "true", cwd=linked.folder)
    before = linked.link.counters()
    linked.laptop("exec", "true", cwd=linked.folder)
    assert 2 <= linked.link.counters().round_trips - before.round_trips <= 5


def test_one_direction_can_be_cut_alone(linked: Linked) -> None:
    linked.link.set(cut=True, direction="down")
    assert connect_s(linked) is None
    assert linked.link.counters().down.cut and not linked.link.counters().up.cut
    linked.link.set(cut=False, direction="down")
    assert connect_s(linked) is not None
