"""What a push may overwrite and delete, and the record of what it put here.

The record in ~/.vmctl/push/PROJECT.json maps each pushed path to the fingerprints that a push
gave it (`files`). Paths that were there already and the same are only `met`: a later push may
overwrite them, because what is lost then came from the other side, but never delete them.
Begin writes the union of the old record and the new list before anything moves, so a push that
dies in the middle still leaves every pushed path on record; end deletes and shrinks it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import Any

from .layout import STATE, Refusal, ensure, read_json, workspace, write_json

Fingerprint = list[Any]
DIRECTORY: Fingerprint = ["dir"]
SHRINK = 10  # a push of less than a tenth of the last one is taken for a mistake


# -- what others on the VM ask -----------------------------------------------------------------


def record(project: str) -> dict[str, Any]:
    """The record of what was pushed last; empty before the first push."""
    return read_json(_record(project)) or {}


def pushed(project: str) -> dict[str, dict[str, Any]]:
    """Every path of the last pushed tree: kind (file, link, dir), sha256 ("" where unknown),
    size in bytes, mtime_ns, mode, link."""
    known = record(project)
    newest = {path: prints[-1] for path, prints in known.get("files", {}).items()}
    found = {}
    for path, entry in {**known.get("met", {}), **newest}.items():
        kind, size, mtime_s = (*entry, 0, 0)[:3] if entry[0] == "file" else (entry[0], 0, 0)
        found[path] = {
            "kind": kind,
            "sha256": "",
            "size": size,
            "mtime_ns": mtime_s * 10**9,
            "mode": 0,
            "link": entry[1] if kind == "link" else "",
        }
    return found


def changed(project: str) -> list[list[str]]:
    """[path, "changed" or "deleted"] for each pushed path that is no longer as it was pushed."""
    root = workspace(project)
    known = record(project)
    files = {path: [entry] for path, entry in known.get("met", {}).items()} | known.get("files", {})
    found = []
    for path, prints in sorted(files.items()):
        now = fingerprint(root / path)
        if now is None:
            found.append([path, "deleted"])
        elif now not in prints:
            found.append([path, "changed"])
    return found


# -- begin and end -----------------------------------------------------------------------------


def begin(request: dict[str, Any]) -> dict[str, Any]:
    """Check, then record the union; answers what would be deleted, kept, or lost.

    `entries` is [path, fingerprint] for each file, link and empty directory. Files here that
    no push put here, or that changed since, come back as `suspects` with their SHA-256, and
    nothing is recorded until the request names them in `accept` or says `force`.
    """
    project, force = request["project"], request["force"]
    root = workspace(project)
    before = record(project)
    files: dict[str, list[Fingerprint]] = before.get("files", {})
    entries: dict[str, Fingerprint] = dict(request["entries"])
    if not force:
        _guard(before, files, entries, request["origin"])
    accepted = set(request["accept"])
    clashes = _clashes(root, entries, files, force)
    suspects = []
    met: dict[str, Fingerprint] = {}
    for path, wanted in entries.items():
        now = fingerprint(root / path)
        if now is None or now in files.get(path, []) or _below(path, clashes):
            continue
        if path not in files and (now == wanted or path in accepted):
            met[path] = wanted
        elif now in (wanted, DIRECTORY, before.get("met", {}).get(path)) or path in accepted:
            continue
        elif not force:
            suspects.append([path, path in files, _sha256(root / path)])
    delete, keep = _partition(root, files, entries)
    answer = {"suspects": suspects, "delete": delete, "keep": keep, "earlier": len(files)}
    if request["dry_run"] or suspects:
        return {**answer, "token": "", "temp_dir": ""}
    token = secrets.token_hex(8)
    ours = {path: wanted for path, wanted in entries.items() if path not in met}
    union = {path: [*files.get(path, []), wanted][-4:] for path, wanted in ours.items()}
    ensure(_record(project).parent)
    write_json(
        _record(project),
        {
            "origin": request["origin"],
            "place": request["place"],
            "files": {**files, **union},
            "next": ours,
            "met": met,
            "token": token,
        },
    )
    root.mkdir(parents=True, exist_ok=True)
    for path in clashes:
        _remove(root, path)
    return {**answer, "token": token, "temp_dir": _temp_dir(project, root)}


def end(request: dict[str, Any]) -> dict[str, Any]:
    """After the transfer: delete what was pushed earlier and is no longer wanted; shrink."""
    project = request["project"]
    root = workspace(project)
    before = record(project)
    if before.get("token") != request["token"]:
        raise Refusal("conflict", "Another push of this project began meanwhile.", "vmctl push")
    entries: dict[str, Fingerprint] = before["next"]
    wanted_here = {**entries, **before["met"]}
    delete, keep = _partition(root, before["files"], wanted_here)
    parents = {str(parent) for path in wanted_here for parent in Path(path).parents}
    for path in delete:
        _remove(root, path)
        for parent in Path(path).parents:
            if str(parent) in parents or not _rmdir(root / parent):
                break
    final = {path: [wanted] for path, wanted in entries.items()}
    # kept ones stay on record with the fingerprint that a push gave them
    final |= {path: before["files"][path] for path in keep}
    shrunk = {key: before[key] for key in ("origin", "place", "met")}
    write_json(_record(project), {**shrunk, "files": final})
    shutil.rmtree(STATE / "tmp" / f"push-{project}", ignore_errors=True)
    return {"deleted": delete, "kept": keep}


def fingerprint(path: Path) -> Fingerprint | None:
    """What a push compares: size and seconds of a file, target of a link; None when absent."""
    try:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            return ["link", str(path.readlink())]
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISDIR(found.st_mode):
        return DIRECTORY
    if stat.S_ISREG(found.st_mode):
        return ["file", found.st_size, int(found.st_mtime)]
    return ["other"]


def _record(project: str) -> Path:
    return STATE / "push" / f"{project}.json"


def _guard(
    before: dict[str, Any], files: dict[str, Any], entries: dict[str, Any], origin: str
) -> None:
    if files and before.get("origin") != origin:
        raise Refusal(
            "conflict",
            f"What is on the VM was pushed from {before.get('place')}.",
            "Give this folder's VM another name (vmctl --name NAME up), "
            "or replace what is there: vmctl push --force",
        )
    if len(entries) * SHRINK < len(files):
        raise Refusal(
            "conflict",
            f"Only {len(entries)} files are here, the last push had {len(files)}: "
            "the rest would be deleted on the VM.",
            "Look with vmctl push --dry-run --force; if it is right: vmctl push --force",
        )


def _clashes(
    root: Path, entries: dict[str, Fingerprint], files: dict[str, list[Fingerprint]], force: bool
) -> list[str]:
    """What stands where another kind of thing must come, and may go."""
    found: list[str] = []
    seen: set[str] = set()
    for path, wanted in entries.items():
        for parent in reversed(Path(path).parents[:-1]):
            name = str(parent)
            if name in seen:
                continue
            seen.add(name)
            now = fingerprint(root / parent)
            if now not in (None, DIRECTORY) and not _below(name, found):
                if now not in files.get(name, []) and not force:
                    raise _in_the_way(name, "a folder")
                found.append(name)
        if wanted != DIRECTORY and not _below(path, found):
            if fingerprint(root / path) != DIRECTORY:
                continue
            inside = [str(item.relative_to(root)) for item in _leaves(root / path)]
            if any(fingerprint(root / leaf) not in files.get(leaf, []) for leaf in inside):
                raise _in_the_way(path, "a file")
            found.append(path)
    return found


def _in_the_way(path: str, wanted: str) -> Refusal:
    return Refusal(
        "conflict",
        f"On the VM '{path}' stands where {wanted} must come, and no push put it there.",
        "Move it away with vmctl ssh, then push again.",
    )


def _leaves(folder: Path) -> list[Path]:
    return [
        Path(place) / name
        for place, folders, names in os.walk(folder)
        for name in [*names, *(item for item in folders if (Path(place) / item).is_symlink())]
    ]


def _below(path: str, tops: list[str]) -> bool:
    return any(path == top or path.startswith(f"{top}/") for top in tops)


def _partition(
    root: Path, files: dict[str, list[Fingerprint]], entries: dict[str, Fingerprint]
) -> tuple[list[str], list[str]]:
    """Of what was pushed and is no longer wanted: what is as pushed, and what changed since."""
    parents = {str(parent) for path in entries for parent in Path(path).parents}
    delete: list[str] = []
    keep: list[str] = []
    for path in sorted(files.keys() - entries.keys(), reverse=True):
        if not _inside(root, path) or path in parents:
            continue
        now = fingerprint(root / path)
        if now is None:
            continue
        (delete if now in files[path] else keep).append(path)
    return delete, keep


def _inside(root: Path, path: str) -> bool:
    """Whether every folder on the way is a real one: nothing is deleted through a link."""
    return all(
        fingerprint(root / parent) in (None, DIRECTORY) for parent in Path(path).parents[:-1]
    )


def _remove(root: Path, path: str) -> None:
    if not _inside(root, path):
        return
    target = root / path
    if fingerprint(target) == DIRECTORY:
        for leaf in _leaves(target):
            leaf.unlink()
        for place, _, _ in os.walk(target, topdown=False):
            _rmdir(Path(place))
    else:
        target.unlink(missing_ok=True)


def _rmdir(folder: Path) -> bool:
    try:
        folder.rmdir()
    except OSError:
        return False
    return True


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return ""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def _temp_dir(project: str, root: Path) -> str:
    """Where rsync builds files before it renames them; "" when that is another file system."""
    folder = STATE / "tmp" / f"push-{project}"
    shutil.rmtree(folder, ignore_errors=True)
    ensure(folder)
    return str(folder) if folder.stat().st_dev == root.stat().st_dev else ""
