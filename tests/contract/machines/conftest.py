"""Machines for the tests that need one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.machines.host import Bench, opened
from tests.harness.folders import public_folder
from vmctl.emulator import machines


@pytest.fixture
def folder() -> Iterator[Path]:
    """Like tmp_path, but open to the machines' uid on the way."""
    path = public_folder("machines")
    yield path
    machines.delete_disk(path)


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    with opened(folder) as bench:
        yield bench


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    """One machine, "1", for the tests that only look."""
    path = public_folder("machines")
    try:
        with opened(path) as bench:
            bench.boot("1", gpu="nvidia-tesla-t4", gpu_count=2)
            yield bench
    finally:
        machines.delete_disk(path)


@pytest.fixture
def key(folder: Path) -> Path:
    file = folder / "client-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file
