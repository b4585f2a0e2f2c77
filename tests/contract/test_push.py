"""Push against a real sshd: any tree arrives as git would take it, and nothing else changes."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness.eventually import eventually
from tests.harness.wire import World, play, write
from vmctl.domain.errors import Conflict, Unreachable, VmctlError
from vmctl.domain.events import Advanced, Event, Info, Story, Warned
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.domain.sync.rsync_output import Via
from vmctl.ssh import rpc
from vmctl.workflows.session import reconnect
from vmctl.workflows.session.session import cache_target
from vmctl.workflows.sync.push import PushResult, push

HOSTILE = [
    "a'; echo foo",
    '"$(touch pwned)"',
    "new\nline",
    "-rf",
    "--delete",
    "~",
    "~root",
    "back\\slash",
    "sp ace ",
    " lead",
    "tab\there",
    "ü",
    "u\u0308",
    "*",
    "[a]",
    "!x",
    "#y",
    "%h",
    os.fsdecode(b"caf\xe9"),
    os.fsdecode(b"\xff\xfe"),
]


def shape(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a folder: content, mode, time and targets; folders where they are empty."""
    found: dict[str, tuple[object, ...]] = {}
    for place, folders, names in os.walk(root):
        base = os.path.relpath(place, root)
        for name in [*names, *folders]:
            path = Path(place, name)
            key = os.path.normpath(f"{base}/{name}")
            status = path.lstat()
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))  # noqa: PTH115
            elif path.is_dir():
                if not any(path.iterdir()):
                    found[key] = ("dir",)
            else:
                found[key] = (path.read_bytes(), status.st_mode & 0o777, status.st_mtime_ns)
    return found


def staging(world: World) -> Path:
    return world.sshd.home / ".vmctl/tmp" / f"push-{world.project.name}"


# -- any tree --------------------------------------------------------------------------------

PART = st.sampled_from(["a", "b", "Ab", "x.py", "log.txt", ".hid", *HOSTILE])
PATH = st.lists(PART, min_size=1, max_size=3).map("/".join)
LEAF = st.one_of(
    st.binary(max_size=64),
    st.sampled_from([b"", b"same", b"same"]),
    st.integers(1, 3).map(lambda times: ("bytes", times * 300_000)),
    st.sampled_from(["a", "../b", "/etc/passwd", "no//where/", "ü"]).map(lambda to: ("link", to)),
    st.just(("dir",)),
)
RULES = st.sampled_from(["", "*.txt\n", "/a\n", "b/\n!b/x.py\n", ".hid\n*.py\n!x.py\n"])
TREE = st.tuples(st.dictionaries(PATH, LEAF, max_size=8), RULES, st.sampled_from([0o644, 0o755]))


def build(root: Path, tree: tuple[dict[str, object], str, int]) -> None:
    for item in root.iterdir():
        shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
    files, rules, mode = tree
    if rules:
        (root / ".gitignore").write_text(rules)
    for path, leaf in files.items():
        place = root / path
        with contextlib.suppress(OSError):  # a file stands where this one wants a folder
            place.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(leaf, bytes):
                place.write_bytes(leaf)
                place.chmod(mode)
            elif leaf == ("dir",):
                place.mkdir()
            elif leaf[0] == "bytes":  # type: ignore[index]
                place.write_bytes(random.Random(1).randbytes(leaf[1]))  # type: ignore[index]
            else:
                place.symlink_to(leaf[1])  # type: ignore[index]


