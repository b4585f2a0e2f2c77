"""What a push leaves here, and what of it a command is about to look for on the VM."""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Iterable, Iterator, Sequence


def paths_named(command: str, directory: str) -> Iterator[str]:
    """What a command's words would be as paths below the project, run in one of its folders."""
    try:
        words = shlex.split(command, comments=False)
    except ValueError:  # an open quote: the shell will complain, not we
        words = command.split()
    for word in words:
        plain = word.partition("=")[2] if word.startswith("-") else word
        if not plain or plain.startswith(("/", "~", "$")) or "://" in plain:
            continue
        path = posixpath.normpath(posixpath.join(directory or ".", plain))
        if path != "." and not path.startswith(".."):
            yield path


def left_behind(paths: Iterable[str], left_out: Sequence[tuple[str, str]]) -> Iterator[list[str]]:
    """[path, rule] for each path that is, or lies in, what was left out; folders end in "/"."""
    rules = {path.rstrip("/"): rule for rule, path in left_out}
    for path in dict.fromkeys(paths):
        above = path
        while above:
            if above in rules:
                yield [path, rules[above]]
                break
            above = above.rpartition("/")[0]
