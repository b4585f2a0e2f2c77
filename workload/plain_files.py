"""Files that strangers made, before anything reads them: plain ones, of a size that is expected."""

import io
import os
import stat
from pathlib import Path


class UnusualFile(Exception):
    """A file that is not plain or too large; the message says which, without its name."""


def open_plain(path: str | Path, max_bytes: int) -> io.FileIO:
    """Open a file for reading; raises UnusualFile or OSError.

    A pipe that nobody writes into is not waited for, and a device not read without end.
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
    """All of a file; raises UnusualFile or OSError."""
    with io.BufferedReader(open_plain(path, max_bytes)) as file:
        return file.read(max_bytes)


def to_printable(text: str) -> str:
    """Text of strangers, such as a file's name, without what a terminal would obey."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
