"""A person's terminal: what a program does to it, byte by byte."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.harness.laptop import PROGRAM, Laptop


def at_terminal(
    laptop: Laptop, folder: Path, *words: str, columns: int = 200, typed: str = "", **environ: str
) -> str:
    """What a person sees of vmctl on a terminal of that width, having typed something."""
    given = {"TERM": "xterm-256color", **environ}
    kept = {key: value for key, value in laptop.environ.items() if key not in ("COLUMNS", "LINES")}
    given = {**kept, **given}
    seen = bytes_at_terminal([PROGRAM, *words], folder, given, columns, typed.encode())
    return seen.decode().replace("\r\n", "\n")


def conversation(
    laptop: Laptop, folder: Path, words: Sequence[str], answers: Sequence[tuple[str, str]]
) -> tuple[int, str]:
    """vmctl on a terminal that is its own, as a person's is; its exit code and what was seen.

    Each answer is typed once its prompt is on the screen."""
    pid, near = pty.fork()
    if pid == 0:
        try:
            os.chdir(folder)
            os.execve(PROGRAM, [str(PROGRAM), *words], {**laptop.environ, "TERM": "dumb"})
        finally:
            os._exit(127)
    seen, left = "", list(answers)
    while True:
        try:
            more = os.read(near, 65536)
        except OSError:  # the other side is closed
            break
        seen += more.decode()
        if left and seen.count(left[0][0]) > len(answers) - len(left):
            os.write(near, left.pop(0)[1].encode() + b"\n")
    os.close(near)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), seen


def bytes_at_terminal(
    argv: Sequence[str | Path],
    folder: Path,
    environ: Mapping[str, str],
    columns: int = 200,
    typed: bytes = b"",
) -> bytes:
    """All that a program writes to its terminal until it ends."""
    near, far = pty.openpty()
    os.write(near, typed)
    fcntl.ioctl(far, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    with subprocess.Popen(
        argv, cwd=folder, env=environ,
        stdin=far, stdout=far, stderr=far, start_new_session=True,
    ) as program:  # fmt: skip
        os.close(far)
        seen = bytearray()
        while True:
            try:
                more = os.read(near, 65536)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            seen += more
        program.wait(60)
    os.close(near)
    return bytes(seen)
