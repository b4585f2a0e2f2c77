"""The arrows of the house: imports go down only, and heavy ones wait until they are needed."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "vmctl"

# Who may import whom. A room that is not named may import nothing of vmctl.
ARROWS = {
    "__main__": {"cli", "domain"},
    "cli": {"cli", "workflows", "config", "domain"},
    "workflows": {"workflows", "gce", "ssh", "guest", "config", "folders", "clock", "domain"},
    "gce": {"gce", "config", "folders", "clock", "domain", "data"},
    "ssh": {"ssh", "guest", "config", "folders", "clock", "domain"},
    "guest": {"guest"},
    "config": {"domain"},
    "folders": {"domain"},
    "clock": {"domain"},
    "domain": {"domain"},
    "emulator": {"emulator"},
}
SOLE_IMPORTERS = {
    "googleapiclient": {"gce"},
    "google": {"gce"},
    "google_auth_httplib2": {"gce"},
    "httplib2": {"gce"},
    "fabric": {"ssh"},
    "paramiko": {"ssh"},
    "starlette": {"emulator"},
    "uvicorn": {"emulator"},
    "jsonschema": {"emulator"},
    "referencing": {"emulator"},
    "typer": {"cli", "__main__"},
    "rich": {"cli"},
}
PURE = {
    "abc", "__future__", "base64", "binascii", "collections", "csv", "dataclasses", "datetime",
    "difflib", "enum", "fnmatch", "functools", "hashlib", "io", "ipaddress", "itertools", "json",
    "math", "posixpath", "re", "shlex", "string", "textwrap", "types", "typing",
    "unicodedata", "urllib",
}  # fmt: skip


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).parts[0].removesuffix(".py"), path


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, inside functions and under TYPE_CHECKING, too."""
    package = ".".join(path.relative_to(ROOT).with_suffix("").parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                stem = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*stem, base]).rstrip(".")
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in imports(path))
    return {parts[1] for parts in names if parts[0] == "vmctl" and len(parts) > 1}


@pytest.mark.parametrize(("room", "path"), [(r, p) for r, p in modules() if r != "__init__"])
def test_imports_go_down_only(room: str, path: Path) -> None:
    rooms = {name for name, _ in modules()}
    assert rooms_imported(path) & rooms <= ARROWS.get(room, set())


@pytest.mark.parametrize(("room", "path"), list(modules()))
def test_a_library_has_one_room_that_imports_it(room: str, path: Path) -> None:
    for name in imports(path):
        allowed = SOLE_IMPORTERS.get(name.split(".")[0])
        assert allowed is None or room in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "domain").glob("*.py")), ids=lambda p: p.name)
def test_the_domain_is_pure(path: Path) -> None:
    # of pathlib only the paths that never touch a disk
    named = {n for n in imports(path) if n not in {"pathlib", "pathlib.PurePosixPath"}}
    foreign = {n.split(".")[0] for n in named} - {"vmctl"}
    assert foreign <= PURE, f"{path} imports {foreign - PURE}"


GUESTS = [PACKAGE / "guest", PACKAGE / "emulator" / "machines" / "guest"]


@pytest.mark.parametrize(
    "path", sorted(p for folder in GUESTS for p in folder.rglob("*.py")), ids=lambda p: p.name
)
def test_guest_code_needs_the_standard_library_only(path: Path) -> None:
    foreign = {n.split(".")[0] for n in imports(path)} - {"vmctl"}
    assert foreign <= set(sys.stdlib_module_names), path


HEAVY = ("googleapiclient", "google", "paramiko", "fabric", "torch", "starlette", "pathspec")


@pytest.mark.parametrize("words", [["--help"], ["up", "--help"], ["run", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    program = (
        "import json, sys; from vmctl.__main__ import main; code = main(sys.argv[1:]);"
        "print('\\n' + json.dumps([code, sorted(sys.modules)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    code, loaded = json.loads(done.stdout.splitlines()[-1])
    assert code == 0
    assert "vmctl" in done.stdout
    assert not {name.split(".")[0] for name in loaded} & set(HEAVY)


def starts_git(path: Path) -> list[int]:
    """The lines of a file that name git as a program: the word itself, or a shell line with it."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.search(r"(^|/|[;&|(]\s*)git( -| [a-z-]+( |$)|$)", node.value)
    ]


@pytest.mark.parametrize(
    "path",
    sorted(p for room in ("vmctl", "workload", "scripts") for p in (ROOT / room).rglob("*.py")),
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_git_is_started_in_one_module(path: Path) -> None:
    if path == PACKAGE / "workflows" / "syncing" / "git.py":
        assert starts_git(path)
    else:
        assert not starts_git(path)
