"""A remote program's output, read within limits of bytes, lines and silence.

Nothing in vmctl/ssh reads a program's output in any other way (tests/unit/test_house.py): a VM
cannot fill the memory by sending without end, nor block a command by sending nothing.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import threading
import time
from typing import IO

from vmctl.domain.errors import IntegrityError, TimedOut
from vmctl.domain.limits import PUSH_BYTES, REPLY_BYTES, SILENCE_S, WORK_LIMIT_S
from vmctl.guest.protocol import BEGIN

READ_BYTES = 1 << 18
TAIL_BYTES = 1 << 20  # of standard error: the reason of a failure is at its end
NOISE_BYTES = 1 << 20  # that a start file may print
TAIL_S = 5.0  # for it to come, once everything else has


class RemoteOutput:
    """A stream of lines and bytes; an empty line only means that the program is working.

    Raises TimedOut where nothing comes for SILENCE_S, or no line for WORK_LIMIT_S.
    """

    def __init__(self, descriptor: int, *, marked: bool = False) -> None:
        """`marked`: what comes before BEGIN is a start file's noise, and dropped."""
        self.descriptor = descriptor
        self._rest = bytearray()
        self._is_noise = marked
        self.had_noise = False
        self.ended = False
        self.came = False  # whether anything has arrived

    def line(self, most: int, limit_s: float = WORK_LIMIT_S) -> bytes:
        """The next line that is not empty, without its end; b"" at the end of the stream.

        Raises IntegrityError for a line of more than `most` bytes, and for half a line.
        """
        limit, looked = time.monotonic() + limit_s, 0
        while True:
            if self._is_noise:
                if not self._fill(limit):
                    return b""
                continue
            end = self._rest.find(b"\n", looked)
            if end > most or (end < 0 and len(self._rest) > most):
                raise too_much(most)
            if end < 0:
                looked = len(self._rest)
                if not self._fill(limit):
                    if self._rest:
                        raise _unexpected_reply("half a line")
                    return b""
                continue
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            looked = 0
            if line.strip():
                return line
            if time.monotonic() > limit:
                raise _too_long()

    def some(self, most: int) -> bytes:
        """The next bytes, `most` at most; b"" at the end of the stream."""
        while self._is_noise and self._fill(time.monotonic() + WORK_LIMIT_S):
            pass
        if not self._rest and not self.ended:
            wait_for(self.descriptor, SILENCE_S)
            data = os.read(self.descriptor, min(READ_BYTES, most))
            self.ended, self.came = not data, self.came or bool(data)
            return data
        data = bytes(self._rest[:most])
        del self._rest[:most]
        return data

    def has_line(self) -> bool:
        """Whether a line that is not empty, or the end, has arrived."""
        while not self.ended and select.select([self.descriptor], [], [], 0)[0]:
            self.take_in()
        while self._rest.startswith(b"\n"):
            del self._rest[:1]
        return self.ended or (not self._is_noise and b"\n" in self._rest)

    def take_in(self) -> None:
        """Read what has arrived, so that the program can go on reading what is sent to it."""
        self._take()
        if len(self._rest) > PUSH_BYTES:
            raise too_much(PUSH_BYTES)

    def _fill(self, limit: float) -> bool:
        if self.ended:
            return False
        left = limit - time.monotonic()
        if left < SILENCE_S:
            if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
                raise _too_long()
        else:
            wait_for(self.descriptor, SILENCE_S)
        return self._take()

    def _take(self) -> bool:
        data = os.read(self.descriptor, READ_BYTES)
        self._rest += data
        self.ended = not data
        if self._is_noise:
            self._drop_noise()
        self.came = self.came or bool(self._rest)
        return bool(data)

    def _drop_noise(self) -> None:
        end = self._rest.find(BEGIN + b"\n")
        if end >= 0:
            self._is_noise, self.had_noise = False, end > 0
            del self._rest[: end + len(BEGIN) + 1]
        elif self.ended:
            self._rest.clear()
        elif len(self._rest) > NOISE_BYTES:
            raise too_much(NOISE_BYTES)


def after_mark(line: str) -> str:
    """The line, which first says that it begins: what stands before that is a start file's."""
    return f"echo {BEGIN.decode('ascii')}; {line}"


def without_noise(output: bytes) -> bytes:
    """What a line made by `after_mark` has written itself."""
    before, mark, own = output.partition(BEGIN + b"\n")
    return own if mark else before


