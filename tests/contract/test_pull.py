"""pull against a real sshd: the VM's changes come home; what changed on both sides does not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.harness.wire import World, play, settled, tree, write
from vmctl.domain.errors import Conflict, IntegrityError, InvalidInput, NotFound
from vmctl.domain.events import Advanced, Event, Started
from vmctl.ssh import rpc
from vmctl.workflows.sync.pull import PullResult, pull
from vmctl.workflows.sync.push import push

FILES = {"train.py": "one", "notes/a.ipynb": "two", "data.csv": "three"}


@pytest.fixture
def pushed(world: World) -> World:
    write(world.root, FILES)
    (world.root / "link").symlink_to("train.py")
    play(push(world.project))
    return world


def edit(world: World, path: str, text: str) -> None:
    """Change a file on the VM, a while ago."""
    settled(world.remote / path, text.encode())


def conflicts(result: PullResult) -> dict[str, str]:
    return {refused.path: refused.why for refused in result.conflicts}


def test_what_changed_on_the_vm_comes_home_whole(pushed: World) -> None:
    edit(pushed, "notes/a.ipynb", "edited there")
    (pushed.remote / "notes/a.ipynb").chmod(0o755)
    with pytest.raises(Conflict, match=r"a\.ipynb changed on the VM since it was pushed"):
        write(pushed.root, {"notes/a.ipynb": "edited here"})
        play(push(pushed.project))
    write(pushed.root, {"notes/a.ipynb": "two"})
    result = play(pull(pushed.project))
    here = pushed.root / "notes/a.ipynb"
    assert here.read_text() == "edited there"
    assert here.stat().st_mode & 0o777 == 0o755
    assert here.stat().st_mtime == 1_700_000_000
    assert [file.path for file in result.files] == ["notes/a.ipynb"]
    assert tree(pushed.root) == tree(pushed.remote)


def test_after_a_pull_a_push_has_nothing_to_do_and_nothing_is_left_to_pull(pushed: World) -> None:
    edit(pushed, "train.py", "edited there")
    play(pull(pushed.project))
    moved = play(push(pushed.project))
    assert (moved.moved_files, moved.deleted, moved.refused) == (0, (), ())
    again = play(pull(pushed.project))
    assert (again.files, again.conflicts) == ((), ())
    # and a push may change it again
    write(pushed.root, {"train.py": "three"})
    assert play(push(pushed.project)).moved_files == 1


def test_what_was_not_changed_there_is_left_alone_here(pushed: World) -> None:
    edit(pushed, "train.py", "edited there")
    write(pushed.root, {"data.csv": "edited here", "new.py": "mine"})
    play(pull(pushed.project))
    assert tree(pushed.root) == {
        "train.py": "edited there", "notes/a.ipynb": "two", "data.csv": "edited here",
        "new.py": "mine", "link": "train.py",
    }  # fmt: skip


def test_what_changed_on_both_sides_is_left_alone_until_forced(pushed: World) -> None:
    edit(pushed, "train.py", "edited there")
    edit(pushed, "data.csv", "edited there")
    write(pushed.root, {"train.py": "edited here"})
    result = play(pull(pushed.project))
    assert conflicts(result) == {"train.py": "was changed here as well"}
    assert tree(pushed.root)["train.py"] == "edited here"
    assert tree(pushed.root)["data.csv"] == "edited there", "the others came"
    forced = play(pull(pushed.project, ["train.py"], force=True))
    assert conflicts(forced) == {}
    assert tree(pushed.root)["train.py"] == "edited there"
    assert play(push(pushed.project)).moved_files == 0


def test_the_same_edit_on_both_sides_is_no_conflict(pushed: World) -> None:
    edit(pushed, "train.py", "the same edit")
    write(pushed.root, {"train.py": "the same edit"})
    result = play(pull(pushed.project))
    assert (result.files, result.conflicts) == ((), ())
    assert play(push(pushed.project)).refused == ()
    assert tree(pushed.root) == tree(pushed.remote)


def test_what_is_deleted_there_is_listed_and_deleted_here_only_when_forced(pushed: World) -> None:
    (pushed.remote / "train.py").unlink()
    result = play(pull(pushed.project))
    assert conflicts(result) == {"train.py": "was deleted on the VM"}
    assert "train.py" in tree(pushed.root)
    dry = play(pull(pushed.project, dry_run=True, force=True))
    assert dry.deleted == ("train.py",)
    assert "train.py" in tree(pushed.root)
    forced = play(pull(pushed.project, force=True))
    assert forced.deleted == ("train.py",)
    assert "train.py" not in tree(pushed.root)
    assert play(push(pushed.project)).moved_files == 0
    assert "train.py" not in tree(pushed.remote)


def test_a_file_gone_here_but_changed_there_comes_back_only_when_forced(pushed: World) -> None:
    (pushed.root / "train.py").unlink()
    edit(pushed, "train.py", "edited there")
    assert conflicts(play(pull(pushed.project))) == {
        "train.py": "was deleted here, but changed on the VM"
    }
    assert "train.py" not in tree(pushed.root)
    play(pull(pushed.project, force=True))
    assert tree(pushed.root)["train.py"] == "edited there"


def test_a_dry_run_changes_nothing(pushed: World) -> None:
    edit(pushed, "train.py", "edited there")
    edit(pushed, "data.csv", "edited there")
    write(pushed.root, {"data.csv": "edited here"})
    before = tree(pushed.root)
    result = play(pull(pushed.project, dry_run=True))
    assert [file.path for file in result.files] == ["train.py"]
    assert conflicts(result) == {"data.csv": "was changed here as well"}
    assert tree(pushed.root) == before
    assert [file.path for file in play(pull(pushed.project, dry_run=True)).files] == ["train.py"]


def test_links_come_unless_they_lead_outside(pushed: World) -> None:
    (pushed.remote / "link").unlink()
    (pushed.remote / "link").symlink_to("data.csv")
    result = play(pull(pushed.project))
    assert result.links == ("link",)
    assert (pushed.root / "link").readlink() == Path("data.csv")
    (pushed.remote / "link").unlink()
    (pushed.remote / "link").symlink_to("/etc/passwd")
    result = play(pull(pushed.project))
    assert result.links_left_out == ("link",)
    assert (pushed.root / "link").readlink() == Path("data.csv")


def test_a_file_that_became_a_link_and_back(pushed: World) -> None:
    (pushed.remote / "data.csv").unlink()
    (pushed.remote / "data.csv").symlink_to("train.py")
    (pushed.remote / "link").unlink()
    edit(pushed, "link", "now a file")
    play(pull(pushed.project))
    assert tree(pushed.root) == tree(pushed.remote)
    assert (pushed.root / "data.csv").is_symlink()
    assert not (pushed.root / "link").is_symlink()


def test_paths_are_those_of_the_current_folder(
    pushed: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(pushed, "train.py", "edited there")
    edit(pushed, "notes/a.ipynb", "edited there")
    monkeypatch.chdir(pushed.root / "notes")
    play(pull(pushed.project, ["a.ipynb"]))
    assert tree(pushed.root)["notes/a.ipynb"] == "edited there"
    assert tree(pushed.root)["train.py"] == "one"
    play(pull(pushed.project, [".."]))
    assert tree(pushed.root)["train.py"] == "edited there"
    with pytest.raises(InvalidInput, match="outside of the project"):
        play(pull(pushed.project, ["../../x"]))


def test_a_file_made_on_the_vm_comes_when_it_is_named(pushed: World) -> None:
    edit(pushed, "made.ipynb", "made there")
    assert play(pull(pushed.project)).files == ()
    play(pull(pushed.project, ["made.ipynb"]))
    assert tree(pushed.root)["made.ipynb"] == "made there"
    assert play(push(pushed.project)).moved_files == 0
    write(pushed.root, {"both": "here"})
    edit(pushed, "both", "there")
    result = play(pull(pushed.project, ["both"]))
    assert conflicts(result) == {"both": "was made on the VM and differs from the file here"}
    with pytest.raises(NotFound):
        play(pull(pushed.project, ["nowhere"]))


def test_what_was_made_on_the_vm_and_pulled_is_never_deleted_by_a_push(pushed: World) -> None:
    write(pushed.root, {".gitignore": "*.pth\n"})
    play(push(pushed.project))
    edit(pushed, "best.pth", "weights")
    play(pull(pushed.project, ["best.pth"]))
    assert tree(pushed.root)["best.pth"] == "weights"
    assert play(push(pushed.project)).deleted == (), "ignored here: no push names it"
    edit(pushed, "made.ipynb", "made there")
    play(pull(pushed.project, ["made.ipynb"]))
    (pushed.root / "made.ipynb").unlink()
    assert play(push(pushed.project)).deleted == ()
    assert tree(pushed.remote)["best.pth"] == "weights"
    assert tree(pushed.remote)["made.ipynb"] == "made there"


def test_a_file_changed_here_while_it_is_on_its_way_is_kept(pushed: World) -> None:
    data = os.urandom(20_000_000)
    settled(pushed.remote / "data.csv", data)

    def watch(event: Event) -> None:
        if isinstance(event, Advanced) and (event.done_bytes or 0) > 1_000_000:
            write(pushed.root, {"data.csv": "edited just now"})

    with pytest.raises(Conflict, match="changed here during the transfer"):
        play(pull(pushed.project), watch)
    assert tree(pushed.root)["data.csv"] == "edited just now"
    assert set(tree(pushed.root)) == {*FILES, "link"}, "no part is left"


def test_a_cut_pull_goes_on_by_itself(pushed: World) -> None:
    data = os.urandom(20_000_000)
    settled(pushed.remote / "data.csv", data)
    cut: list[int] = []

    def watch(event: Event) -> None:
        if not cut and isinstance(event, Advanced) and (event.done_bytes or 0) > 5_000_000:
            cut.append(1)
            pushed.sshd.cut()

    play(pull(pushed.project), watch)
    assert cut
    assert (pushed.root / "data.csv").read_bytes() == data


def test_a_file_being_written_is_not_pulled(pushed: World) -> None:
    edit(pushed, "train.py", "half")
    writing = (pushed.remote / "train.py").open("ab")
    with writing, pytest.raises(Conflict, match="still being written"):
        play(pull(pushed.project))
    assert tree(pushed.root)["train.py"] == "one"


def test_hostile_names_come_home(pushed: World) -> None:
    names = ["a'; echo foo", "new\nline", "-rf", "~", "esc\x1b[31m", os.fsdecode(b"\xff\xfe")]
    for name in names:
        (pushed.root / name).write_text("pushed")
    play(push(pushed.project))
    for name in names:
        settled(pushed.remote / name, b"edited")
    said: list[str] = []
    result = play(
        pull(pushed.project),
        lambda event: said.append(getattr(event, "text", "")),
    )
    assert len(result.files) == len(names)
    for name in names:
        assert (pushed.root / name).read_text() == "edited"
    for line in [*said, *(file.path for file in result.files)]:
        assert line.isprintable(), repr(line)


@pytest.mark.parametrize("path", [".git/hooks/pre-commit", ".GIT/config", "sub/.git/config"])
def test_the_vm_cannot_name_what_no_push_takes(pushed: World, path: str) -> None:
    write(pushed.root, {path: "mine"})
    said = {
        "wanted": path, "base": Path(path).name, "inside": path, "path": "/etc/hostname",
        "kind": "file", "files": [["file", "", 1, 1, 420, ""]],
    }  # fmt: skip
    listing = {
        "found": [said], "missing": [], "left_out": [], "deleted": [], "same": [],
        "before": {path: None}, "sums": {path: "0"},
    }  # fmt: skip
    lie(pushed, listing)
    with pytest.raises(IntegrityError):
        play(pull(pushed.project, force=True))
    assert (pushed.root / path).read_text() == "mine"


def test_the_vm_cannot_name_what_this_folders_rules_keep_out(pushed: World) -> None:
    write(pushed.root, {".gitignore": "secret.env\n", "secret.env": "mine"})
    listing = {
        "found": [], "missing": [], "left_out": [], "deleted": ["secret.env"], "same": [],
        "before": {"secret.env": None}, "sums": {},
    }  # fmt: skip
    lie(pushed, listing)
    with pytest.raises(IntegrityError):
        play(pull(pushed.project, force=True))
    assert (pushed.root / "secret.env").read_text() == "mine"


def lie(world: World, listing: dict[str, object]) -> None:
    """Replace what the VM's helper answers to a pull."""
    rpc.call(world.ssh, "runs", {"project": "demo"})
    library = world.sshd.home / ".vmctl/lib" / rpc.library()[0] / "vmctl_guest/files/pull.py"
    text = library.read_text()
    library.write_text(f"{text}\n\ndef pull(request):\n    send({listing!r}, True)\n")
    shutil.rmtree(library.parent / "__pycache__", ignore_errors=True)


def test_nothing_pushed_yet_is_nothing_to_pull(world: World) -> None:
    world.remote.mkdir(parents=True)
    started: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Started):
            started.append(event.text)

    result = play(pull(world.project), watch)
    assert (result.files, result.conflicts, result.deleted) == ((), (), ())
    assert started
