"""The one way out: all that vmctl prints passes here on its way to a terminal or a pipe.

Text shows its control characters as escapes; only the styles that are named here are orders to the
terminal. A job's bytes are cleaned where a terminal would obey them, and stay as they are in a
pipe. Whatever else writes to a terminal (a library, rich, a warning) goes through the same cleaner,
because `guard` puts it below Python's own streams.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import select
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from vmctl.domain.terminal import JobOutput, Sinks, replace_controls, visible

if TYPE_CHECKING:
    from rich.console import Console

BOLD, DIM, RED, GREEN, YELLOW = 1, 2, 31, 32, 33


class Styled(NamedTuple):
    """Text in one style of a terminal: SGR's number."""

    text: str
    style: int

    def __str__(self) -> str:
        return self.text


Part = str | Styled


def guard() -> None:
    """Put the cleaner below this process's own streams, where they are terminals."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper) or _cleaned(stream) is not None:
            continue
        if not stream.isatty():
            # a name that the encoding lacks ends no command
            stream.reconfigure(errors="backslashreplace")
            continue
        stream.flush()
        made = io.TextIOWrapper(
            io.BufferedWriter(_Cleaned(stream.fileno())),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, made)


def settle() -> None:
    """Nothing that a job wrote goes on: no colour, no hidden cursor, no half sequence."""
    for stream in (sys.stdout, sys.stderr):
        cleaned = _cleaned(stream)
        if cleaned is not None:
            stream.flush()
            cleaned.settle()


def reader_left() -> bool:
    """Whether nobody reads standard output or standard error any more."""
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)  # what is wrong is reported unasked
    return bool(outputs.poll(0))


def line(*parts: Part) -> None:
    """A line of the result on standard output, at once."""
    _write(sys.stdout, parts, "\n")


def note(*parts: Part, end: str = "\n") -> None:
    """A line on standard error, at once, after what standard output has."""
    sys.stdout.flush()
    _write(sys.stderr, parts, end)


def document(value: Any, *, indent: int | None = None, errors: bool = False) -> None:
    """One JSON document; what a terminal would obey or hide is escaped as JSON does it."""
    import json  # not at every start

    stream = sys.stderr if errors else sys.stdout
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    if (stream.encoding or "").lower().replace("-", "") != "utf8":
        text = json.dumps(value, indent=indent)
    else:
        text = replace_controls(text, _json_escape)
    _print(stream, text, "\n")


def job_output(data: bytes, *, errors: bool = False) -> None:
    """What a job wrote, at once: cleaned for a terminal, as it is for a pipe."""
    stream = sys.stderr if errors else sys.stdout
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def sinks() -> Sinks:
    """Who cleans what another program writes to this terminal; what goes to a pipe it inherits."""
    sys.stdout.flush()
    return Sinks(
        job_output if sys.stdout.isatty() else None,
        functools.partial(job_output, errors=True) if sys.stderr.isatty() else None,
    )


def styled(stream: TextIO) -> bool:
    """Whether a stream wants colours: a terminal, without NO_COLOR or TERM=dumb."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def console() -> Console:
    """rich's, on standard error; texts for it go through `visible` first."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def log_to_stderr() -> None:
    """The `vmctl` logger's messages as lines."""
    import logging

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            note(f"vmctl: {self.format(record)}")

    logger = logging.getLogger("vmctl")
    logger.setLevel(logging.INFO)
    logger.handlers = [Lines()]


def _write(stream: TextIO, parts: tuple[Part, ...], end: str) -> None:
    in_style = styled(stream)
    text = "".join(
        f"\x1b[{part.style}m{visible(part.text)}\x1b[0m"
        if in_style and isinstance(part, Styled)
        else visible(str(part))
        for part in parts
    )
    _print(stream, text, end)


def _print(stream: TextIO, text: str, end: str) -> None:
    try:
        settle()
        print(text, end=end, file=stream, flush=True)
    except OSError as error:
        # a full disk under standard error ends nothing: no tunnel in the
        # background, and no command with another exit code than its own
        if stream is not sys.stderr or error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


def _json_escape(sign: str) -> str:
    if ord(sign) > 0xFFFF:
        high, low = divmod(ord(sign) - 0x10000, 0x400)
        return f"\\u{0xD800 + high:04x}\\u{0xDC00 + low:04x}"
    return f"\\u{ord(sign):04x}"


class _Cleaned(io.RawIOBase):
    """A terminal's descriptor behind the cleaner; closing it leaves the descriptor open."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._output = JobOutput()
        self._lock = threading.Lock()  # a progress line is drawn by a thread of its own

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        """All of it, cleaned."""
        given = bytes(data)
        with self._lock:
            self._send(self._output.feed(given))
        return len(given)

    def settle(self) -> None:
        with self._lock:
            self._send(self._output.end())

    def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:  # another program has made the terminal non-blocking
                select.select([], [self._descriptor], [])


def _cleaned(stream: TextIO) -> _Cleaned | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Cleaned) else None
