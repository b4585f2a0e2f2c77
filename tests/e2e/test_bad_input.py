"""Every mistake is one sentence, a hint, an exit code; never a traceback, nothing half-written."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest

from tests.harness.laptop import BASE, PROGRAM, Laptop, project

JOBS = BASE + '[jobs.train]\ncommand = "true"\n'

# a command line, its exit code, and what the error or its hint must name
MISTAKES: list[tuple[list[str], int, list[str]]] = [
    (["up", "--gpu", "t5"], 2, ["t5", "t4"]),
    (["up", "--gpu", "t4:3"], 2, ["3", "1, 2"]),
    (["up", "--gpu", "t4:x"], 2, ["'x'", "t4:1"]),
    (["up", "--machine", "n1-standrd-4"], 2, ["no machine type", "Did you mean n1-standard-4?"]),
    (["up", "--gpu", "t4", "--machine", "e2-standard-4"], 2, ["e2-standard-4"]),
    (["up", "--zone", "europe-west1-z"], 2, ["europe-west1-z", "europe-west1-b"]),
    (["up", "--region", "europe-west99"], 2, ["europe-west99", "europe-west1"]),
    (["up", "--gpu", "v100", "--region", "europe-west1"], 2, ["V100", "europe-west4"]),
    (["up", "--image", "pytroch"], 2, ["pytroch"]),
    (["up", "--max-hours", "0"], 2, ["max"]),
    (["up", "--disk-gb", "1"], 2, ["disk"]),
    (["up", "--disk-gb", "much"], 2, ["--disk-gb"]),
    (["--name", "***", "status"], 2, ["***"]),
    (["frobnicate"], 2, ["frobnicate"]),
    (["push"], 3, ["vmctl up"]),
    (["run", "train"], 3, ["vmctl up"]),
    (["run", "trian"], 3, ["trian", "train"]),
    (["tunnel", "tensorbord"], 3, ["tensorbord", "tensorboard"]),
    (["tunnel", "99999"], 2, ["99999"]),
    (["fetch", "unet.pth"], 3, ["vmctl up"]),
    (["ssh", "true"], 3, ["vmctl up"]),
    (["exec", "true"], 3, ["vmctl up"]),
    (["scp", "a", "b"], 2, [":"]),
    (["scp", "missing.txt", ":"], 3, ["missing.txt"]),
    (["scp", "-P", "22", "a", ":b"], 2, ["-P"]),
    (["fetch", ""], 2, ["vmctl fetch ."]),
    (["--name", "", "down"], 2, ["--name"]),
    (["logs"], 3, ["vmctl up"]),
    (["ps"], 3, ["vmctl up"]),
    (["cancel", "train"], 3, ["vmctl up"]),
]


@pytest.fixture(scope="module")
def empty(laptop: Laptop, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project(tmp_path_factory.mktemp("bad") / "no-machine", JOBS)


@pytest.mark.parametrize(("words", "code", "named"), MISTAKES, ids=lambda v: str(v)[:50])
def test_a_mistake_is_one_sentence_and_a_hint(
    laptop: Laptop, empty: Path, words: list[str], code: int, named: list[str]
) -> None:
    before = sorted(empty.iterdir())
    told = laptop(*words, cwd=empty, code=code)
    errors = [line for line in told.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, told.stderr
    assert "hint:" in told.stderr
    for word in named:
        assert word in told.stderr
    assert sorted(empty.iterdir()) == before
    assert laptop.json("status", cwd=empty)["machine"] is None, "nothing was created"


def test_an_error_can_be_json(laptop: Laptop, empty: Path) -> None:
    told = laptop("push", "--json", cwd=empty, code=3)
    body = json.loads(told.stderr.splitlines()[-1])
    assert body["error"] == "NotFound"
    assert body["exit_code"] == 3
    assert "vmctl up" in body["hint"]


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('[vm]\ngpuu = "t4"\n', "vm.gpu"),
        ('[vm]\ndisk_gb = "big"\n', "vm.disk_gb"),
        ("[vm\n", "TOML"),
        ('[jobs.x]\ncommand = ""\n', "command"),
        ("[push]\nexclude = [1]\n", 'exclude = ["'),
    ],
)
def test_a_wrong_setting_is_named(laptop: Laptop, tmp_path: Path, toml: str, named: str) -> None:
    told = laptop("status", cwd=project(tmp_path / "wrong", toml), code=2)
    assert named in told.stderr
    assert "vmctl.toml" in told.stderr


def test_a_folder_that_is_gone_is_said(laptop: Laptop, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir '{gone}' && exec '{PROGRAM}' status"
    done = subprocess.run(
        ["sh", "-c", line], cwd=gone, env=laptop.environ, capture_output=True, text=True
    )
    assert done.returncode == 3
    assert "no longer exists" in done.stderr


def test_a_wrong_google_project_is_said(laptop: Laptop, empty: Path) -> None:
    told = laptop("status", cwd=empty, code=2, environ={"VMCTL_PROJECT": "Not An ID"})
    assert "'Not An ID'" in told.stderr


# -- the real service, as far as it can be reached without it ---------------------------------


@pytest.fixture
def expired(tmp_path: Path, account: dict[str, str], token_server: str) -> Path:
    """A service account's key file that was good once."""
    path = tmp_path / "account.json"
    path.write_text(json.dumps({**account, "token_uri": f"{token_server}/revoked"}))
    return path


def test_expired_credentials_say_how_to_renew_them(
    anonymous: Laptop, empty: Path, expired: Path
) -> None:
    environ = {
        "GOOGLE_APPLICATION_CREDENTIALS": str(expired),
        "VMCTL_PROJECT": "some-project",
    }
    told = anonymous("up", cwd=empty, code=5, environ=environ)
    assert "gcloud auth" in told.stderr


# -- ports ---------------------------------------------------------------------------------


def test_a_taken_port_names_who_holds_it_and_the_next_free_one(
    laptop: Laptop, shared_machine: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        told = laptop("tunnel", f"{port}:22", cwd=shared_machine, code=4)
        assert str(port) in told.stderr
        assert str(os.getpid()) in told.stderr
        assert "--port" in told.stderr
