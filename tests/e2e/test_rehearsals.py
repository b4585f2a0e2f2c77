"""`vmctl emulator fault` and `vmctl emulator clock`: bad days that a user calls up."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.crash_points import HeldCloud
from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project


@pytest.fixture(scope="module")
def stepped() -> Iterator[tuple[Laptop, Path]]:
    """A laptop whose Compute Engine has a clock that only moves when it is told to."""
    base = public_folder("stepped")
    laptop = Laptop(base / "laptop", base / "emulator")
    folder = project(base / "rehearsal", BASE)
    laptop("emulator", "start", "--clock", "stepped", cwd=folder)
    yield laptop, folder
    laptop("emulator", "stop", cwd=folder, code=None)
    shutil.rmtree(base, ignore_errors=True)


def test_a_burst_of_refusals_is_waited_out_and_a_spot_machine_preempted_on_request(
    cloud: HeldCloud,
) -> None:
    cloud("emulator", "fault", "http", "status=429", "share=0.5")
    cloud("emulator", "fault", "latency", "seconds=0.01")
    cloud("up", "--gpu", "none", "--spot", "--machine", "n1-standard-1")
    assert "share=0.5" in cloud("emulator", "fault").stdout
    assert "No faults are in force" in cloud("emulator", "fault", "--clear").stdout
    assert [vm["status"] for vm in cloud.all("instances")] == ["RUNNING"]

    cloud("emulator", "fault", "preempt", "instance=tester-vm")
    eventually(lambda: cloud.all("instances")[0]["status"] == "TERMINATED", "taken back")
    assert "preempted" in cloud("status").stdout


def test_a_machine_that_is_not_there_cannot_be_taken_back(cloud: HeldCloud) -> None:
    told = cloud("emulator", "fault", "preempt", "instance=nobodys", code=2).stderr
    assert "Running: none" in told
    assert "instance=NAME" in told


def test_a_fault_that_nobody_knows_is_refused_with_those_that_there_are(cloud: HeldCloud) -> None:
    told = cloud("emulator", "fault", "flood", code=2).stderr
    assert "stockout" in told
    assert "vmctl emulator fault --help" in told


def test_a_stepped_clock_moves_on_request(stepped: tuple[Laptop, Path]) -> None:
    laptop, folder = stepped
    before = laptop.json("emulator", "clock", cwd=folder)
    assert before["kind"] == "stepped"
    assert laptop.json("emulator", "clock", cwd=folder) == before
    after = laptop.json("emulator", "clock", "90m", cwd=folder)
    assert after["now"] > before["now"]


def test_another_clock_than_the_one_that_runs_is_refused(stepped: tuple[Laptop, Path]) -> None:
    laptop, folder = stepped
    told = laptop("emulator", "start", "--clock", "real", cwd=folder, code=4).stderr
    assert "vmctl emulator stop && vmctl emulator start --clock real" in told
    laptop("emulator", "start", "--clock", "stepped", cwd=folder)


def test_a_real_clock_cannot_be_moved(cloud: HeldCloud) -> None:
    assert "only a stepped clock" in cloud("emulator", "clock", "1h", code=2).stderr


def test_a_clock_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    laptop = Laptop(tmp_path / "laptop", tmp_path / "emulator")
    told = laptop("emulator", "start", "--clock", "sundial", cwd=tmp_path, code=None)
    assert told.returncode != 0
    assert "unknown clock" in told.stderr
