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


def test_a_second_push_moves_nothing_and_deletes_only_what_was_pushed(
    laptop: Laptop, files: Path
) -> None:
    (files / "old.py").write_text("x = 1\n")
    laptop("push", cwd=files)
    laptop(
        "exec", "--", "sh", "-c", "mkdir -p runs; echo made >runs/here; echo m >out.pth", cwd=files
    )
    again = laptop.json("push", cwd=files)
    assert (again["moved_files"], again["deleted"]) == (0, [])
    (files / "old.py").unlink()
    laptop("push", cwd=files)
    tree = remote_tree(laptop, files)
    assert "old.py" not in tree
    assert {"runs/here", "out.pth"} <= tree


def test_a_dry_run_moves_nothing(laptop: Laptop, files: Path) -> None:
    (files / "dry.py").write_text("x = 1\n")
    told = laptop("push", "--dry-run", cwd=files)
    assert "dry.py" in told.stdout + told.stderr
    assert "dry.py" not in remote_tree(laptop, files)
    (files / "dry.py").unlink()


def test_an_emptied_folder_does_not_empty_the_machine(laptop: Laptop, files: Path) -> None:
    before = remote_tree(laptop, files)
    aside = files.with_name("aside")
    shutil.copytree(files, aside, symlinks=True)
    for entry in files.iterdir():
        if entry.name != "vmctl.toml":
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    refused = laptop("push", cwd=files, code=4)
    assert "--force" in refused.stderr
    assert remote_tree(laptop, files) == before
    shutil.copytree(aside, files, symlinks=True, dirs_exist_ok=True)
    shutil.rmtree(aside)


def test_a_file_becomes_a_folder_and_back(laptop: Laptop, files: Path) -> None:
    (files / "shape").write_text("a file")
    laptop("push", cwd=files)
    (files / "shape").unlink()
    (files / "shape").mkdir()
    (files / "shape" / "inner").write_text("now a folder")
    laptop("push", cwd=files)
    assert "shape/inner" in remote_tree(laptop, files)
    shutil.rmtree(files / "shape")
    (files / "shape").write_text("a file again")
    laptop("push", cwd=files)
    assert "shape" in remote_tree(laptop, files)


def test_fetch_brings_a_file_whole(laptop: Laptop, files: Path, tmp_path: Path) -> None:
    laptop("exec", "--", "sh", "-c", "head -c 20000000 /dev/urandom >big.pth; sleep 2.5", cwd=files)
    there = laptop("exec", "sha256sum", "big.pth", cwd=files).stdout.split()[0]
    target = tmp_path / "here"
    laptop("fetch", "big.pth", "--to", str(target), cwd=files)
    assert hashlib.sha256((target / "big.pth").read_bytes()).hexdigest() == there
    left = [entry.name for entry in target.iterdir()]
    assert left == ["big.pth"], "no partial file is left"


def test_fetch_of_a_folder(laptop: Laptop, files: Path, tmp_path: Path) -> None:
    laptop(
        "exec", "--", "sh", "-c",
        "mkdir -p results/deep && echo 1 >results/a && echo 2 >'results/deep/b c' && sleep 2.5",
        cwd=files,
    )  # fmt: skip
    laptop("fetch", "results", "--to", str(tmp_path), cwd=files)
    assert (tmp_path / "results" / "a").read_text() == "1\n"
    assert (tmp_path / "results" / "deep" / "b c").read_text() == "2\n"


def test_fetch_refuses_a_file_that_is_being_written(
    laptop: Laptop, files: Path, tmp_path: Path
) -> None:
    laptop(
        "exec", "--", "sh", "-c",
        "(for i in $(seq 60); do echo $i; sleep 0.2; done >busy.pth) >/dev/null 2>&1 </dev/null &",
        cwd=files,
    )  # fmt: skip
    refused = laptop("fetch", "busy.pth", "--to", str(tmp_path), cwd=files, code=4)
    assert "written" in refused.stderr
    assert not (tmp_path / "busy.pth").exists()


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
