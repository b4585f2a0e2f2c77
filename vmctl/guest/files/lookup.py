"""Find what a fetch asks for, and list what it holds."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ..paths import HOME, RUNS, workspace
from ..protocol import PART_SUFFIX, GuestError
from ..records import read_json
from ..runs.runs import alive_runs

TYPE_CHECKING = False  # typing is not imported: every start is waited for
if TYPE_CHECKING:
    from typing import Any

    from ..messages import FetchRequest, ListedEntry, ListedItem, RemoteListing

    Run = dict[str, Any]

PART_PREFIX = f"{PART_SUFFIX}-"  # of what a run's tree is about to share


def locate(request: FetchRequest) -> RemoteListing:
    """The files behind each wanted path, with sizes, times and modes; missing ones by name.

    `going` says that the project's newest run has not ended, so that what is missing may come.
    """
    _sweep()
    root = workspace(request["project"])
    run = last_run(request["project"])
    wanted: list[str] = request["paths"] or _outputs(run)
    found, missing = [], []
    left_out: list[str] = []
    for path in wanted:
        matches = _outermost(_resolve(path, root, run))
        found += [_listing(path, place, root, run, left_out) for place in matches]
        if not matches:
            missing.append(path)
    going = run is not None and run["going"]
    if run is not None and going:
        _mark_older(found, run)
    return {
        "found": found,
        "missing": missing,
        "left_out": left_out,
        "run": run["id"] if run else None,
        "going": going,
        "ended_at": (run or {}).get("ended_at"),
    }


def _sweep() -> None:
    """What a killed run's carrier left is brought home first; mostly there is nothing to import."""
    if any(RUNS.glob("[!.]*/tree.jsonl")):
        from ..runs.snapshot import sweep_now

        sweep_now()


def last_run(project: str) -> Run | None:
    """The spec of the project's newest run, with whether it goes on and when it ended."""
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
    going = not ended and newest["id"] in alive_runs()
    return {**newest, "ended_at": ended.get("ended_at"), "going": going}


def _outputs(run: Run | None) -> list[str]:
    if run is None:
        raise GuestError("not_found", "Nothing has run yet.", "Name a path: vmctl fetch PATH")
    if not run["outputs"]:
        raise GuestError(
            "not_found",
            f"The job {run['job']} lists no outputs.",
            f"Name a path, or add outputs to [jobs.{run['job']}] in vmctl.toml.",
        )
    return list(run["outputs"])


# -- where it is -----------------------------------------------------------------------------


def _tops(root: Path, run: Run | None) -> list[Path]:
    """The folders that a path may be below, the best first: the run's own tree, if it stands."""
    own = [RUNS / run["id"] / "tree"] if run is not None else []
    return [top for top in own if top.is_dir()] + [root]


def _resolve(path: str, root: Path, run: Run | None) -> list[Path]:
    """Outputs of the last run, then its job's folder, then the root; the first that has it."""
    if path.startswith(("/", "~")):
        try:
            place = Path(path).expanduser()
        except RuntimeError as error:
            raise GuestError("invalid", f"'{path}' names no user's home on the VM.") from error
        return _matches(Path("/"), str(place)[1:])
    tops = _tops(root, run)
    if os.path.normpath(path) == ".":  # the whole project, wherever its jobs run
        return _both(tops, "", path)
    if run is not None:
        folder = str(run["directory"])
        outputs = [match for output in run["outputs"] for match in _both(tops, folder, output)]
        named = [match for match in outputs if match.name == path.rstrip("/")]
        if named:
            return named[:1]
        if matches := _both(tops, folder, path):
            return matches
    return _both(tops, "", path)


def _both(tops: list[Path], folder: str, path: str) -> list[Path]:
    """What a path names below any of the tops, each name where it is best.

    Where a file is the same in two, the last: a run's tree goes when the run has ended.
    """
    found: dict[str, Path] = {}
    for top in tops:
        for match in _matches(top / folder, path):
            name = os.path.relpath(match, top)
            if name not in found or _is_one(match, found[name]):
                found[name] = match
    return list(found.values())


def _is_one(path: str | Path, other: str | Path) -> bool:
    try:
        return Path(path).samefile(other)
    except OSError:
        return False


def _matches(folder: Path, path: str) -> list[Path]:
    """The path itself where it exists, else what it matches as a pattern, `**` included."""
    place = folder / path
    try:
        if place.is_symlink() or place.exists():
            return [place]
    except OSError as error:  # a name that no file system takes
        raise GuestError("invalid", f"'{path}' cannot be a path: {error.strerror}.") from error
    if not any(sign in path for sign in "*?["):
        return []
    import glob

    found = glob.glob(path, root_dir=folder, recursive=True)  # noqa: PTH207  (knows root_dir)
    return [folder / name for name in sorted(found) if not name.endswith(PART_SUFFIX)]