def skip_noise(descriptor: int) -> None:
    """Read up to the end of BEGIN, not a byte further; all of a stream that has none."""
    seen = b""
    while not seen.endswith(BEGIN + b"\n"):
        data = os.read(descriptor, 1)
        if not data:
            return
        seen = (seen + data)[-len(BEGIN) - 1 :]


def write_to(descriptor: int, data: bytes, output: RemoteOutput) -> None:
    """Write all of it to a program, reading its output meanwhile.

    Raises BrokenPipeError, and TimedOut where it neither reads nor writes for SILENCE_S.
    """
    os.set_blocking(descriptor, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
            continue
        except BlockingIOError:
            pass
        listening = [] if output.ended else [output.descriptor]
        readable, writable, _ = select.select(listening, [descriptor], [], SILENCE_S)
        if readable:
            output.take_in()
        if not readable and not writable:
            raise no_word(SILENCE_S)


def wait_for(descriptor: int, seconds: float) -> None:
    """Wait for something to read; raises TimedOut after that many seconds."""
    if not select.select([descriptor], [], [], seconds)[0]:
        raise no_word(seconds)


def no_word(seconds: float) -> TimedOut:
    """The error for a VM that is connected and silent."""
    return TimedOut(
        f"The VM has sent nothing for {seconds:.0f} s.",
        hint="See what keeps it busy: vmctl exec -- top -bn1; then run the same command again",
    )


def tail_of(process: subprocess.Popen[bytes]) -> tuple[bytes, int]:
    """The end of an ended program's standard error, and its exit code; -9: it had to be killed."""
    assert process.stderr is not None
    tail, limit = b"", time.monotonic() + TAIL_S
    while (left := limit - time.monotonic()) > 0:
        if select.select([process.stderr], [], [], left)[0]:
            data = os.read(process.stderr.fileno(), TAIL_BYTES)
            if not data:
                break
            tail = (tail + data)[-TAIL_BYTES:]
    try:
        return tail, process.wait(max(0.1, limit - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        return tail, process.wait()


class Tail:
    """The end of a program's standard error, read as it comes; the rest is dropped."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def text(self, wait_s: float = TAIL_S) -> str:
        """What has arrived, once it has ended or after `wait_s`."""
        self._thread.join(wait_s)
        return self._kept.decode("utf-8", "replace")

    def _read(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed while it was read
            while data := os.read(self._stream.fileno(), READ_BYTES):
                self._kept = (self._kept + data)[-TAIL_BYTES:]


def exchange(
    process: subprocess.Popen[bytes],
    data: bytes,
    timeout_s: float | None,
    most: int = REPLY_BYTES,
) -> tuple[bytes, bytes]:
    """Give a program its input and read both its outputs to their ends.

    Raises subprocess.TimeoutExpired, and IntegrityError for more than `most` bytes of output;
    of standard error only the end is kept.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    out, err, view = bytearray(), b"", memoryview(data)
    reading = [process.stdout, process.stderr]
    writing = [process.stdin] if data else []
    os.set_blocking(process.stdin.fileno(), False)
    if not data:
        process.stdin.close()
    while reading or writing:
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            raise subprocess.TimeoutExpired(process.args, timeout_s or 0.0)
        readable, writable, _ = select.select(reading, writing, [], left)
        for stream in readable:
            got = os.read(stream.fileno(), READ_BYTES)
            if not got:
                reading.remove(stream)
            elif stream is process.stdout:
                out += got
            else:
                err = (err + got)[-TAIL_BYTES:]
        if len(out) > most:
            raise too_much(most)
        if writable:
            try:
                view = view[os.write(process.stdin.fileno(), view) :]
            except BrokenPipeError:
                view = view[len(view) :]
            except BlockingIOError:
                continue
            if not view:
                writing.clear()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
    left = None if deadline is None else max(0.1, deadline - time.monotonic())
    process.wait(left)
    return bytes(out), err


def too_much(most: int) -> IntegrityError:
    """The error for a reply that is too long."""
    return _unexpected_reply(f"more than {most} bytes")


def _unexpected_reply(why: str) -> IntegrityError:
    from vmctl.domain.reply_shapes import (
        unexpected_reply,  # a command of the user's own does without shapes
    )

    return unexpected_reply(why)


def _too_long() -> TimedOut:
    return TimedOut(
        "The VM's helper does not finish.",
        hint="See what keeps it busy: vmctl exec -- top -bn1; then run the same command again",
    )
