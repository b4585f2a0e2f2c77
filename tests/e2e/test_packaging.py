"""A built wheel holds all that it needs, and a source archive the workload with its photos."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_a_built_wheel_runs(tmp_path: Path) -> None:
    clone = tmp_path / "clone"  # not the checkout, where an old build/ could still ship
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(lambda name: (ROOT / name).is_file(), filter(None, names.split("\0"))):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    # the source archive, and from that the wheel
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), str(clone)]
    subprocess.run(build, check=True, capture_output=True)
    (archive,) = tmp_path.glob("vmctl-*.tar.gz")
    with tarfile.open(archive) as file:
        packed = {name.partition("/")[2] for name in file.getnames()}
    photos = {p.relative_to(clone).as_posix() for p in clone.glob("workload/landscapes/*/*.jpg")}
    assert len(photos) == 234 and photos <= packed
    assert {"workload/landscapes/CREDITS.md", "workload/unet.py", "scripts/demo"} <= packed
    (wheel,) = tmp_path.glob("vmctl-*.whl")
    target = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)  # what pip does with one that is Python alone
    # the installed copy, not the checkout: its folder comes first on the path
    environ = {**os.environ, "PYTHONPATH": str(target), "VMCTL_LOCAL": "1"}
    environ |= {"VMCTL_HOME": str(tmp_path / "home"), "VMCTL_EMULATOR_HOME": str(tmp_path / "emu")}

    def python(code: str) -> str:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path,
            env=environ,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    assert str(target) in python("import vmctl; print(vmctl.__file__)")
    assert "vmctl" in python("import sys; from vmctl.__main__ import main; sys.exit(main(['-h']))")
    assert files_below(target) == files_below(clone), "the package, whole, and nothing else"
    assert not any((target / room).exists() for room in ("workload", "tests", "scripts"))


def files_below(folder: Path) -> set[str]:
    """The files of the package in a folder."""
    found = (path for path in (folder / "vmctl").rglob("*") if path.is_file())
    return {p.relative_to(folder).as_posix() for p in found if "__pycache__" not in p.parts}
