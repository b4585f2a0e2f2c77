"""`vmctl init`: a file to begin with, in a pipe and with somebody at the terminal."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.harness.laptop import PROGRAM, Laptop, project


def settings(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "vmctl.toml").read_text())


def test_without_a_terminal_it_takes_what_it_finds(laptop: Laptop, folder: Path) -> None:
    (folder / "src").mkdir()
    (folder / "src" / "train.py").touch()
    (folder / "data").mkdir()
    (folder / "old.pth").touch()
    said = laptop.json("init", cwd=folder)
    assert said["file"] == str(folder / "vmctl.toml")
    made = settings(folder)
    assert made["local"] is True
    assert made["vm"]["gpu"] == "t4"
    assert made["jobs"]["train"] == {"command": "python train.py", "directory": "src"}
    assert made["push"]["exclude"] == ["/data/", "*.pth"]
    assert [path.name for path in folder.glob(".*")] == [], "nothing half-written is left"
    assert "no VM" in laptop("status", cwd=folder).stdout, "vmctl reads what it wrote"


def test_it_ends_with_what_to_do_next(laptop: Laptop, folder: Path) -> None:
    told = laptop("init", "--command", "python go.py", cwd=folder).stderr
    assert "vmctl doctor" in told
    assert "vmctl push && vmctl run train" in told
    assert "list price" in told


def test_a_gpu_that_is_elsewhere_brings_its_region(laptop: Laptop, folder: Path) -> None:
    laptop("init", "--gpu", "a100", cwd=folder)
    assert settings(folder)["vm"]["region"] == "europe-west4"


def test_settings_that_are_here_stay(laptop: Laptop, tmp_path: Path) -> None:
    mine = project(tmp_path / "mine", '[vm]\ngpu = "l4"\n')
    assert "--force" in laptop("init", cwd=mine, code=4).stderr
    assert settings(mine) == {"vm": {"gpu": "l4"}}
    inside = mine / "inside"
    inside.mkdir()
    assert "no longer apply" in laptop("init", cwd=inside).stderr
    assert settings(inside)["vm"]["gpu"] == "t4"
    laptop("init", "--force", cwd=mine)
    assert settings(mine)["vm"]["gpu"] == "t4"


def test_settings_in_pyproject_are_settings(laptop: Laptop, folder: Path) -> None:
    (folder / "pyproject.toml").write_text('[tool.vmctl.vm]\ngpu = "l4"\n')
    assert "pyproject.toml" in laptop("init", cwd=folder, code=4).stderr


@pytest.mark.parametrize("words", [["--gpu", "t5"], ["--gpu", "t4:3"]])
def test_a_wrong_answer_writes_nothing(laptop: Laptop, folder: Path, words: list[str]) -> None:
    laptop("init", *words, cwd=folder, code=2)
    assert list(folder.iterdir()) == []


def test_a_home_folder_is_refused(laptop: Laptop, folder: Path) -> None:
    told = laptop("init", cwd=folder, code=2, environ={"HOME": str(folder)})
    assert "all of it would be pushed" in told.stderr


def test_the_project_comes_from_the_default_credentials(anonymous: Laptop, folder: Path) -> None:
    key = folder.parent / "key.json"
    login = {"type": "authorized_user", "client_id": "a", "client_secret": "b"}
    key.write_text(json.dumps({**login, "refresh_token": "c"}))
    environ = {"GOOGLE_APPLICATION_CREDENTIALS": str(key), "GOOGLE_CLOUD_PROJECT": "my-lab-1"}
    anonymous("init", cwd=folder, environ=environ)
    assert settings(folder)["project"] == "my-lab-1"
    assert "local" not in settings(folder)


@pytest.mark.gcloud
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="gcloud is not installed")
def test_the_project_comes_from_gclouds_settings(anonymous: Laptop, folder: Path) -> None:
    told = anonymous("init", cwd=folder, environ={"CLOUDSDK_CORE_PROJECT": "from-gcloud"})
    assert settings(folder)["project"] == "from-gcloud"
    assert "gcloud auth application-default login" in told.stderr, "and nobody is logged in"


def test_at_a_terminal_it_asks_little_and_asks_again(anonymous: Laptop, folder: Path) -> None:
    ours, theirs = pty.openpty()
    environ = anonymous.environ | {"TERM": "dumb", "PATH": "/usr/bin:/bin"}
    with subprocess.Popen(
        [PROGRAM, "init"], cwd=folder, env=environ, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True,
    ) as asked:  # fmt: skip
        os.close(theirs)
        seen = _until(ours, "Google Cloud project: ")
        os.write(ours, b"typed-project\n")
        seen += _until(ours, "none) [t4]: ")
        os.write(ours, b"t5\n")
        seen += _until(ours, "none) [t4]: ")
        os.write(ours, b"l4\n")
        seen += _until(ours, "that trains: ")
        os.write(ours, b"python -m mine\n")
        seen += _until(ours, "vmctl doctor")
        seen += _until(ours, None)
        assert asked.wait(30) == 0, seen
    os.close(ours)
    made = settings(folder)
    assert made["project"] == "typed-project"
    assert made["vm"]["gpu"] == "l4"
    assert made["jobs"]["train"]["command"] == "python -m mine"


def _until(terminal: int, wanted: str | None) -> str:
    """What the program says up to some words; up to its end without them."""
    seen = b""
    while wanted is None or wanted.encode() not in seen:
        try:
            more = os.read(terminal, 4096)
        except OSError:  # the other side of a pseudo-terminal is closed
            more = b""
        if not more:
            assert wanted is None, seen.decode()
            break
        seen += more
    return seen.decode()
