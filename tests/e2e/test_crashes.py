"""kill -9 of the client in the middle: the same command typed again succeeds, nothing doubled."""

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
TOML = BASE + '[jobs.long]\ncommand = "for i in 1 2 3 4 5 6; do echo line $i; sleep 0.5; done"\n'


def killed_after(laptop: Laptop, seconds: float, *words: str, cwd: Path) -> bool:
    """Start a command, kill -9 it after that long; whether it was still at work."""
    client = laptop.start(*words, cwd=cwd)
    with contextlib.suppress(subprocess.TimeoutExpired):
        client.wait(seconds)  # the moment is the test's; one that ended before is not waited for
    at_work = client.poll() is None
    if at_work:
        os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    return at_work


@pytest.fixture(scope="module")
def machine(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("crash")
    folder = project(base / "crash", TOML)
    laptop("up", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


@pytest.mark.parametrize("moment", MOMENTS)
def test_up_killed_and_typed_again_makes_one_machine(
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


@pytest.mark.parametrize("moment", MOMENTS[:4])
def test_push_killed_and_typed_again_is_whole(laptop: Laptop, machine: Path, moment: float) -> None:
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


def test_push_killed_while_it_streams_and_typed_again_sends_the_rest(
    laptop: Laptop, machine: Path
) -> None:
    staged = "find ~/.vmctl/tmp -type f -size +20M | grep ."

    def is_staged() -> bool:
        return laptop("exec", "--", "sh", "-c", staged, cwd=machine, code=None).returncode == 0

    for number in range(6):  # on a busy computer a push may be through between two looks
        (machine / "wide.dat").unlink(missing_ok=True)
        laptop("push", cwd=machine)
        blob = os.urandom(150_000_000 + number)
        (machine / "wide.dat").write_bytes(blob)
        client = laptop.start("push", cwd=machine)
        while client.poll() is None and not is_staged():
            pass
        if client.poll() is None:
            break
        client.communicate()
    assert client.poll() is None, "the kill came too late to say anything"
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    laptop("exec", "test", "-e", "wide.dat", cwd=machine, code=1)  # nothing half under its name
    again = laptop.json("push", cwd=machine)
    assert again["sent_bytes"] < len(blob) - 18_000_000, "what had arrived was sent twice"
    told = laptop("exec", "sha256sum", "wide.dat", cwd=machine)
    assert told.stdout.split()[0] == hashlib.sha256(blob).hexdigest()
    (machine / "wide.dat").unlink()


def test_run_killed_goes_on_and_can_be_followed(laptop: Laptop, machine: Path) -> None:
    laptop("push", cwd=machine)
    client = laptop.start("run", "long", cwd=machine)
    assert client.stdout is not None
    while b"line 2" not in client.stdout.readline():
        pass
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    log = laptop("logs", "-f", cwd=machine).stdout
    told = [line for line in log.splitlines() if not line.startswith("[vmctl] ")]
    assert told == [f"line {i}" for i in range(1, 7)]
    assert "line 6" in laptop("run", "long", cwd=machine).stdout


@pytest.mark.parametrize("moment", MOMENTS[:3])
def test_run_killed_at_its_start_and_typed_again(
    laptop: Laptop, machine: Path, moment: float
) -> None:
    laptop("push", cwd=machine)
    killed_after(laptop, moment / 2, "run", "long", cwd=machine)
    again = laptop("run", "long", cwd=machine, code=None)
    if again.returncode == 4:  # the first one is running: it was started before the kill
        laptop("logs", "-f", cwd=machine)
        again = laptop("run", "long", cwd=machine)
    assert again.returncode == 0, again.stderr
    assert "line 6" in again.stdout


def test_fetch_killed_and_typed_again_resumes(
    laptop: Laptop, machine: Path, tmp_path: Path
) -> None:
    laptop("push", cwd=machine)  # exec is in the workspace from then on
    laptop(
        "exec", "--", "sh", "-c", "head -c 400000000 /dev/urandom >../big.pth; sleep 2.5",
        cwd=machine,
    )  # fmt: skip
    there = laptop("exec", "sha256sum", "../big.pth", cwd=machine).stdout.split()[0]
    target = tmp_path / "big.pth"
    client = laptop.start("fetch", "~/Workspace/big.pth", "--to", str(tmp_path), cwd=machine)
    part = eventually(
        lambda: next((p for p in tmp_path.iterdir() if p.stat().st_size > 1_000_000), None),
        what="a partial file",
    )
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    assert not target.exists()
    cut = part.stat().st_size
    assert cut < 400_000_000, "the kill came too late to say anything"
    told = laptop.json("fetch", "~/Workspace/big.pth", "--to", str(tmp_path), cwd=machine)
    assert hashlib.sha256(target.read_bytes()).hexdigest() == there
    assert not part.exists()
    assert told["files"][0]["resumed_at"] == cut
