"""push as people type it: what it says, what it refuses, and the ways it can go."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project

TOML = (
    BASE
    + """
[push]
exclude = ["data/"]
[jobs.train]
command = "python train.py --data data/set"
"""
)


@pytest.fixture(scope="module")
def work(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("push")
    folder = project(base / "work", TOML, {"train.py": "print(1)\n", ".gitignore": "*.log\n"})
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def there(laptop: Laptop, folder: Path, path: str) -> str:
    return laptop("exec", "--", "cat", path, cwd=folder).stdout


def test_a_dry_run_says_what_would_happen_and_what_stays(laptop: Laptop, work: Path) -> None:
    project(work, TOML, {"big.txt": "x" * 5000, "a.log": "", "data/set/x": "", "new.py": "1"})
    (work / ".gitignore").rename(work / ".ignored")
    told = laptop("push", "--dry-run", cwd=work)
    text = told.stdout + told.stderr
    (work / ".ignored").rename(work / ".gitignore")
    for part in (
        "big.txt",
        "new.py",
        "Would delete there 1:",
        ".gitignore",
        "exclude in vmctl.toml",
    ):
        assert part in text, text
    assert "data/set, which the job 'train' names, is excluded" in text
    assert laptop("exec", "ls", cwd=work).stdout.split() == ["train.py", "vmctl.toml"]
    found = laptop.json("push", "--dry-run", cwd=work)
    assert found["moved_bytes"] == 5001
    assert found["largest"][0]["path"] == "big.txt"


def test_what_was_edited_on_the_machine_is_listed_and_kept(laptop: Laptop, work: Path) -> None:
    project(work, TOML, {"notes.ipynb": "from here", "other.ipynb": "from here"})
    laptop("push", cwd=work)
    edit = "echo edited >notes.ipynb; echo edited >other.ipynb; echo made >model.txt"
    laptop("exec", "--", "sh", "-c", edit, cwd=work)
    project(work, TOML, {"notes.ipynb": "here too", "model.txt": "mine"})
    refused = laptop("push", cwd=work, code=4)
    for part in ("notes.ipynb changed on the VM", "other.ipynb changed", "model.txt was made"):
        assert part in refused.stderr
    assert "vmctl pull" in refused.stderr
    assert "--force" in refused.stderr
    error = json.loads(laptop("push", "--json", cwd=work, code=4).stderr.splitlines()[-1])
    assert error["message"].count("the VM") == 4
    assert there(laptop, work, "notes.ipynb") == "edited\n"
    laptop("push", "--force", cwd=work)
    assert there(laptop, work, "notes.ipynb") == "here too"
    assert there(laptop, work, "model.txt") == "mine"


def test_an_unknown_way_is_refused(laptop: Laptop, work: Path) -> None:
    refused = laptop("push", "--via", "pigeon", cwd=work, code=2)
    assert "stream" in refused.stderr
