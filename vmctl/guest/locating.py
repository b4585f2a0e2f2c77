"""Find what a fetch asks for, list what it holds, and refuse what is still being written."""

from __future__ import annotations

import glob
import os
import stat
import time
from pathlib import Path
from typing import Any

from .layout import RUNS, Refusal, read_json, sessions, workspace

SETTLED_S = 2.0
STEP_S = 0.1


def locate(request: dict[str, Any]) -> dict[str, Any]:
    """The files behind each wanted path, with sizes, times and modes; missing ones by name."""
    root = workspace(request["project"])
    run = _last_run(request["project"])
    wanted: list[str] = request["paths"] or _outputs(run)
    found, missing = [], []
    for path in wanted:
        places = _resolve(path, root, run)
        found += [_listing(path, place) for place in places]
        if not places:
            missing.append(path)
    if not request["force"]:
        _refuse_unfinished(found, run)
    return {"found": found, "missing": missing, "run": run["id"] if run else None}


def _last_run(project: str) -> dict[str, Any] | None:
    """The spec of the project's newest run, with when it ended."""
    try:
        names = [item.name for item in os.scandir(RUNS) if not item.name.startswith(".")]
    except FileNotFoundError:
        return None
    specs = [spec for name in names if (spec := read_json(RUNS / name / "spec.json"))]
    mine = [spec for spec in specs if spec.get("project") == project]
    if not mine:
        return None
    newest = max(mine, key=lambda spec: float(spec.get("created_at", 0)))
    ended = read_json(RUNS / newest["id"] / "exit") or {}
    return {**newest, "ended_at": ended.get("ended_at")}


def _outputs(run: dict[str, Any] | None) -> list[str]:
    if run is None:
        raise Refusal("not_found", "Nothing has run yet.", "Name a path: vmctl fetch PATH")
    if not run["outputs"]:
        raise Refusal(
            "not_found",
            f"The job {run['job']} lists no outputs.",
            f"Name a path, or add outputs to [jobs.{run['job']}] in vmctl.toml.",
        )
    return list(run["outputs"])


def _resolve(path: str, root: Path, run: dict[str, Any] | None) -> list[Path]:
    """Outputs of the last run, then its job's folder, then the root; the first that exists."""
    if path.startswith(("/", "~")):
        return _matches(Path(path).expanduser())
    if run is not None:
        folder = root / str(run["directory"])
        outputs = [match for output in run["outputs"] for match in _matches(folder / output)]
        named = [match for match in outputs if match.name == path.rstrip("/")]
        if named:
            return named[:1]
        if matches := _matches(folder / path):
            return matches
    return _matches(root / path)


def _matches(path: Path) -> list[Path]:
    """The path itself where it exists, else what it matches as a pattern."""
    if path.is_symlink() or path.exists():
        return [path]
    if not glob.has_magic(str(path)):
        return []
    return [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207


def _listing(wanted: str, place: Path) -> dict[str, Any]:
    real = Path(os.path.normpath(place))
    if not real.name:
        raise Refusal("invalid", f"'{wanted}' has no name to save it under.")
    top = real.stat()
    if stat.S_ISDIR(top.st_mode):
        kind, files = "dir", _tree(real)
    elif stat.S_ISREG(top.st_mode):
        kind = "file"
        files = [["file", "", top.st_size, top.st_mtime_ns, stat.S_IMODE(top.st_mode), ""]]
    else:
        raise Refusal("invalid", f"'{wanted}' is neither a file nor a folder.")
    return {"wanted": wanted, "base": real.name, "path": str(real), "kind": kind, "files": files}


def _tree(top: Path) -> list[list[Any]]:
    """[kind, relative path, size, mtime in ns, mode, link target] for what a folder holds."""
    entries: list[list[Any]] = []
    for place, folders, names in os.walk(top):
        for name in sorted([*folders, *names]):
            path = Path(place) / name
            found = path.lstat()
            relative = str(path.relative_to(top))
            mode = stat.S_IMODE(found.st_mode)
            if stat.S_ISLNK(found.st_mode):
                target = str(path.readlink())
                entries.append(["link", relative, 0, found.st_mtime_ns, mode, target])
            elif stat.S_ISDIR(found.st_mode):
                entries.append(["dir", relative, 0, found.st_mtime_ns, mode, ""])
            elif stat.S_ISREG(found.st_mode):
                size = found.st_size
                entries.append(["file", relative, size, found.st_mtime_ns, mode, ""])
    return entries


# -- still being written? --------------------------------------------------------------------


def _refuse_unfinished(found: list[dict[str, Any]], run: dict[str, Any] | None) -> None:
    paths = [
        (Path(item["path"]) / entry[1]).resolve()
        for item in found
        for entry in item["files"]
        if entry[0] == "file"
    ]
    writers = _writers(set(map(str, paths)))
    for path in paths:
        if str(path) in writers:
            raise _unfinished(path, f" by {writers[str(path)]}")
    # what a run wrote before it ended is whole once nobody has it open
    ended_at = float((run or {}).get("ended_at") or 0.0)
    quiet = run is None or run["id"] not in sessions()
    for path in paths:
        before = path.stat()
        if not (quiet and before.st_mtime <= ended_at):
            _watch(path, before)


def _watch(path: Path, before: os.stat_result) -> None:
    """Wait until the last write is two seconds old; a write meanwhile is a refusal."""
    while 0 <= time.time() - before.st_mtime < SETTLED_S:
        time.sleep(STEP_S)
        now = path.stat()
        if (now.st_size, now.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise _unfinished(path, "")


def _unfinished(path: Path, by: str) -> Refusal:
    return Refusal(
        "conflict",
        f"{path.name} is still being written{by}.",
        "Wait until it is done (vmctl ps), or take it as it is: vmctl fetch --force",
    )


def _writers(paths: set[str]) -> dict[str, str]:
    """Of these files, those that another process has open for writing, and which."""
    found: dict[str, str] = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            descriptors = list((process / "fd").iterdir())
        except OSError:  # ended meanwhile, or somebody else's
            continue
        for descriptor in descriptors:
            try:
                path = str(descriptor.readlink())
                if path in paths and _writable(process / "fdinfo" / descriptor.name):
                    found[path] = f"{(process / 'comm').read_text().strip()} ({process.name})"
            except OSError:  # closed meanwhile
                continue
    return found


def _writable(info: Path) -> bool:
    lines = info.read_text().splitlines()
    flags = next((line.split()[1] for line in lines if line.startswith("flags:")), "0")
    return int(flags, 8) & os.O_ACCMODE != os.O_RDONLY
