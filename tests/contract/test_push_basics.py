"""What push brings to a machine, what it deletes there and what it will not touch."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import pytest

from tests.harness.wire import World, play, settled, tree, write
from vmctl.domain.errors import (
    Conflict,
)
from vmctl.workflows.sync.fetch import fetch
from vmctl.workflows.sync.push import push


def test_push_mirrors_and_deletes_only_what_a_push_put_there(world: World) -> None:
    write(world.root, {"a.py": "1", "sub/b.txt": "2", "sub/deep/c": "3", "-dash": "4"})
    (world.root / "run me.sh").write_text("#!/bin/sh\n")
    (world.root / "run me.sh").chmod(0o755)
    (world.root / "link").symlink_to("sub/b.txt")
    (world.root / "empty").mkdir()
    (world.root / "new\nline 'q' ü").write_text("5")
    result = play(push(world.project))
    assert tree(world.remote) == tree(world.root)
    assert os.access(world.remote / "run me.sh", os.X_OK)
    assert (world.remote / "empty").is_dir()
    assert (result.moved_files, result.deleted) == (7, ())

    write(world.remote, {"output.bin": "made there", "sub/deep/log": "made there"})
    (world.root / "a.py").unlink()
    shutil.rmtree(world.root / "sub" / "deep")
    (world.root / "empty").rmdir()
    result = play(push(world.project))
    assert set(result.deleted) == {"a.py", "sub/deep/c", "empty"}
    assert tree(world.remote) == {
        **tree(world.root),
        "output.bin": "made there",
        "sub/deep/log": "made there",
    }
    assert not (world.remote / "empty").exists()
    assert play(push(world.project)).moved_files == 0


def test_push_leaves_out_what_git_ignores_and_says_by_which_rule(world: World) -> None:
    write(
        world.root,
        {
            ".gitignore": "*.log\n!keep.log\n/build/\n",
            "x.log": "",
            "keep.log": "",
            "build/o": "",
            "sub/build/o": "",
            "sub/.gitignore": "!x.log\nsecret\n",
            "sub/x.log": "",
            "sub/secret": "",
            ".venv/pyvenv.cfg": "",
            ".venv/bin/python": "",
            "data/big.bin": "",
            ".git/config": "",
        },
    )
    project = dataclasses.replace(world.project, exclude=("data/",))
    result = play(push(project))
    assert set(tree(world.remote)) == {
        ".gitignore",
        "keep.log",
        "sub/build/o",
        "sub/.gitignore",
        "sub/x.log",
    }
    rules = {group.rule: group.count for group in result.left_out}
    assert rules == {
        ".git": 1,
        ".gitignore": 2,
        "sub/.gitignore": 1,
        "virtual environment": 1,
        "exclude in vmctl.toml": 1,
    }


def test_file_and_folder_change_places(world: World) -> None:
    write(world.root, {"thing/inside": "1", "other": "2"})
    play(push(world.project))
    shutil.rmtree(world.root / "thing")
    (world.root / "other").unlink()
    write(world.root, {"thing": "now a file", "other/inside": "now a folder"})
    play(push(world.project))
    assert tree(world.remote) == tree(world.root)


def test_folder_with_foreign_files_is_not_replaced_by_a_file(world: World) -> None:
    write(world.root, {"thing/inside": "1", "b": ""})
    play(push(world.project))
    write(world.remote, {"thing/output": "precious"})
    shutil.rmtree(world.root / "thing")
    write(world.root, {"thing": "a file"})
    with pytest.raises(Conflict, match="in the place of a file"):
        play(push(world.project))
    assert (world.remote / "thing/output").read_text() == "precious"


def test_suddenly_empty_folder_does_not_empty_the_vm(world: World) -> None:
    write(world.root, {f"f{number}": "x" for number in range(30)})
    play(push(world.project))
    for number in range(29):
        (world.root / f"f{number}").unlink()
    with pytest.raises(Conflict, match="Only 1 files are here") as caught:
        play(push(world.project))
    assert "--force" in caught.value.hint
    assert len(tree(world.remote)) == 30
    play(push(world.project, force=True))
    assert set(tree(world.remote)) == {"f29"}


def test_second_folder_of_the_same_name_is_refused(world: World, tmp_path: Path) -> None:
    write(world.root, {"mine": "1"})
    play(push(world.project))
    other = tmp_path / "other"
    write(other, {"theirs": "2"})
    second = dataclasses.replace(world.project, root=other)
    with pytest.raises(Conflict, match="holds a push from"):
        play(push(second))
    assert set(tree(world.remote)) == {"mine"}
    play(push(second, force=True))
    assert set(tree(world.remote)) == {"theirs"}


def test_what_was_written_on_the_vm_is_not_overwritten(world: World) -> None:
    write(world.root, {"notebook.ipynb": "from here", "b": ""})
    play(push(world.project))
    (world.remote / "notebook.ipynb").write_text("edited through the tunnel")
    (world.remote / "model.bin").write_text("trained for hours")
    write(world.root, {"notebook.ipynb": "changed here too"})
    with pytest.raises(Conflict, match=r"notebook\.ipynb changed on the VM"):
        play(push(world.project))
    (world.root / "notebook.ipynb").unlink()
    result = play(push(world.project))
    assert (result.kept, result.deleted) == (("notebook.ipynb",), ())
    write(world.root, {"model.bin": "another"})
    with pytest.raises(Conflict, match=r"model\.bin was made on the VM"):
        play(push(world.project))
    assert (world.remote / "model.bin").read_text() == "trained for hours"
    play(push(world.project, force=True))
    assert (world.remote / "model.bin").read_text() == "another"


def test_fetched_output_that_is_removed_here_stays_on_the_vm(world: World) -> None:
    write(world.root, {"a": ""})
    play(push(world.project))
    settled(world.remote / "model.bin", b"trained for hours")
    play(fetch(world.project, ["model.bin"]))
    play(push(world.project))  # it lies in the project folder now: the same on both sides
    (world.root / "model.bin").unlink()
    assert play(push(world.project)).deleted == ()
    assert (world.remote / "model.bin").read_bytes() == b"trained for hours"


def test_fetched_file_may_be_changed_here_and_pushed(world: World) -> None:
    settled(world.remote / "notes", b"from there")
    play(fetch(world.project, ["notes"]))
    play(push(world.project))
    write(world.root, {"notes": "edited here"})
    play(push(world.project))
    assert (world.remote / "notes").read_text() == "edited here"


def test_same_content_copied_by_hand_is_no_conflict(world: World) -> None:
    write(world.root, {"a": "same"})
    write(world.remote, {"a": "same"})
    os.utime(world.remote / "a", (1, 1))
    play(push(world.project))
    assert tree(world.remote) == {"a": "same"}


def test_dry_run_tells_and_moves_nothing(world: World) -> None:
    write(world.root, {"a": "1" * 10, "b": "2" * 30, "c": "x"})
    play(push(world.project))
    (world.root / "c").unlink()
    write(world.root, {"b": "changed", "d/e": "new"})
    result = play(push(world.project, dry_run=True))
    assert set(result.moved) == {"b", "d/e"}
    assert result.deleted == ("c",)
    assert result.largest[0].path == "a"
    assert set(tree(world.remote)) == {"a", "b", "c"}
    assert (world.remote / "b").read_text() == "2" * 30


def test_killed_push_is_completed_by_the_next(world: World) -> None:
    write(world.root, {"old": "1", "other": "2"})
    play(push(world.project))
    (world.root / "old").unlink()
    (world.root / "big.bin").write_bytes(os.urandom(3_000_000))
    story = push(world.project)
    for event in story:
        if type(event).__name__ == "Advanced":
            break
    story.close()  # what happens on the VM after this is what a kill leaves
    assert (world.remote / "old").exists()
    result = play(push(world.project))
    assert result.deleted == ("old",)
    assert (world.remote / "big.bin").read_bytes() == (world.root / "big.bin").read_bytes()


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_unreadable_file_here_is_one_clear_error(world: World) -> None:
    write(world.root, {"a": "1", "locked": "2"})
    (world.root / "locked").chmod(0)
    with pytest.raises(Exception, match="cannot be read on this computer"):
        play(push(world.project))


def test_non_utf8_name_arrives_as_it_is(world: World) -> None:
    name = os.fsencode(world.root) + b"/caf\xe9"
    here = Path(os.fsdecode(name))
    here.write_bytes(b"latin")
    play(push(world.project))
    assert [item.name for item in world.remote.iterdir()] == [here.name]
    here.unlink()
    write(world.root, {"b": ""})
    play(push(world.project))
    assert [item.name for item in world.remote.iterdir()] == ["b"]