def as_git_says(root: Path, twin: Path) -> dict[str, tuple[object, ...]]:
    """What git would take of a folder, and the empty folders that it does not ignore."""
    quiet = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull, "HOME": str(twin)}
    environment = {**os.environ, **quiet}
    git = ["git", f"--git-dir={twin}", f"--work-tree={root}"]
    subprocess.run([*git, "init", "-q"], check=True, env=environment)

    def ask(*words: str, given: bytes = b"") -> set[str]:
        done = subprocess.run(
            [*git, *words], cwd=root, env=environment, input=given, capture_output=True, check=False
        )
        return {os.fsdecode(name) for name in done.stdout.split(b"\0") if name}

    taken = ask("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    everything = shape(root)
    empty = [path for path, what in everything.items() if what == ("dir",)]
    tops = b"".join(os.fsencode(f"{path}/") + b"\0" for path in empty)
    ignored = {path.rstrip("/") for path in ask("check-ignore", "-z", "--stdin", given=tops)}
    return {
        path: what
        for path, what in everything.items()
        if path in taken or (what == ("dir",) and path not in ignored)
    }


@pytest.mark.skipif(shutil.which("git") is None, reason="git is the judge here")
@pytest.mark.parametrize("examples", [3, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_any_two_trees_arrive_one_after_the_other_as_git_takes_them(
    world: World, tmp_path_factory: pytest.TempPathFactory, examples: int
) -> None:
    @settings(max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(first=TREE, second=TREE)
    def arrive(
        first: tuple[dict[str, object], str, int], second: tuple[dict[str, object], str, int]
    ) -> None:
        as_git_takes_them(world, tmp_path_factory, (first, second))

    arrive()


def as_git_takes_them(
    world: World,
    tmp_path_factory: pytest.TempPathFactory,
    trees: tuple[tuple[dict[str, object], str, int], ...],
) -> None:
    for tree in trees:
        build(world.root, tree)
        play(push(world.project, force=True))  # half of the examples shrink to nearly nothing
        twin = tmp_path_factory.mktemp("git")
        assert shape(world.remote) == as_git_says(world.root, twin)
        again = play(push(world.project, force=True))
        assert (again.moved_files, again.deleted) == (0, ())
    assert not staging(world).exists()


def test_a_folder_that_became_empty_goes_when_it_is_gone_here(world: World) -> None:
    build(world.root, ({"kept": b"", "full/inner/file": b"x"}, "", 0o644))
    play(push(world.project))
    build(world.root, ({"kept": b"", "full": ("dir",)}, "", 0o644))
    play(push(world.project))
    assert shape(world.remote)["full"] == ("dir",)
    build(world.root, ({"kept": b""}, "", 0o644))
    play(push(world.project))
    assert set(shape(world.remote)) == {"kept"}


def test_hostile_names_arrive_and_go_as_they_are(world: World) -> None:
    for name in HOSTILE:
        (world.root / name).write_text(name.encode(errors="replace").decode())
        (world.root / f"in {name}").mkdir()
        (world.root / f"in {name}" / name).symlink_to(name)
    play(push(world.project))
    assert shape(world.remote) == shape(world.root)
    for name in HOSTILE[::2]:
        (world.root / name).unlink()
        shutil.rmtree(world.root / f"in {name}")
    result = play(push(world.project))
    assert len(result.deleted) == 2 * len(HOSTILE[::2])
    assert shape(world.remote) == shape(world.root)
    assert not (world.sshd.home / "pwned").exists()


# -- what moves ------------------------------------------------------------------------------


def test_only_what_is_new_travels(world: World) -> None:
    blob = os.urandom(400_000)
    (world.root / "one.bin").write_bytes(blob)
    (world.root / "run.sh").write_bytes(os.urandom(300_000))
    first = play(push(world.project))
    assert first.sent_bytes > 700_000
    (world.root / "one.bin").rename(world.root / "One.bin")  # another name, even in case only
    (world.root / "two.bin").write_bytes(blob)
    (world.root / "run.sh").chmod(0o755)
    os.utime(world.root / "run.sh", ns=(1, 1_000_000_007))
    second = play(push(world.project))
    assert second.sent_bytes < 20_000, "a name, a mode and a time were told, no content"
    assert second.deleted == ("one.bin",)
    assert shape(world.remote) == shape(world.root)
    assert play(push(world.project)).sent_bytes < 1_000


def test_a_change_that_hides_behind_size_and_time_travels(world: World) -> None:
    write(world.root, {"a": "one", "b": "1"})
    play(push(world.project))
    before = (world.root / "a").stat()
    (world.root / "a").write_text("two")
    os.utime(world.root / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    play(push(world.project))
    assert (world.remote / "a").read_text() == "two"


def test_a_large_file_travels_as_its_difference(world: World) -> None:
    data = bytearray(os.urandom(6_000_000))
    (world.root / "big ü.zip").write_bytes(data)
    play(push(world.project))
    data[3_000_000:3_000_010] = b"0123456789"
    data[100:100] = b"shifted by a few bytes"
    (world.root / "big ü.zip").write_bytes(data)
    result = play(push(world.project))
    assert result.sent_bytes < 200_000
    assert shape(world.remote) == shape(world.root)


def test_without_rsync_here_a_large_file_travels_whole(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (world.root / "big.zip").write_bytes(os.urandom(5_000_000))
    play(push(world.project))
    (world.root / "big.zip").write_bytes(os.urandom(5_000_000))
    for name in ("ssh", "tmux"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    monkeypatch.setenv("PATH", str(tmp_path))
    play(push(world.project))
    assert shape(world.remote) == shape(world.root)


@pytest.mark.parametrize("via", list(Via))
def test_every_way_brings_the_same(world: World, via: Via) -> None:
    write(world.root, {"a": "1", "sub/b": "2", "twin/b": "2", "empty": "", "sp ace/ü'": "3"})
    write(world.root, {"#x": "5", ";y": "6", "- z": "7", "+ z": "8", "!": "9", "#d/#e": "10"})
    write(world.root, {"a'; echo foo": "11", "-rf": "12", "~": "13", "new\nline": "14"})
    (world.root / "link").symlink_to("sub/b")
    (world.root / "hollow").mkdir()
    (world.root / "big").write_bytes(os.urandom(5_000_000))
    play(push(world.project, via=via))
    assert shape(world.remote) == shape(world.root)
    (world.root / "a").unlink()
    write(world.root, {"sub/b": "changed", "-new": "4"})
    write(world.remote, {"made": "there"})
    result = play(push(world.project, via=via))
    assert result.deleted == ("a",)
    assert shape(world.remote) == {**shape(world.root), "made": shape(world.remote)["made"]}
    write(world.remote, {"-new": "edited there"})
    with pytest.raises(Conflict, match="-new changed on the VM"):
        play(push(world.project, via=via))
    assert not staging(world).exists() or not any(staging(world).rglob("b"))


# -- what must not be lost -------------------------------------------------------------------


def test_every_change_on_the_vm_is_listed_and_none_is_overwritten(world: World) -> None:
    write(world.root, {f"n{number:02}": "from here" for number in range(30)})
    play(push(world.project))
    for number in range(25):
        (world.remote / f"n{number:02}").write_text("edited there")
    write(world.root, {"n27": "new here", "model": "here"})
    write(world.remote, {"model": "trained"})
    before = shape(world.remote)
    with pytest.raises(Conflict) as caught:
        play(push(world.project))
    assert "26 files" in caught.value.message
    assert "n19 changed on the VM" in caught.value.message or "model was made" in (
        caught.value.message
    )
    assert "and 6 more" in caught.value.message
    assert "vmctl pull" in caught.value.hint
    assert "--force" in caught.value.hint
    assert shape(world.remote) == before, "not even what could have been pushed was"
    shown = play(push(world.project, dry_run=True))
    assert len(shown.refused) == 26
    play(push(world.project, force=True))
    assert shape(world.remote) == shape(world.root)


def test_touched_or_made_executable_on_the_vm_is_no_change(world: World) -> None:
    write(world.root, {"a": "1", "b": "2"})
    play(push(world.project))
    (world.remote / "a").touch()
    (world.remote / "b").chmod(0o700)
    write(world.root, {"a": "new"})
    play(push(world.project))
    assert shape(world.remote) == shape(world.root)


def test_output_in_a_pushed_empty_folder_outlives_the_folder(world: World) -> None:
    (world.root / "runs").mkdir()
    write(world.root, {"a": "1"})
    play(push(world.project))
    write(world.remote, {"runs/events": "precious"})
    (world.root / "runs").rmdir()
    assert play(push(world.project)).deleted == ()
    assert (world.remote / "runs/events").read_text() == "precious"


def test_nothing_is_deleted_or_written_through_a_link_that_was_made_there(
    world: World, tmp_path: Path
) -> None:
    write(world.root, {"data/x": "1", "b": "2"})
    play(push(world.project))
    elsewhere = tmp_path / "disk"
    shutil.copytree(world.remote / "data", elsewhere)
    shutil.rmtree(world.remote / "data")
    (world.remote / "data").symlink_to(elsewhere)
    with pytest.raises(Conflict, match="'data' is in the place of a folder"):
        play(push(world.project))
    shutil.rmtree(world.root / "data")
    assert play(push(world.project)).deleted == ()
    assert (elsewhere / "x").read_text() == "1"


def test_a_file_of_another_kind_in_the_way(world: World) -> None:
    write(world.root, {"a": "1", "b/c": "2"})
    play(push(world.project))
    (world.remote / "a").unlink()
    (world.remote / "a").mkdir()
    write(world.remote, {"a/output": "precious"})
    write(world.root, {"a": "changed"})
    with pytest.raises(Conflict, match="'a' is in the place of a file"):
        play(push(world.project, force=True))
    assert (world.remote / "a/output").read_text() == "precious"


def test_a_job_that_names_what_stays_here_is_warned_about_once(world: World) -> None:
    write(world.root, {"work/train.py": "1", "data/set/x": "2", "work/prepare.sh": "3"})
    job = JobSettings(
        "train", "python train.py --data ../data/set --out=../runs", "work", ("./prepare.sh",)
    )
    project = dataclasses.replace(world.project, exclude=("data/",), jobs={"train": job})

    def told(dry_run: bool) -> list[str]:
        seen: list[Event] = []
        play(push(project, dry_run=dry_run), seen.append)
        return [event.text for event in seen if isinstance(event, Warned)]

    assert ["data/set" in text and "'train'" in text for text in told(True)] == [True]
    assert len(told(True)) == 1, "each dry run tells it"
    assert len(told(False)) == 1
    assert told(False) == [], "pushes do not repeat themselves"


# -- files that change while they are read ---------------------------------------------------


def test_a_file_that_changes_while_it_is_pushed_arrives_as_it_is_in_the_end(world: World) -> None:
    target = world.root / "log.bin"
    target.write_bytes(os.urandom(30_000_000))
    story = push(world.project)
    for event in story:
        if type(event).__name__ == "Advanced":
            break
    newer = os.urandom(31_000_000)
    target.write_bytes(newer)
    play(story)
    assert (world.remote / "log.bin").read_bytes() == newer
    assert shape(world.remote) == shape(world.root)


def test_a_file_that_never_rests_is_named_and_nothing_is_put_in_place(world: World) -> None:
    write(world.root, {"a": "1"})
    play(push(world.project))
    before = shape(world.remote)
    write(world.root, {"a": "2"})
    target = world.root / "busy.bin"
    target.write_bytes(os.urandom(8_000_000))
    over = threading.Event()

    def scribble() -> None:
        with target.open("r+b") as file:
            while not over.is_set():
                for place in range(0, 8_000_000, 100_000):
                    file.seek(place)
                    file.write(os.urandom(8))
                file.flush()

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        with pytest.raises(Conflict, match=r"busy\.bin keeps changing while it is being pushed"):
            play(push(world.project))
    finally:
        over.set()
        writer.join()
    assert shape(world.remote) == before
    play(push(world.project))
    assert shape(world.remote) == shape(world.root)


def test_a_file_that_goes_away_is_named(world: World) -> None:
    write(world.root, {"a": "1"})
    (world.root / "big.bin").write_bytes(os.urandom(30_000_000))
    (world.root / "last.bin").write_bytes(os.urandom(30_000_000))
    story = push(world.project)
    for event in story:
        if type(event).__name__ == "Advanced":
            break
    (world.root / "last.bin").unlink()
    with pytest.raises(Conflict, match=r"last\.bin disappeared"):
        play(story)
    assert not world.remote.exists() or shape(world.remote) == {}


# -- kills and cuts --------------------------------------------------------------------------


def verbs(world: World) -> list[int]:
    """The push verbs that run on this machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                is_ours = b"push" in words and os.fsencode(world.sshd.home) in b" ".join(words)
                # not a shell that is about to become it
                if is_ours and "python" in (entry / "exe").resolve().name:
                    found.append(int(entry.name))
    return found


DYING = """
import os as _os, signal as _signal, sys as _sys

def _die(event, _, counted=[0]):
    if event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.utime"):
        counted[0] += 1
        if counted[0] == {change}:
            _os.kill(_os.getpid(), _signal.SIGKILL)
        with open({tally!r}, "w") as file:
            file.write(str(counted[0]))

if "push" in _sys.argv:
    _sys.addaudithook(_die)
"""


@contextlib.contextmanager
def dying(world: World, change: int) -> Iterator[Path]:
    """The machine's push is killed just before its so-manieth change; a file tells how many."""
    place = world.sshd.home / ".vmctl/lib" / rpc.library_name() / "__main__.py"
    text, tally = place.read_text(), world.root.parent / "changes"
    place.write_text(DYING.format(change=change, tally=str(tally)) + text)
    try:
        yield tally
    finally:
        place.write_text(text)


@pytest.mark.parametrize(
    "moments", [6, pytest.param(1000, marks=pytest.mark.exhaustive)], ids=["some", "all"]
)
def test_a_push_killed_on_the_vm_before_any_change_is_completed_by_the_next(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: int
) -> None:
    monkeypatch.setattr(reconnect, "LINK_LOST_S", -1.0)
    write(world.root, {f"d{number % 3}/f{number}": f"old {number}" for number in range(20)})
    (world.root / "shape").write_text("a file")
    play(push(world.project))
    eventually(lambda: not verbs(world))
    here, there = Path(os.environ["VMCTL_HOME"]), world.sshd.home
    for folder in (here, there):  # the scene that each kill begins with
        shutil.copytree(folder, tmp_path / f"scene {folder.name}", symlinks=True)
    for number in range(0, 20, 2):
        (world.root / f"d{number % 3}/f{number}").write_text(f"new {number}" * 50)
    for number in range(1, 20, 4):
        (world.root / f"d{number % 3}/f{number}").unlink()
    (world.root / "d0/f3").chmod(0o755)
    write(world.root, {f"e{number % 2}/g{number}": f"more {number}" for number in range(8)})
    (world.root / "shape").unlink()
    write(world.root, {"shape/inner": "now a folder"})
    with dying(world, 0) as tally:
        play(push(world.project))
    eventually(lambda: not verbs(world))
    changes = int(tally.read_text())
    assert changes > 40
    for moment in sorted({1 + changes * part // moments for part in range(moments)}):
        for folder in (here, there):
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / f"scene {folder.name}", folder, symlinks=True)
        with dying(world, moment) as tally, contextlib.suppress(VmctlError):
            play(push(world.project))
        eventually(lambda: not verbs(world))
        for path, what in shape(world.remote).items():
            if what[0] not in ("link", "dir"):  # every file is whole, the old one or the new one
                text = what[0].decode()  # type: ignore[attr-defined]
                assert text.startswith(("old", "new", "more", "a file", "now")), (moment, path)
        play(push(world.project))
        assert shape(world.remote) == shape(world.root), moment
        assert not staging(world).exists(), moment
        again = play(push(world.project))
        assert (again.moved_files, again.deleted) == (0, ()), moment


def test_a_cut_push_comes_back_by_itself(world: World) -> None:
    size = 30_000_000
    (world.root / "big.bin").write_bytes(os.urandom(size))
    notes: list[str] = []
    held: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Info):
            notes.append(event.text)
            held.append(staged(world))
        if isinstance(event, Advanced) and not held and (event.done_bytes or 0) > size // 2:
            eventually(lambda: staged(world) > size // 3)
            world.sshd.cut()

    result = play(push(world.project), watch)
    assert len(notes) == 1
    assert notes[0].startswith("Connection lost, reconnecting")
    # what lay in buffers on the way is lost; what had arrived is not sent again
    assert held[0] > size // 3
    assert result.sent_bytes < 2 * size - held[0] + 100_000
    assert shape(world.remote) == shape(world.root)
    assert play(push(world.project)).moved == ()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lost link is not waited for."""
    monkeypatch.setattr(reconnect, "LINK_LOST_S", -1.0)


@pytest.mark.usefixtures("impatient")
def test_a_cut_push_sends_the_rest(world: World) -> None:
    size = 40_000_000
    (world.root / "big.bin").write_bytes(os.urandom(size))
    story = push(world.project)
    with pytest.raises(Unreachable) as caught:
        for event in story:
            done = getattr(event, "done_bytes", None) or 0
            if done > size // 2:
                eventually(lambda: staged(world) > size // 3)
                world.sshd.cut()
    assert "vmctl push" in caught.value.hint
    held = staged(world)
    assert held > size // 3
    result = play(push(world.project))
    assert result.sent_bytes < size - held + 100_000
    assert shape(world.remote) == shape(world.root)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("removed", [False, True], ids=["", "removed on the VM"])
def test_a_cut_difference_sends_the_rest(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removed: bool
) -> None:
    size, same = 30_000_000, 0 if removed else 6_000_000
    data = os.urandom(size)
    (world.root / "big.bin").write_bytes(data)
    play(push(world.project))
    if removed:  # nobody here knows: the difference is to nothing
        (world.remote / "big.bin").unlink()
    changed = data[:same] + os.urandom(size - 2 * same) + data[size - same :]
    (world.root / "big.bin").write_bytes(changed)
    slow = tmp_path / "rsync"  # the cut comes while it sends
    slow.write_text(f'#!/bin/sh\nexec {shutil.which("rsync")} --bwlimit=16m "$@"\n')
    slow.chmod(0o755)
    failed: list[BaseException] = []

    def client() -> None:
        try:
            with monkeypatch.context() as patch:
                patch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
                play(push(world.project))
        except Unreachable as error:
            failed.append(error)

    thread = threading.Thread(target=client)
    thread.start()
    placed = staging(world) / "placed/big.bin"
    eventually(lambda: placed.exists() and placed.stat().st_size > 10_000_000)
    world.sshd.cut()
    thread.join()
    assert failed, "the cut came too late to say anything"
    held = placed.stat().st_size
    result = play(push(world.project))
    assert result.sent_bytes < size - same - held + 2_000_000, "the end was there from before"
    assert shape(world.remote) == shape(world.root)


def staged(world: World) -> int:
    return sum(item.stat().st_size for item in staging(world).rglob("*") if item.is_file())


def take_lock(story: Story[PushResult], world: World) -> None:
    """Play until the VM has much of it, and wait for its verb's turn to be on record."""
    for event in story:
        if (getattr(event, "done_bytes", None) or 0) > 1_000_000:
            break
    lock = world.sshd.home / f".vmctl/push/{world.project.name}.lock"
    eventually(lambda: json.loads(lock.read_bytes() or b"{}").get("pid") in verbs(world))


def test_a_later_push_ends_one_that_hangs(world: World) -> None:
    write(world.root, {"a": "1"})
    play(push(world.project))
    eventually(lambda: not verbs(world))
    (world.root / "big.bin").write_bytes(os.urandom(3_000_000))
    story = push(world.project)
    take_lock(story, world)
    [stuck] = eventually(lambda: verbs(world))
    other = dataclasses.replace(world.project, owner="another")  # another computer's lock
    cache_target(other, world.ssh_target(), datetime.now(UTC) + timedelta(days=1), None)
    result: PushResult = play(push(other))
    assert result.moved_files == 1
    assert eventually(lambda: stuck not in verbs(world))
    with pytest.raises(Conflict, match="Another push of this project has started in the meantime"):
        play(story)
    assert shape(world.remote) == shape(world.root)


def test_a_push_that_is_refused_ends_nobody_elses(world: World, tmp_path: Path) -> None:
    write(world.root, {"a": "1"})
    play(push(world.project))
    eventually(lambda: not verbs(world))
    (world.root / "big.bin").write_bytes(os.urandom(3_000_000))
    story = push(world.project)
    take_lock(story, world)
    other = dataclasses.replace(world.project, root=tmp_path / "elsewhere", owner="another")
    write(other.root, {"a": "2"})
    cache_target(other, world.ssh_target(), datetime.now(UTC) + timedelta(days=1), None)
    with pytest.raises(Conflict, match="holds a push from"):
        play(push(other))
    play(story)
    assert shape(world.remote) == shape(world.root)


def test_a_project_folder_whose_name_is_no_utf8(world: World, tmp_path: Path) -> None:
    project = dataclasses.replace(world.project, root=tmp_path / os.fsdecode(b"caf\xe9"))
    write(project.root, {"a": "1"})
    cache_target(project, world.ssh_target(), datetime.now(UTC) + timedelta(days=1), None)
    play(push(project))
    assert shape(world.remote) == shape(project.root)


def test_what_arrived_is_proven(world: World) -> None:
    data = os.urandom(2_000_000)
    (world.root / "big.bin").write_bytes(data)
    wrong = staging(world)
    wrong.mkdir(parents=True)
    (wrong / hashlib.sha256(data).hexdigest()).write_bytes(bytes(len(data)))  # a disk that lied
    play(push(world.project))
    assert (world.remote / "big.bin").read_bytes() == data
