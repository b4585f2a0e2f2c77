"""Commands for the VM, built from argument lists; quoting happens here and nowhere else."""

from __future__ import annotations

import shlex
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments; `str(command)` is one line for a POSIX shell."""

    argv: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a command needs a program")
        if any("\0" in word for word in self.argv):
            raise ValueError("a command cannot hold a NUL byte")

    def __str__(self) -> str:
        return shlex.join(self.argv)


def command(*argv: str) -> Command:
    """`command("python", "train.py")`, the usual way to make one."""
    return Command(tuple(argv))


def quote_path(path: str) -> str:
    """A path as one shell word; a leading `~/` stays the shell's to expand."""
    if path == "~":
        return "~"
    if path.startswith("~/"):
        return "~/" + shlex.quote(path[2:]) if path != "~/" else "~/"
    return shlex.quote(path)
