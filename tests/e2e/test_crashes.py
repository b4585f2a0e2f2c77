"""kill -9 of the client in the middle: the same command typed again succeeds, nothing doubled.

`run` is killed here. Transfers are in test_cuts, `up` and `down` in test_crash_at_every_call; what
is killed by the clock instead of at a moment with a name is for the exhaustive run.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project

MOMENTS = [0.3, 0.6, 0.9, 1.2, 1.6, 2.2]
WAITS = "echo line 1; echo line 2; until [ -e ~/go ]; do sleep 0.1; done; echo line 3"
TOML = f"{BASE}[jobs.waits]\ncommand = '{WAITS}'\n"


@pytest.fixture(scope="module")
def machine(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("crash")
    folder = project(base / "crash", TOML)
    laptop("up", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


@pytest.fixture
def pushed(laptop: Laptop, machine: Path) -> Path:
    """Its machine has what is here, and no job is told to go on."""
    laptop("push", cwd=machine)
    laptop("exec", "--", "sh", "-c", "rm -f ~/go", cwd=machine)
    return machine


def kill(client: subprocess.Popen[bytes]) -> None:
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()


def test_run_killed_goes_on_and_can_be_followed(laptop: Laptop, pushed: Path) -> None:
    client = laptop.start("run", "waits", cwd=pushed)
    assert client.stdout is not None
    while b"line 2" not in client.stdout.readline():
        pass
    kill(client)
    following = laptop.start("logs", "-f", cwd=pushed)
    assert following.stdout is not None
    told = [following.stdout.readline()]
    while told[-1] != b"line 2\n":
        told.append(following.stdout.readline())
    laptop("exec", "--", "sh", "-c", "touch ~/go", cwd=pushed)
    told += following.stdout.readlines()
    assert following.wait(60) == 0
    lines = [line for line in told if not line.startswith(b"[vmctl] ")]
    assert lines == [b"line 1\n", b"line 2\n", b"line 3\n"]
    assert "line 3" in laptop("run", "waits", cwd=pushed).stdout


def is_typed_again_and_succeeds(laptop: Laptop, folder: Path) -> None:
    laptop("exec", "--", "sh", "-c", "touch ~/go", cwd=folder)
    again = laptop("run", "waits", cwd=folder, code=None)
    if again.returncode == 4:  # the first one is running: it was started before the kill
        laptop("logs", "-f", cwd=folder)
        again = laptop("run", "waits", cwd=folder)
    assert again.returncode == 0, again.stderr
    assert "line 3" in again.stdout


def test_run_killed_when_its_run_appears_and_typed_again(laptop: Laptop, pushed: Path) -> None:
    before = len(laptop.json("ps", cwd=pushed))
    client = laptop.start("run", "waits", cwd=pushed)
    eventually(lambda: len(laptop.json("ps", cwd=pushed)) > before, "the run is on record")
    kill(client)
    is_typed_again_and_succeeds(laptop, pushed)


# -- at moments by the clock ---------------------------------------------------------------------


def killed_after(laptop: Laptop, seconds: float, *words: str, cwd: Path) -> None:
    """Start a command and kill -9 it after that long, should it still be at work."""
    client = laptop.start(*words, cwd=cwd)
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(seconds)
    if client.poll() is None:
        os.killpg(client.pid, signal.SIGKILL)
    client.communicate()


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", MOMENTS)
def test_up_killed_at_a_moment_and_typed_again_makes_one_machine(
    laptop: Laptop, tmp_path: Path, moment: float
) -> None:
    folder = project(tmp_path / f"up-{int(moment * 10)}", BASE)
    killed_after(laptop, moment, "up", "--gpu", "t4", cwd=folder)
    laptop("up", "--gpu", "t4", cwd=folder)
    mine = laptop.json("ls", cwd=folder)["machines"]
    assert [vm["status"] for vm in mine] == ["RUNNING"]
    assert laptop("exec", "true", cwd=folder)
    laptop("down", "--delete", "--yes", cwd=folder)
    assert laptop.json("ls", cwd=folder)["machines"] == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", MOMENTS[:4])
def test_push_killed_at_a_moment_and_typed_again_is_whole(
    laptop: Laptop, machine: Path, moment: float
) -> None:
    for i in range(300):
        (machine / f"f{i}.txt").write_text(f"{moment} {i}\n" * 200)
    blob = os.urandom(8_000_000)
    (machine / "blob.dat").write_bytes(blob)
    killed_after(laptop, moment, "push", cwd=machine)
    laptop("push", cwd=machine)
    told = laptop(
        "exec", "--", "sh", "-c", "cat blob.dat | sha256sum; cat f*.txt | sha256sum", cwd=machine
    )
    texts = b"".join(p.read_bytes() for p in sorted(machine.glob("f*.txt")))
    assert told.stdout.split()[0] == hashlib.sha256(blob).hexdigest()
    assert told.stdout.split()[2] == hashlib.sha256(texts).hexdigest()


@pytest.mark.exhaustive
@pytest.mark.parametrize("moment", MOMENTS[:3])
def test_run_killed_at_a_moment_and_typed_again(
    laptop: Laptop, pushed: Path, moment: float
) -> None:
    killed_after(laptop, moment / 2, "run", "waits", cwd=pushed)
    is_typed_again_and_succeeds(laptop, pushed)
