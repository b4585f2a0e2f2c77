"""Packages for pip that need no network: wheels made here, and one whose folder builds itself."""

from __future__ import annotations

import zipfile
from pathlib import Path

# the smallest build backend: pyproject.toml names it, and pip downloads nothing for it
BACKEND = """\
import pathlib, zipfile

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder, name), "w") as wheel:
        for path in pathlib.Path("{name}").rglob("*.py"):
            wheel.write(path)
        about = "{name}-{version}.dist-info/"
        wheel.writestr(about + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\n"
                       "Version: {version}\\n{requires}")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr(about + "RECORD", "")
    return name
"""
PYPROJECT = """\
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""


def make_wheel(folder: Path, name: str, version: str, text: str) -> Path:
    """A wheel of one module."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info/"
    with zipfile.ZipFile(made, "w") as wheel:
        wheel.writestr(f"{name}.py", text)
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        wheel.writestr(f"{about}METADATA", metadata)
        wheel.writestr(f"{about}WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}RECORD", "")
    return made


def package_files(name: str, main: str, *requires: str) -> dict[str, str]:
    """The files of a package with one module, `main`, by their paths."""
    listed = "".join(f"Requires-Dist: {item}\\n" for item in requires)
    backend = BACKEND.format(name=name, version="0.1", requires=listed)
    return {
        "pyproject.toml": PYPROJECT,
        "backend.py": backend,
        f"{name}/__init__.py": "",
        f"{name}/main.py": main,
    }


def pip_settings(home: Path, wheels: Path) -> None:
    """Let pip there know these wheels alone, whatever the computer's own settings are."""
    file = home / ".config/pip/pip.conf"
    file.parent.mkdir(parents=True)
    file.write_text(f"[global]\nno-index = true\nfind-links = {wheels}\n")
