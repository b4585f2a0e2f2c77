"""Another user of the same computer: what an emulator keeps is out of reach, whatever its modes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.machines.host import SOMEBODY, Bench, needs_root, needs_sandbox, opened
from tests.harness.emulator import Emulator
from tests.harness.folders import public_folder, remove
from vmctl.emulator import machines

# What somebody gets at, of paths that he was told; run as him.
REACH = """
import json, os, subprocess, sys
found = []
for path in json.load(sys.stdin):
    try:
        os.stat(path)
        found.append(path)
    except OSError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Neighbour:
    """An ordinary user of this computer who owns nothing here."""

    uid: int = SOMEBODY

    def run(self, *argv: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, input=text, capture_output=True, text=True, cwd="/", check=False, timeout=60,
            user=self.uid, group=self.uid, extra_groups=[],
        )  # fmt: skip

    def reaches(self, folder: Path) -> list[str]:
        """Every path below a folder that he finds."""
        every = [str(folder)]
        for base, folders, files in os.walk(folder):
            every += [os.path.join(base, name) for name in (*folders, *files)]  # noqa: PTH118
        assert len(every) > 20
        told = self.run("/usr/bin/python3", "-I", "-c", REACH, text=json.dumps(every))
        found: list[str] = json.loads(told.stdout)
        return found


@pytest.fixture(scope="module")
def path() -> Iterator[Path]:
    made = public_folder("neighbour")
    yield made
    machines.delete_disk(made)


@pytest.fixture(scope="module")
def bench(path: Path) -> Iterator[Bench]:
    with opened(path) as made:
        made.boot("1")
        yield made


@needs_root
@needs_sandbox
def test_a_setuid_program_that_a_machine_makes_is_nobody_elses(bench: Bench) -> None:
    bench.ssh("1", "cp /bin/sh ~/me && chmod 6755 ~/me; sudo cp /bin/sh /me; sudo chmod 6755 /me")
    made = [*bench.home.glob("machines/*/fs/home/alice/me"), *bench.home.glob("machines/*/fs/me")]
    assert len(made) == 2
    assert all(file.stat().st_mode & stat.S_ISUID for file in made), "the attack is a real one"
    for file in made:
        with pytest.raises(PermissionError):
            Neighbour().run(str(file), "-p", "-c", "id")


@needs_root
@needs_sandbox
def test_nothing_below_a_home_is_found_by_another_user(bench: Bench) -> None:
    assert Neighbour().reaches(bench.home) == [str(bench.home)]
    told = Neighbour().run("ls", str(bench.home))
    assert "Permission denied" in told.stderr


@needs_root
@needs_sandbox
def test_nor_by_way_of_its_processes(bench: Bench) -> None:
    (machine,) = bench.host._machines.values()
    assert machine._process is not None
    for name in ("root", "cwd", "ns/net", "ns/user"):
        told = Neighbour().run("ls", f"/proc/{machine._process.pid}/{name}/")
        assert told.returncode != 0, told.stdout


@needs_root
@needs_sandbox
@pytest.mark.parametrize("umask", [0o000, 0o077], ids=oct)
def test_machines_boot_and_are_closed_under_any_umask(umask: int) -> None:
    folder = public_folder("umask")
    before = os.umask(umask)
    try:
        with opened(folder) as bench:
            bench.boot("1")
            assert bench.ssh("1", "umask; stat -c %a / /etc ~ /tmp") == "0022\n755\n755\n755\n1777"
            assert Neighbour().reaches(bench.home) == [str(bench.home)]
            assert bench.home.stat().st_mode & 0o7777 == 0o710
    finally:
        os.umask(before)
        machines.delete_disk(folder)


def modes(home: Path) -> dict[str, int]:
    """Of all that an emulator made for itself; less the files in which processes write."""
    return {
        str(path.relative_to(home)): stat.S_IMODE(path.lstat().st_mode)
        for path in home.rglob("*")
        if not path.is_symlink() and "seed" not in path.parts
    }


def started(home: Path, umask: int) -> dict[str, int]:
    """The modes in a home in which an emulator has been started."""
    emulator = Emulator(home)
    try:
        emulator.start(umask=umask)
        assert emulator.send("GET", "/compute/v1/projects/p1/zones")[0] == 200
        return modes(home)
    finally:
        emulator.stop()


def test_an_emulator_keeps_to_itself_under_any_umask_and_in_a_home_of_yesterday() -> None:
    base = public_folder("umask-door")
    found = [started(base / f"{mask:o}" / "emulator", mask) for mask in (0o000, 0o077)]
    assert found[0] == found[1]
    open_to_others = [name for name, mode in found[0].items() if mode & 0o007]
    assert open_to_others == []

    home = base / "0" / "emulator"  # as it was left open by an earlier version
    for path in [home, *home.rglob("*")]:
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() else 0o644)
    (home / "state" / "iap.token").write_text("local\n")
    assert started(home, 0o022).items() >= found[0].items(), "it is closed at the next start"
    assert home.stat().st_mode & 0o7 == 0
    assert not (home / "state" / "iap.token").exists()
    remove(base)


def test_so_are_its_disks() -> None:
    base = public_folder("yesterday")
    disk = base / "home" / "machines" / "disk-1"
    disk.mkdir(parents=True)
    disk.chmod(0o755)
    with opened(base):
        assert disk.stat().st_mode & 0o7 == 0
    remove(base)


@needs_root
def test_another_user_gets_no_answer_and_ends_nothing() -> None:
    base = public_folder("asked")
    emulator = Emulator(base / "emulator").start()
    try:
        about = emulator.about
        for path in ("/emulator/v1/status", "/compute/v1/projects/p1/zones"):
            told = Neighbour().run("curl", "-sk", f"{about['url']}{path}")
            assert json.loads(told.stdout)["error"]["code"] == 401
        for name in ("emulator.json", "state/secret", "state/tls.key", "emulator.log"):
            told = Neighbour().run("cat", str(emulator.home / name))
            assert (told.stdout, "Permission denied" in told.stderr) == ("", True)
    finally:
        emulator.remove()
        remove(base)
