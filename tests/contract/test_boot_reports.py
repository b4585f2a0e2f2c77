"""guest/machine/boot_report.py against real processes, a real lock and a real interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmctl.guest.machine import boot_report

SOURCE = Path(boot_report.__file__).read_text(encoding="utf-8")
HOLD = """
import fcntl, sys
with open(sys.argv[1], "a") as lock:
    fcntl.lockf(lock, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test puts programs that the VM has; nothing else of that name is found."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    return folder


def put(folder: Path, name: str, script: str) -> None:
    """A program, there from one moment to the next."""
    part = folder / f".{name}"
    part.write_text(f"#!/bin/sh\n{script}\n")
    part.chmod(0o755)
    part.rename(folder / name)


def prepared(home: Path, python: str = sys.executable) -> None:
    """What set-up leaves when it is done."""
    folder = home / ".vmctl"
    folder.mkdir()
    (folder / "part").write_text(json.dumps({"python": python}))
    (folder / "part").rename(folder / "machine.json")


class Watched:
    """The program as the VM runs it."""

    def __init__(self, **request: Any) -> None:
        words = [sys.executable, "-IS", "-c", SOURCE, json.dumps(request)]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        with self.process:
            self.process.kill()

    def reports(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip():  # an empty one says only that the link is alive
                yield json.loads(line)


def test_a_driver_and_a_lock_are_reported_as_they_come(tools: Path, tmp_path: Path) -> None:
    with Watched(gpus=1, torch=False) as watched:
        reports = watched.reports()
        first = next(reports)
        assert first["driver"]["code"] == 127
        put(tools, "nvidia-smi", "echo NVIDIA-SMI has failed; exit 9")
        assert next(reports)["driver"] == {"code": 9, "said": "NVIDIA-SMI has failed"}
        put(tools, "nvidia-smi", "echo Tesla T4, 580.95")
        assert next(reports)["driver"] == {"code": 0, "said": "Tesla T4, 580.95"}
        assert list(reports) == []
        assert watched.process.wait(20) == 0, "with nothing more to come it ends"


def test_a_system_that_still_starts_is_reported(tools: Path) -> None:
    put(tools, "systemctl", '[ "$1" = is-active ] && echo activating || echo starting')
    with Watched(gpus=0, torch=False) as watched:
        reports = watched.reports()
        first = next(reports)
        assert (first["starting"], first["startup"]) == (True, "activating")
        put(tools, "systemctl", '[ "$1" = is-active ] && echo inactive || echo running')
        *_, last = reports
        assert (last["starting"], last["startup"]) == (False, "inactive")
        assert watched.process.wait(20) == 0


def test_it_ends_with_its_listener(tools: Path) -> None:
    with Watched(gpus=1, torch=False) as watched:
        next(watched.reports())
        assert watched.process.stdin is not None
        watched.process.stdin.close()
        assert watched.process.wait(20) == 0


def test_torch_is_not_asked_where_the_gpu_is_simulated(tools: Path, tmp_path: Path) -> None:
    table = 'echo "| Driver Version: 580.00-simulated     CUDA Version: SIMULATED |"'
    put(tools, "nvidia-smi", f'[ $# -gt 0 ] && echo "Tesla T4 (simulated), 580" || {table}')
    prepared(tmp_path)
    with Watched(gpus=1, torch=True) as watched:
        *_, last = watched.reports()
    assert last["torch"]["simulated"] is True
    assert last["torch"]["driver_cuda"] == "SIMULATED"


def test_a_torch_that_cannot_be_imported_says_why(tools: Path, tmp_path: Path) -> None:
    put(tools, "nvidia-smi", '[ $# -gt 0 ] && echo "T4, 580" || echo "CUDA Version: 12.9"')
    broken = tmp_path / "python"
    (tmp_path / "torch.py").write_text("raise OSError('libcudnn.so.9: cannot open')\n")
    broken.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    broken.chmod(0o755)
    with Watched(gpus=1, torch=True) as watched:
        reports = watched.reports()
        assert next(reports)["torch"] is None, "set-up has not found the interpreter yet"
        prepared(tmp_path, str(broken))
        *_, last = reports
    assert last["torch"]["said"] == "OSError: libcudnn.so.9: cannot open"
    assert last["torch"]["driver_cuda"] == "12.9"


def test_a_torch_that_sees_cuda_is_asked_once_in_a_boot(tools: Path, tmp_path: Path) -> None:
    put(tools, "nvidia-smi", '[ $# -gt 0 ] && echo "T4, 580" || echo "CUDA Version: 13.0"')
    packages = tmp_path / "packages"
    packages.mkdir()
    told: dict[str, Any] = {"version": "2.9.0", "cuda": "12.9", "available": True, "count": 1}
    told["beside"] = str(packages)
    asked = tmp_path / "asked"
    put(tmp_path, "python", f"echo asked >>{asked}; echo '{json.dumps(told)}'")
    prepared(tmp_path, str(tmp_path / "python"))
    for times in (1, 1, 2):
        if times == 2:
            (packages / "torch-2.8.0.dist-info").mkdir()
        with Watched(gpus=1, torch=True) as watched:
            *_, last = watched.reports()
        assert last["torch"] == {**told, "driver_cuda": "13.0"}
        assert asked.read_text() == "asked\n" * times
    record = tmp_path / ".vmctl" / "torch.json"
    record.write_text(record.read_text().replace('"of": ["', '"of": ["another boot, not '))
    with Watched(gpus=1, torch=True) as watched:
        list(watched.reports())
    assert asked.read_text() == "asked\n" * 3


def test_who_holds_the_package_managers_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "lock-frontend"
    monkeypatch.setattr(boot_report, "LOCK", str(file))
    assert boot_report.lock_holder() == ""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"held\n"
        assert boot_report.lock_holder().endswith(f"(process {holder.pid})")
        holder.stdin.close()
    assert boot_report.lock_holder() == ""
