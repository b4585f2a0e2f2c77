"""A tree as data: what a push compares on both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

# ["f", sha256, size, mtime_ns, mode], ["l", target] or ["d"] (an empty folder)
TreeEntry = list[Any]
Tree = Mapping[str, TreeEntry]


def difference(base: Tree, tree: Tree) -> tuple[dict[str, TreeEntry], list[str]]:
    """What to put and what to remove, to turn one tree into the other."""
    put = {path: entry for path, entry in tree.items() if base.get(path) != entry}
    return put, sorted(base.keys() - tree.keys())


def named(ranges: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """The names whose numbers lie in the [first, last] ranges."""
    return [names[number] for first, last in ranges for number in range(first, last + 1)]
