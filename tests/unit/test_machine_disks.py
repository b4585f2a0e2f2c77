"""The watch over machines' disks: who writes more than fits is switched off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmctl.emulator.machines import bounds
from vmctl.emulator.machines.bounds import Disk, DiskWatch

GB = 1 << 30


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> dict[Path, int]:
    """What is on each disk, by its folder."""
    monkeypatch.setattr(bounds, "GROWTH", -(1 << 60))  # measured at each check
    monkeypatch.setattr(bounds, "CHECK_S", 3600.0)  # by the test only
    return {}


@pytest.fixture
def watch(tmp_path: Path, sizes: dict[Path, int]) -> Iterator[DiskWatch]:
    made = DiskWatch(tmp_path, sizes.__getitem__)
    yield made
    made.close()


def test_a_grown_disk_holds_more(watch: DiskWatch, sizes: dict[Path, int]) -> None:
    ended: list[str] = []
    for name in ("boot", "data"):
        sizes[Path(name)] = 0
        watch.add(name, Disk(Path(name), 10 * GB, os.getpid(), ended.append))
    watch.check()
    sizes[Path("data")] = 9 * GB
    watch.check()
    watch.resize("data", 20 * GB)
    watch.resize("ended", 20 * GB)
    watch.check()
    sizes[Path("data")] = 19 * GB
    watch.check()
    assert ended == []
    sizes[Path("boot")] = 11 * GB
    watch.check()
    assert ended == ["its disk is full: 11.0 GiB are on it"]
    watch.remove("boot")
    sizes[Path("data")] = 21 * GB
    watch.check()
    assert ended[1:] == ["its disk is full: 21.0 GiB are on it"]
