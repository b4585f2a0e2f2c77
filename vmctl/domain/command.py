"""Commands for the machine, built from argument lists; quoting happens here and nowhere else."""

from __future__ import annotations

import shlex
from dataclasses import dataclass

# what csh, fish or an old shell may change inside single quotes
UNSAFE = frozenset("'\\!\n\r")
LONGEST = 900  # bytes of a word that csh takes


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


def for_any_shell(line: str) -> str:
    """A POSIX line as one that every login shell takes: bash, zsh, dash, fish, csh, tcsh.

    The login shell only starts /bin/sh in its own place: what its start files set up to happen at
    its end does not happen.
    """
    if not UNSAFE & set(line) and len(line) < LONGEST:
        return f"exec /bin/sh -c '{line}'"
    import base64

    packed = base64.b64encode(line.encode("utf-8", "surrogateescape")).decode("ascii")
    words = [packed[at : at + LONGEST] for at in range(0, len(packed), LONGEST)]
    return f"""exec /bin/sh -c 'eval "$(printf %s "$@" | base64 -d)"' sh {" ".join(words)}"""


def quote_path(path: str) -> str:
    """A path as one shell word; a leading `~/` stays the shell's to expand."""
    if path == "~":
        return "~"
    if path.startswith("~/"):
        return "~/" + shlex.quote(path[2:]) if path != "~/" else "~/"
    return shlex.quote(path)
