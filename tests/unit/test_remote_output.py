"""Lines and bytes of a program on the VM, as they come through a pipe."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmctl.domain.errors import IntegrityError, TimedOut
from vmctl.domain.limits import SILENCE_S
from vmctl.guest.protocol import BEAT_S
from vmctl.ssh import remote_output
from vmctl.ssh.remote_output import RemoteOutput, write_to


class Pipe:
    """One pipe, and what is read from it."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.output = RemoteOutput(reading)

    def say(self, data: bytes) -> None:
        os.write(self.writing, data)

    def end(self) -> None:
        os.close(self.writing)
        self.writing = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.output.descriptor)
    if made.writing >= 0:
        made.end()


def test_lines_and_bytes_come_in_turn_and_empty_lines_say_nothing(pipe: Pipe) -> None:
    pipe.say(b"\n\none\n\n\ntwo\nabcdef\n\nthree\n")
    assert pipe.output.line(100) == b"one"
    assert pipe.output.line(100) == b"two"
    assert pipe.output.some(4) == b"abcd"
    assert pipe.output.some(2) == b"ef"
    assert pipe.output.line(100) == b"three"
    pipe.end()
    assert pipe.output.line(100) == b""
    assert pipe.output.some(7) == b""


def test_a_sign_of_life_is_no_answer(pipe: Pipe) -> None:
    assert not pipe.output.has_line()
    pipe.say(b"\n\n")
    assert not pipe.output.has_line()
    pipe.say(b"half")
    assert not pipe.output.has_line()
    pipe.say(b" a line\n")
    assert pipe.output.has_line()
    assert pipe.output.line(100) == b"half a line"
    pipe.end()
    assert pipe.output.has_line(), "the end is to be heard, too"


@pytest.mark.parametrize("data", [b"x" * 101, b"x" * 101 + b"\n", b"half"])
def test_a_line_that_is_too_long_or_half_is_none(pipe: Pipe, data: bytes) -> None:
    pipe.say(b"first\n" + data)
    pipe.end()
    assert pipe.output.line(100) == b"first"
    with pytest.raises(IntegrityError):
        pipe.output.line(100)


def test_who_says_nothing_is_given_up(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_output, "SILENCE_S", 0.05)
    with pytest.raises(TimedOut):
        pipe.output.some(1)
    with pytest.raises(TimedOut):
        pipe.output.line(1)


def test_who_writes_listens_meanwhile(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_output, "SILENCE_S", 0.05)
    reading, writing = os.pipe()
    pipe.say(b"\n")
    with pytest.raises(TimedOut):
        write_to(writing, bytes(1 << 20), pipe.output)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        write_to(writing, b"x", pipe.output)
    os.close(writing)


def test_a_helper_at_work_gives_signs_of_life_and_none_inside_a_record() -> None:
    program = """
import sys, time
sys.path.insert(0, sys.argv[1])
from guest import protocol
protocol.BEAT_S = 0.01
from guest import heartbeat
heartbeat.begin()
def work():
    end = time.monotonic() + 0.2
    while time.monotonic() < end: pass
work()
heartbeat.hush(); print("record", end="", flush=True); work(); print(" whole", flush=True)
heartbeat.resume(); work(); print("end", flush=True)
"""
    room = Path(remote_output.__file__).parents[1]
    words = [sys.executable, "-ISB", "-c", program, str(room)]
    said = subprocess.run(words, capture_output=True, check=True, text=True).stdout
    before, record, after = said.partition("record whole\n")
    assert before.strip() == ""
    assert record
    assert len(before) > 1
    assert after.strip() == "end"
    assert len(after) > len("end\n")
    assert SILENCE_S > 10 * BEAT_S
