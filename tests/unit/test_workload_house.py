"""Untrusted files are opened in one module each: pictures, weights, zips. Read, not run."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What students train with, and the script that fetches its data.
SOURCES = sorted([*(ROOT / "workload").glob("*.py"), ROOT / "scripts/download_landscapes.py"])

# What opens untrusted files, and the modules that may call it.
OPENERS = {
    "Image.open": {"image_files"},
    "torch.load": {"checkpoint"},
    "zipfile.ZipFile": {"checkpoint", "download_landscapes"},
    "os.walk": set(),  # follows links without end, or nests its own calls
    "rglob": set(),
}
# Modules that run what a file says, or start programs.
FORBIDDEN = {"pickle", "marshal", "shelve", "subprocess", "tarfile", "xml", "yaml", "joblib"}


def called(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_untrusted_files_are_opened_in_one_module_each(path: Path) -> None:
    calls = [ast.unparse(call.func) for call in called(path)]
    for opener, modules in OPENERS.items():
        if path.stem not in modules:
            assert not [call for call in calls if f".{call}".endswith(f".{opener}")], opener


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_module_runs_what_a_file_says(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert not imported & FORBIDDEN
    for call in called(path):
        name = ast.unparse(call.func)
        assert name not in ("eval", "exec", "os.system", "os.popen"), name


def test_pictures_and_weights_are_opened_with_limits() -> None:
    (picture,) = [
        call
        for call in called(ROOT / "workload/image_files.py")
        if ast.unparse(call.func) == "Image.open"
    ]
    assert {keyword.arg for keyword in picture.keywords} == {"formats"}
    (weights,) = [
        call
        for call in called(ROOT / "workload/checkpoint.py")
        if ast.unparse(call.func) == "torch.load"
    ]
    said = {keyword.arg: ast.unparse(keyword.value) for keyword in weights.keywords}
    assert said["weights_only"] == "True"
