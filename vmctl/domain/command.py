"""Commands for the VM, built from argument lists; quoting happens here and nowhere else."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """A program with its arguments, its folder and its environment on the VM.

    `str(command)` is one line for a POSIX shell. A `directory` that starts with `~/` is
    resolved by that shell against the login user's home.
    """

    argv: tuple[str, ...]
    directory: str = ""
    env: tuple[tuple[str, str], ...] = field(default=())

    def __post_init__(self) -> None:
        if not self.argv:
            raise ValueError("a command needs a program")
        if any("\0" in word for word in self.argv):
            raise ValueError("a command cannot hold a NUL byte")

    def __str__(self) -> str:
        words = [f"{name}={shlex.quote(value)}" for name, value in self.env]
        line = " ".join([*(["env", *words] if words else []), *map(shlex.quote, self.argv)])
        if not self.directory:
            return line
        return f"cd {quote_path(self.directory)} && {line}"


def command(*argv: str, directory: str = "", env: dict[str, str] | None = None) -> Command:
    """`command("python", "train.py", directory="~/Workspace/x")`, the usual way to make one."""
    return Command(tuple(argv), directory, tuple(sorted((env or {}).items())))


def quote_path(path: str) -> str:
    """A path as one shell word; a leading `~/` stays the shell's to expand."""
    if path == "~":
        return "~"
    if path.startswith("~/"):
        return "~/" + shlex.quote(path[2:]) if path != "~/" else "~/"
    return shlex.quote(path)
