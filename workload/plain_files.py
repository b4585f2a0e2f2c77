"""Untrusted files, before anything reads them: only regular ones of an expected size are opened."""

import io
import os
import stat
from pathlib import Path


class UnusualFile(Exception):
    """A file that is not a regular one, or too large; the message says which, without its name."""


def open_plain(path: str | Path, max_bytes: int) -> io.FileIO:
    """Open a file for reading; raises UnusualFile or OSError.

    A pipe without a writer does not block, and a device is not read without end.
    """
    file = io.FileIO(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    facts = os.fstat(file.fileno())
    problem = ""
    if not stat.S_ISREG(facts.st_mode):
        problem = "not a plain file"
    elif facts.st_size > max_bytes:
        problem = f"{facts.st_size / 1e6:.0f} MB, and at most {max_bytes / 1e6:.0f} MB are read"
    if problem:
        file.close()
        raise UnusualFile(problem)
    return file


def read_plain(path: str | Path, max_bytes: int) -> bytes:
    """Read all of a file; raises UnusualFile or OSError."""
    with io.BufferedReader(open_plain(path, max_bytes)) as file:
        return file.read(max_bytes)


def to_printable(text: str) -> str:
    """Escape untrusted text, such as a file's name: no terminal sequence is left in it."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
