"""push, fetch, scp: files there and back, as people have them."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, PROGRAM, Laptop, project


@pytest.fixture(scope="module")
def files(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("files")
    folder = project(base / "files", BASE + '[push]\nexclude = ["*.bin", "/top/"]\n')
    laptop("up", cwd=folder)
    laptop("push", cwd=folder)
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


def remote_tree(laptop: Laptop, folder: Path) -> set[str]:
    told = laptop("exec", "--", "find", ".", "-mindepth", "1", "-not", "-type", "d", cwd=folder)
    return {line.removeprefix("./") for line in told.stdout.splitlines()}


def test_push_follows_gitignore_and_the_settings(laptop: Laptop, files: Path) -> None:
    made = {
        ".gitignore": "*.log\n!keep.log\n/build/\n",
        "train.py": "print(1)\n",
        "a.log": "",
        "keep.log": "",
        "build/x": "",
        "sub/build/x": "",
        "sub/.gitignore": "*.tmp\n",
        "sub/b.tmp": "",
        "b.tmp": "",
        "c.bin": "",
        "top/x": "",
        "sub/top/x": "",
        ".git/HEAD": "ref: x\n",
        ".venv/pyvenv.cfg": "home = x\n",
        ".venv/bin/python": "",
        "a'; echo foo": "hostile",
        "-rf": "hostile",
        "sp ace/ü.txt": "unicode",
    }
    project(files, (files / "vmctl.toml").read_text(), made)
    (files / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (files / "run.sh").chmod(0o755)
    (files / "link").symlink_to("train.py")
    laptop("push", cwd=files)
    expected = {
        "vmctl.toml", ".gitignore", "train.py", "keep.log", "sub/build/x", "sub/.gitignore",
        "b.tmp", "sub/top/x", "a'; echo foo", "-rf", "sp ace/ü.txt", "run.sh", "link",
    }  # fmt: skip
    assert remote_tree(laptop, files) == expected
    assert laptop("exec", "./run.sh", cwd=files).stdout == "ran\n"
    assert laptop("exec", "readlink", "link", cwd=files).stdout == "train.py\n"


def test_fetch_brings_files_and_folders_whole(laptop: Laptop, files: Path, tmp_path: Path) -> None:
    make = "head -c 20000000 /dev/urandom >big.pth; mkdir -p results/deep; echo 1 >results/a"
    make += "; echo 2 >'results/deep/b c'; sha256sum big.pth; sleep 2.5"
    there = laptop("exec", "--", "sh", "-c", make, cwd=files).stdout.split()[0]
    target = tmp_path / "here"
    laptop("fetch", "big.pth", "results", "--to", str(target), cwd=files)
    assert hashlib.sha256((target / "big.pth").read_bytes()).hexdigest() == there
    assert (target / "results" / "a").read_text() == "1\n"
    assert (target / "results" / "deep" / "b c").read_text() == "2\n"
    left = {entry.name for entry in target.iterdir()}
    assert left == {"big.pth", "results"}, "no partial file is left"


def test_fetch_of_a_missing_path(laptop: Laptop, files: Path, tmp_path: Path) -> None:
    refused = laptop("fetch", "nowhere.pth", "--to", str(tmp_path), cwd=files, code=3)
    assert "nowhere.pth" in refused.stderr
    assert "hint:" in refused.stderr
    assert not list(tmp_path.glob("*nowhere*"))


def test_a_full_disk_here_is_one_sentence_and_no_file(
    laptop: Laptop, files: Path, tmp_path: Path
) -> None:
    laptop("exec", "--", "sh", "-c", "head -c 3000000 /dev/urandom >wide.pth", cwd=files)
    small = tmp_path / "small"
    small.mkdir()
    # a disk of 1 MB, in a mount namespace of its own, which any user may make
    line = 'mount -t tmpfs -o size=1m tmpfs "$1"; "$2" fetch wide.pth --to "$1"; code=$?'
    line += '; ls -A "$1"; exit $code'
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", line, "sh", small, PROGRAM],
        cwd=files,
        env=laptop.environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "disk is full" in done.stderr
    assert "wide.pth" not in done.stdout.split(), "nothing stands under its name"


def test_scp_both_ways(laptop: Laptop, files: Path, tmp_path: Path) -> None:
    (tmp_path / "note s.txt").write_text("hello")
    laptop("scp", str(tmp_path / "note s.txt"), ":", cwd=files)
    laptop("scp", ":note s.txt", str(tmp_path / "back.txt"), cwd=files)
    assert (tmp_path / "back.txt").read_text() == "hello"
    laptop("scp", "-rq", str(tmp_path), ":copied", cwd=files)
    laptop("scp", "-r", ":copied", str(tmp_path / "again"), cwd=files)
    assert (tmp_path / "again" / "note s.txt").read_text() == "hello"
