"""What comes home from the machine, by the installed program: pull, and fetch while a job runs."""

from __future__ import annotations

import json
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

TOML = (
    BASE
    + """[jobs.train]
directory = "work"
command = "while [ ! -e ~/go ]; do sleep 0.1; done; echo weights >model.pth"
outputs = ["model.pth"]
"""
)


@pytest.fixture(scope="module")
def home(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("home")
    folder = project(base / "home", TOML, {"work/train.py": "one\n", "notes.ipynb": "two\n"})
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def there(laptop: Laptop, folder: Path, line: str) -> str:
    """Run a shell line in the workspace on the VM."""
    return laptop("exec", "--", "sh", "-c", line, cwd=folder).stdout


def test_a_notebook_edited_on_the_vm_comes_home(laptop: Laptop, home: Path) -> None:
    there(laptop, home, "echo edited there >notes.ipynb; sleep 2.2")
    (home / "notes.ipynb").write_text("edited here\n")
    refused = laptop("push", cwd=home, code=4)
    assert "vmctl pull" in refused.stderr
    left = laptop("pull", cwd=home, code=4)
    assert "notes.ipynb was changed here as well" in left.stderr
    assert "--force" in left.stderr
    assert (home / "notes.ipynb").read_text() == "edited here\n"
    (home / "notes.ipynb").write_text("two\n")
    dry = laptop("pull", "--dry-run", cwd=home)
    assert "would pull: notes.ipynb" in dry.stdout
    told = laptop.json("pull", cwd=home)
    assert [file["path"] for file in told["files"]] == ["notes.ipynb"]
    assert (home / "notes.ipynb").read_text() == "edited there\n"
    assert laptop.json("push", cwd=home)["moved_files"] == 0
    assert laptop.json("pull", cwd=home)["files"] == []


def test_conflicts_under_json_are_one_document_and_exit_4(laptop: Laptop, home: Path) -> None:
    laptop("push", cwd=home)
    there(laptop, home, "echo there >work/train.py; sleep 2.2")
    (home / "work/train.py").write_text("here\n")
    done = laptop("pull", "--json", cwd=home, code=4)
    conflicts = json.loads(done.stdout)["conflicts"]
    assert conflicts == [{"path": "work/train.py", "why": "was changed here as well"}]
    assert json.loads(done.stderr.splitlines()[-1])["exit_code"] == 4
    laptop("pull", "train.py", "--force", cwd=home / "work")
    assert (home / "work/train.py").read_text() == "there\n"


def waiting(laptop: Laptop, home: Path, to: str) -> subprocess.Popen[bytes]:
    """A fetch that has said what it waits for."""
    client = laptop.start("fetch", "--wait", "--to", to, cwd=home)
    assert client.stderr is not None
    heard = b""
    while b"has not written model.pth yet" not in heard:
        line = client.stderr.readline()
        assert line, heard
        heard += line
    return client


def test_fetch_waits_for_what_the_run_has_yet_to_write_and_ctrl_c_ends_only_the_waiting(
    laptop: Laptop, home: Path
) -> None:
    laptop("run", "train", "--detach", cwd=home)
    early = laptop("fetch", "--to", "early", cwd=home, code=3)
    assert "--wait" in early.stderr
    client = waiting(laptop, home, "never")
    os.killpg(client.pid, signal.SIGINT)
    client.communicate(timeout=20)
    assert client.returncode == 130
    assert laptop.json("ps", cwd=home)[0]["state"] in ("running", "preparing")

    client = waiting(laptop, home, "late")
    there(laptop, home, "touch ~/go")
    client.communicate(timeout=60)
    assert client.returncode == 0
    assert (home / "late/model.pth").read_text() == "weights\n"
    assert not (home / "early").exists()
    assert not (home / "never").exists()
    eventually(lambda: laptop.json("ps", cwd=home)[0]["state"] == "succeeded")


@pytest.mark.parametrize("name", ["fetch", "pull"])
def test_help_has_examples(laptop: Laptop, home: Path, name: str) -> None:
    told = laptop(name, "--help", cwd=home).stdout
    assert "Examples:" in told
    assert f"vmctl {name}" in told