def _outermost(places: list[Path]) -> list[Path]:
    """Each place once, without those inside a folder that is there as a whole."""
    paths = dict.fromkeys(os.path.normpath(place) for place in places)
    folders = {path for path in paths if Path(path).is_dir()}
    return [
        Path(path)
        for path in paths
        if not any(str(parent) in folders for parent in Path(path).parents)
    ]


# -- what it holds ---------------------------------------------------------------------------


def _listing(
    wanted: str, real: Path, root: Path, run: Run | None, left_out: list[str]
) -> ListedItem:
    if not real.name or real.name.endswith(PART_SUFFIX):
        raise GuestError("invalid", f"'{wanted}' has no name to save it under.")
    try:
        top = real.stat()
    except FileNotFoundError as error:
        raise GuestError("not_found", f"'{wanted}' is a link to nothing on the VM.") from error
    tops = _tops(root, run)
    item: ListedItem = {
        "wanted": wanted,
        "base": real.name,
        "inside": _inside(real, [*tops, HOME]),
        "path": str(real),
        "kind": "file",
        "own": {},
        "files": [],
    }
    if stat.S_ISREG(top.st_mode):
        entry = ["file", "", top.st_size, top.st_mtime_ns, stat.S_IMODE(top.st_mode), ""]
        item["files"] = [entry]
        return item
    if not stat.S_ISDIR(top.st_mode):
        raise GuestError("invalid", f"'{wanted}' is neither a file nor a folder.")
    files = _tree(real, left_out)
    if real.is_relative_to(tops[0]) and len(tops) > 1:
        shared = root / real.relative_to(tops[0])
        if shared.is_dir():
            files, item["own"] = _overlaid(_tree(shared, left_out), files, str(shared), str(real))
            item["path"] = str(shared)
    item["kind"], item["files"] = "dir", files
    return item


def _overlaid(
    shared: list[ListedEntry], own: list[ListedEntry], there: str, here: str
) -> tuple[list[ListedEntry], dict[str, str]]:
    """What the workspace has of a folder, with the run's own files in place of its; and these.

    A link of the run's tree stands for what the workspace has there.
    """
    entries = {entry[1]: entry for entry in shared}
    mine: dict[str, str] = {}
    for entry in own:
        known = entries.get(entry[1])
        same = known is not None and _is_one(f"{here}/{entry[1]}", f"{there}/{entry[1]}")
        if known is None or (known[0] == "file" == entry[0] and not same):
            entries[entry[1]] = entry
            if entry[0] == "file":
                mine[entry[1]] = f"{here}/{entry[1]}"
    inside = {name for name, entry in entries.items() if entry[0] == "dir"}
    kept = [
        entry
        for name, entry in entries.items()
        if "/" not in name or name.rpartition("/")[0] in inside
    ]
    return kept, {name: path for name, path in mine.items() if path != f"{there}/{name}"}


def _inside(place: Path, tops: list[Path]) -> str:
    """The path below the project's folder, else below the home, else below the root."""
    for top in tops:
        if place.is_relative_to(top) and place != top:
            return str(place.relative_to(top))
    return str(place).lstrip("/")


def _tree(top: Path, left_out: list[str]) -> list[ListedEntry]:
    """[kind, relative path, size, mtime in ns, mode, link target] for what a folder holds."""
    entries: list[ListedEntry] = []
    start = len(str(top)) + 1

    def refuse(error: OSError) -> None:
        raise error  # a folder that cannot be read must not look empty

    for place, folders, names in os.walk(top, onerror=refuse):
        for name in sorted([*folders, *names]):
            if name.endswith(PART_SUFFIX) or name.startswith(PART_PREFIX):
                continue
            path = f"{place}/{name}"
            try:
                found = os.lstat(path)
            except FileNotFoundError:  # removed meanwhile
                continue
            kind, link = _kind(found.st_mode), ""
            if kind == "link":
                link = os.readlink(path)  # noqa: PTH115
            if not kind:
                left_out.append(path[start:])
                continue
            size = found.st_size if kind == "file" else 0
            mode = stat.S_IMODE(found.st_mode)
            entries.append([kind, path[start:], size, found.st_mtime_ns, mode, link])
    return entries


def _kind(mode: int) -> str:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else ""


def _mark_older(found: list[ListedItem], run: Run) -> None:
    """Outputs that are an earlier run's, because this one has not written them yet."""
    began_ns = int(float(run["created_at"]) * 1e9)
    for item in found:
        if item["wanted"] in run["outputs"]:
            newest = max((entry[3] for entry in item["files"] if entry[0] == "file"), default=0)
            item["older"] = bool(newest) and newest < began_ns


def place_of(item: ListedItem, entry: ListedEntry) -> str:
    """Where the bytes of a listed file are."""
    name = entry[1]
    own: str | None = item.get("own", {}).get(name)
    return own or (f"{item['path']}/{name}" if name else str(item["path"]))
