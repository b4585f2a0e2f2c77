"""Tell whether files are still being written, and by whom."""

from __future__ import annotations

import os
import time
from pathlib import Path

from .lookup import place_of

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from ..messages import RemoteListing

SETTLED_S = 2.0
STEP_S = 0.1


def unfinished(listing: RemoteListing) -> str:
    """Why one of the files is not whole yet; "" when all are. Takes up to two seconds."""
    paths = [
        Path(place_of(item, entry))
        for item in listing["found"]
        for entry in item["files"]
        if entry[0] == "file"
    ]
    try:
        by = _writer(paths)
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} was just removed"
    if by:
        return f"{by[0].name} is still being written by {by[1]}"
    # what a run wrote before it ended is whole once nobody has it open
    ended_at = float(listing["ended_at"] or 0.0)
    for path in paths:
        try:
            before = path.stat()
            if (listing["going"] or before.st_mtime > ended_at) and _moves(path, before):
                return f"{path.name} is still being written"
        except FileNotFoundError:
            return f"{path.name} was just removed"
    return ""


def _moves(path: Path, before: os.stat_result) -> bool:
    """Whether it is written to before its last write is two seconds old."""
    while 0 <= time.time() - before.st_mtime < SETTLED_S:
        time.sleep(STEP_S)
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            return True
    return False


def _writer(paths: list[Path]) -> tuple[Path, str] | None:
    """One of these files that another process has open for writing, and which process.

    A run writes under another name of the same file: only the last part is the same for sure.
    """
    wanted: dict[str, dict[tuple[int, int], Path]] = {}
    for path in paths:
        found = path.stat()
        name = path.resolve().name if path.is_symlink() else path.name
        wanted.setdefault(name, {})[found.st_dev, found.st_ino] = path
    for process in os.listdir("/proc"):  # noqa: PTH208  (hundreds of them: no objects)
        if not process.isdigit() or int(process) == os.getpid():
            continue
        place = f"/proc/{process}"
        try:
            descriptors = os.listdir(f"{place}/fd")  # noqa: PTH208
        except OSError:  # ended meanwhile, or somebody else's
            continue
        for descriptor in descriptors:
            try:
                name = os.readlink(f"{place}/fd/{descriptor}").rpartition("/")[2]  # noqa: PTH115
                if name not in wanted:
                    continue
                there = os.stat(f"{place}/fd/{descriptor}")  # noqa: PTH116
                mine = wanted[name].get((there.st_dev, there.st_ino))
                if mine is not None and _writable(Path(place, "fdinfo", descriptor)):
                    program = Path(place, "comm").read_text(errors="replace").strip()
                    return mine, f"{program} ({process})"
            except OSError:  # closed meanwhile
                continue
    return None


def _writable(info: Path) -> bool:
    lines = info.read_text().splitlines()
    flags = next((line.split()[1] for line in lines if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
