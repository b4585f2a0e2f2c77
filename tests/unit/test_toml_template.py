"""pyproject.toml: what is imported is declared, within bounds, and torch only where it is used."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# modules that are not called like the distribution that brings them
BROUGHT_BY = {"googleapiclient": "google-api-python-client", "google": "google-auth"}


BY_NAME = {"wsproto"}  # uvicorn imports what the emulator names to it


def name_of(requirement: str) -> str:
    return re.split(r"[<>=!~ \[;]", requirement)[0]


def foreign_imports() -> set[str]:
    """The third-party modules that vmctl/ imports, inside functions, too."""
    found = set()
    for path in (ROOT / "vmctl").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.split(".")[0])
    # the machines' first process finds its own package under this name
    return found - set(sys.stdlib_module_names) - {"vmctl", "guest"}


def test_every_import_is_a_declared_dependency_and_every_dependency_is_imported() -> None:
    server = (ROOT / "vmctl/emulator/server.py").read_text(encoding="utf-8")
    by_name = {name for name in BY_NAME if f'"{name}"' in server}
    needed = {BROUGHT_BY.get(name, name).replace("_", "-") for name in foreign_imports()} | by_name
    assert needed == {name_of(requirement) for requirement in PROJECT["dependencies"]}


@pytest.mark.parametrize(
    "requirement", [*PROJECT["dependencies"], *(r for extra in EXTRAS.values() for r in extra)]
)
def test_a_dependency_is_bounded_on_both_sides(requirement: str) -> None:
    assert re.search(r">=\d", requirement), "the oldest that works"
    assert re.search(r",<\d", requirement), "before the next one that may break"


def test_torch_comes_with_the_workload_only() -> None:
    with_torch = {
        extra for extra, names in EXTRAS.items() if "torch" in {name_of(name) for name in names}
    }
    assert with_torch == {"workload"}
    assert "torch" not in {name_of(name) for name in PROJECT["dependencies"]}
