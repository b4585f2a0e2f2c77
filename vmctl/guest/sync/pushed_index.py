"""What pushes have put into a workspace by now, for callers that look again and again."""

from __future__ import annotations

from typing import Any

from ..paths import STATE
from . import record


class PushedIndex:
    """The paths that pushes have put into a workspace so far; read again when that changed."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.stamp: list[list[int]] | None = None
        self.paths: dict[str, dict[str, Any]] = {}
        self.folders: set[str] = set()

    def read_stamp(self) -> list[list[int]]:
        """Which record is there; [] twice before the first push."""
        stamp = []
        for name in (f"{self.project}.json", f"{self.project}.next.json"):
            try:
                found = (STATE / "push" / name).stat()
                stamp.append([found.st_ino, found.st_mtime_ns, found.st_size])
            except FileNotFoundError:
                stamp.append([])
        return stamp

    def refresh(self) -> None:
        """Read what pushes have put, if that has changed."""
        stamp = self.read_stamp()
        if stamp == self.stamp:
            return
        self.paths = record.pushed(self.project)
        self.folders = parents(list(self.paths))
        self.folders |= {path for path, what in self.paths.items() if what["kind"] == "dir"}
        self.stamp = stamp

    def has(self, path: str) -> bool:
        """Whether a push put this, or what is in it."""
        return path in self.paths or path in self.folders


def parents(paths: list[str]) -> set[str]:
    """Every folder above these paths, below the top."""
    found: set[str] = set()
    for path in paths:
        while (cut := path.rfind("/")) > 0:
            path = path[:cut]
            if path in found:
                break
            found.add(path)
    return found
