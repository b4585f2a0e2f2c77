"""A built wheel holds all that it needs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_built_wheel_runs(tmp_path: Path) -> None:
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "-w",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("vmctl-*.whl")
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
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
    shipped = {p.relative_to(target).as_posix() for p in (target / "vmctl").rglob("*")}
    checkout = {
        p.relative_to(ROOT).as_posix()
        for p in (ROOT / "vmctl").rglob("*")
        if p.is_file() and "__pycache__" not in p.parts
    }
    assert checkout - shipped == set(), "every file of the package is in the wheel"
    assert not any(name.startswith(("workload", "tests")) for name in shipped)
