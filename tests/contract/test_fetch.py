"""fetch against a real sshd: what comes, what is refused, and what a link may do meanwhile."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.harness.eventually import eventually
from tests.harness.folders import public_folder
from tests.harness.wire import World, play, processes_with, settled, tree, write
from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    HostKeyChanged,
    IntegrityError,
    InvalidInput,
    NotFound,
    Unreachable,
    VmctlError,
)
from vmctl.domain.events import Advanced, Event, Info, Warned
from vmctl.ssh import rpc
from vmctl.ssh.transfer.destination import Destination, part_name
from vmctl.workflows.runs import run as jobs
from vmctl.workflows.session import reconnect
from vmctl.workflows.sync.fetch import FetchResult, fetch
from vmctl.workflows.sync.push import push


def files_of(root: Path) -> dict[bytes, bytes]:
    """Every file below a folder by its name's bytes."""
    top = os.fsencode(root)
    places = [place + b"/" + name for place, _, found in os.walk(top) for name in found]
    return {place[len(top) + 1 :]: Path(os.fsdecode(place)).read_bytes() for place in places}


def told(story: Callable[..., object], *words: object, **options: object) -> tuple[object, str]:
    """A story's result and every word it said."""
    said: list[str] = []
    result = play(
        story(*words, **options),  # type: ignore[arg-type]
        lambda event: said.append(str(getattr(event, "text", ""))),
    )
    return result, "\n".join(said)


# -- what is asked for -----------------------------------------------------------------------


def test_files_folders_and_patterns_at_once(world: World) -> None:
    for name in ("a.pth", "b.pth", "logs/1/x.txt", "logs/2/y.txt", "plots/p.png"):
        settled(world.remote / name, name.encode())
    play(fetch(world.project, ["*.pth", "logs", "plots/p.png"], to=Path("got")))
    assert tree(world.root / "got") == {
        "a.pth": "a.pth", "b.pth": "b.pth", "p.png": "plots/p.png",
        "logs/1/x.txt": "logs/1/x.txt", "logs/2/y.txt": "logs/2/y.txt",
    }  # fmt: skip


def test_two_stars_go_down_all_folders(world: World) -> None:
    for name in ("x.pth", "a/x.pth", "a/b/x.pth", "a/b/other"):
        settled(world.remote / name, name.encode())
    with pytest.raises(InvalidInput, match=r"saved as x\.pth") as caught:
        play(fetch(world.project, ["**/x.pth"]))
    assert "--parents" in caught.value.hint
    assert tree(world.root) == {}
    play(fetch(world.project, ["**/x.pth"], parents=True))
    assert tree(world.root) == {n: n for n in ("x.pth", "a/x.pth", "a/b/x.pth")}


def test_a_pattern_takes_a_folder_once_with_all_it_holds(world: World) -> None:
    settled(world.remote / "runs/1/events", b"1")
    settled(world.remote / "runs/2/events", b"2")
    result = play(fetch(world.project, ["runs/**"]))
    assert tree(world.root) == {"runs/1/events": "1", "runs/2/events": "2"}
    assert len(result.files) == 2


def test_a_name_that_looks_like_a_pattern_is_a_name_first(world: World) -> None:
    settled(world.remote / "a[1].txt", b"itself")
    settled(world.remote / "a1.txt", b"matched")
    play(fetch(world.project, ["a[1].txt"]))
    assert tree(world.root) == {"a[1].txt": "itself"}


def test_one_missing_path_of_several_brings_nothing(world: World) -> None:
    settled(world.remote / "there", b"1")
    with pytest.raises(NotFound, match="'nowhere'"):
        play(fetch(world.project, ["there", "nowhere"], to=Path("got")))
    assert not (world.root / "got").exists()


def test_what_is_neither_file_nor_folder_is_named(world: World) -> None:
    settled(world.remote / "out/file", b"1")
    os.mkfifo(world.remote / "out/pipe")
    _, said = told(fetch, world.project, ["out"])
    assert tree(world.root) == {"out/file": "1"}
    assert "Skipped what is neither file nor folder: pipe" in said


def test_empty_files_and_folders_come_too(world: World) -> None:
    settled(world.remote / "out/empty", b"")
    (world.remote / "out/folder/inner").mkdir(parents=True)
    play(fetch(world.project, ["out"]))
    assert (world.root / "out/empty").read_bytes() == b""
    assert (world.root / "out/folder/inner").is_dir()


# -- names -----------------------------------------------------------------------------------

HOSTILE = [
    b"a'; echo foo", b'"; rm -rf $HOME "', b"new\nline", b"-rf", b"~", b"~root", b"$(id)", b"`id`",
    b"\xff\xfe", b"esc\x1b[31m", b" lead and trail ", b"*", b"a?[b]", b"\xe6\x97\xa5", b"x" * 255,
    b"\\back\\slash", b"#hash", b"%s%n", b"..dots..",
]  # fmt: skip


def test_names_are_kept_byte_for_byte_and_shown_on_one_line(world: World) -> None:
    top = world.remote / "out"
    for name in HOSTILE:
        settled(top / os.fsdecode(name), name)
    (top / "sub\n\x1b[31m").mkdir()
    settled(top / "sub\n\x1b[31m" / "leaf", b"leaf")
    (top / "bad\n\x1b[0mlink").symlink_to("/etc")
    result, said = told(fetch, world.project, ["out"])
    assert files_of(world.root / "out") == files_of(top)
    assert isinstance(result, FetchResult)
    shown = [*(file.path for file in result.files), *result.links_left_out, *said.split("\n")]
    assert len(result.files) == len(HOSTILE) + 1
    for line in shown:
        assert line.isprintable() or not line, repr(line)
        line.encode()


def test_hostile_names_can_be_asked_for(world: World) -> None:
    for name in HOSTILE:
        settled(world.remote / os.fsdecode(name), name)
    asked = [os.fsdecode(name) for name in HOSTILE if not name.startswith(b"~")]
    asked += ["./~", "./~root"]
    play(fetch(world.project, asked, to=Path("got")))
    assert files_of(world.root / "got") == {name: name for name in HOSTILE}


def test_an_error_about_a_hostile_name_is_one_line(world: World) -> None:
    name = "bad\n\x1b[31mhint:  rm -rf"
    place = settled(world.remote / name, b"1")
    with place.open("ab"), pytest.raises(Conflict, match="still being written") as caught:
        play(fetch(world.project, [name]))
    assert caught.value.message.isprintable()
    place.unlink()
    with pytest.raises(NotFound) as missing:
        play(fetch(world.project, [name]))
    assert missing.value.message.isprintable()
    place.symlink_to("nowhere")
    with pytest.raises(NotFound) as broken:
        play(fetch(world.project, [name]))
    assert broken.value.message.isprintable()


names = st.binary(min_size=1, max_size=12).filter(
    lambda name: not set(b"/\0") & set(name) and name not in (b".", b"..")
)
trees = st.dictionaries(
    st.lists(names, min_size=1, max_size=3).map(b"/".join), st.binary(max_size=40), max_size=8
)


@pytest.mark.parametrize("examples", [6, pytest.param(100, marks=pytest.mark.exhaustive)])
def test_any_tree_comes_byte_for_byte(world: World, examples: int) -> None:
    @settings(max_examples=examples, deadline=None)
    @given(trees)
    def come(wanted: dict[bytes, bytes]) -> None:
        comes_byte_for_byte(world, wanted)

    come()


def comes_byte_for_byte(world: World, wanted: dict[bytes, bytes]) -> None:
    top = world.remote / "tree"
    shutil.rmtree(top, ignore_errors=True)
    shutil.rmtree(world.root / "tree", ignore_errors=True)
    top.mkdir(parents=True)
    for name, data in wanted.items():
        place = top / os.fsdecode(name)
        if not place.is_dir() and not any(parent.is_file() for parent in place.parents):
            settled(place, data)
    play(fetch(world.project, ["tree"]))
    assert files_of(world.root / "tree") == files_of(top)
    play(fetch(world.project, ["tree"]))  # and again, over what is there
    assert files_of(world.root / "tree") == files_of(top)


# -- what is here already --------------------------------------------------------------------


def test_what_is_here_and_the_same_is_not_sent_again(world: World) -> None:
    for number in range(5):
        settled(world.remote / f"out/{number}", os.urandom(1000))
    play(fetch(world.project, ["out"]))
    before = [(world.root / f"out/{n}").stat().st_ino for n in range(5)]
    settled(world.remote / "out/3", b"newer")
    (world.remote / "out/1").chmod(0o750)
    result = play(fetch(world.project, ["out"]))
    assert [file.unchanged for file in result.files] == [True, True, True, False, True]
    assert (world.root / "out/1").stat().st_mode & 0o777 == 0o750
    after = [(world.root / f"out/{n}").stat().st_ino for n in range(5)]
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, True, True, False, True]


def test_same_size_and_time_do_not_pass_for_the_same(world: World) -> None:
    settled(world.remote / "model.bin", b"right")
    settled(world.root / "model.bin", b"wrong")
    result = play(fetch(world.project, ["model.bin"]))
    assert (world.root / "model.bin").read_bytes() == b"right"
    assert not result.files[0].unchanged


# -- still being written ---------------------------------------------------------------------


def test_wait_brings_a_file_once_it_is_whole(world: World) -> None:
    place = settled(world.remote / "model.bin", b"")
    writing = place.open("ab")
    heard: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Advanced) and "still being written" in event.text:
            heard.append(event.text)
            writing.write(b"all of it")
            writing.close()
            os.utime(place, (1_700_000_000, 1_700_000_000))

    play(fetch(world.project, ["model.bin"], wait=True), watch)
    assert heard
    assert "Ctrl-C" in heard[0]
    assert (world.root / "model.bin").read_bytes() == b"all of it"


# it looks for the file: a pipe that is opened before its reader is there would lose the word
TRAIN = """
import os, time
print("begun", flush=True)
while not os.path.exists(os.path.expanduser("~/go")):
    time.sleep(0.02)
os.makedirs("plots")
open("model.bin", "w").write("new")
open("plots/p", "w").write("p")
"""


@pytest.fixture
def going(world: World) -> Iterator[World]:
    """A run that writes its outputs when ~/go appears."""
    write(world.root, {"work/prepare.sh": "#!/bin/sh\n", "work/train.py": TRAIN})
    (world.root / "work/prepare.sh").chmod(0o755)
    play(push(world.project))
    play(jobs.run(world.project, "train", detach=True))
    yield world
    (world.sshd.home / "go").touch()
    eventually(lambda: jobs.ps(world.project)[0].state != "running")


def test_wait_brings_outputs_that_the_run_has_yet_to_write(going: World) -> None:
    with pytest.raises(NotFound, match="--wait"):
        play(fetch(going.project, ["model.bin"]))
    heard: list[str] = []

    def watch(event: Event) -> None:
        if isinstance(event, Advanced) and "has not written model.bin yet" in event.text:
            heard.append(event.text)
            (going.sshd.home / "go").touch()

    play(fetch(going.project, [], to=Path("got"), wait=True), watch)
    assert heard
    assert tree(going.root / "got") == {"model.bin": "new", "plots/p": "p"}


def test_an_earlier_runs_output_is_said_to_be_one(going: World) -> None:
    settled(going.remote / "work/model.bin", b"old")
    settled(going.remote / "work/plots/p", b"old")
    _, said = told(fetch, going.project, [], to=Path("got"))
    assert "model.bin is from an earlier run" in said
    assert tree(going.root / "got") == {"model.bin": "old", "plots/p": "old"}
    shutil.rmtree(going.remote / "work/plots")


# -- a run's own tree ------------------------------------------------------------------------


def test_what_a_run_writes_is_there_at_once_and_known_to_be_unfinished(going: World) -> None:
    tree_of_run = next((going.sshd.home / ".vmctl/runs").glob("train-*")) / "tree"
    made = tree_of_run / "work/live.bin"
    with made.open("wb") as writing:
        writing.write(b"half")
        writing.flush()
        with pytest.raises(Conflict, match="still being written by"):
            play(fetch(going.project, ["live.bin"]))
        # the workspace soon has it under a second name: the same file, the same answer
        eventually((going.remote / "work/live.bin").exists)
        with pytest.raises(Conflict, match="still being written by"):
            play(fetch(going.project, [str(going.remote / "work/live.bin")]))
        writing.write(b" and half")
    os.utime(made, (1_700_000_000, 1_700_000_000))
    play(fetch(going.project, ["live.bin", "work"], to=Path("got")))
    found = tree(going.root / "got")
    assert found["live.bin"] == found["work/live.bin"] == "half and half"
    assert found["work/train.py"] == TRAIN


def test_what_a_run_kept_for_itself_comes_before_the_workspaces(world: World) -> None:
    write(world.root, {"work/prepare.sh": "#!/bin/sh\n", "work/train.py": "print(1)\n"})
    (world.root / "work/prepare.sh").chmod(0o755)
    play(push(world.project))
    assert play(jobs.run(world.project, "train")).code == 0
    directory = next((world.sshd.home / ".vmctl/runs").glob("train-*"))
    kept = directory / "tree" / "work"
    settled(kept / "model.bin", b"the run's")
    settled(kept / "plots" / "mine", b"the run's")
    settled(world.remote / "work/model.bin", b"somebody's")
    settled(world.remote / "work/plots/theirs", b"somebody's")
    play(fetch(world.project, ["model.bin", "plots", "work"], to=Path("got")))
    found = tree(world.root / "got")
    assert found["model.bin"] == found["work/model.bin"] == "the run's"
    assert found["plots/mine"] == found["work/plots/mine"] == "the run's"
    assert found["plots/theirs"] == found["work/plots/theirs"] == "somebody's"


def test_waiting_can_be_left_and_leaves_nothing_on_the_vm(world: World) -> None:
    place = settled(world.remote / "model.bin", b"")
    with place.open("ab"):
        story = fetch(world.project, ["model.bin"], wait=True)
        for event in story:
            if isinstance(event, Advanced) and "Waiting" in event.text:
                break
        assert helpers(world)
        story.close()
        eventually(lambda: not helpers(world))
    assert tree(world.root) == {}


def helpers(world: World) -> set[int]:
    """The helper programs of this machine that run."""
    return processes_with(os.fsencode(world.sshd.home / ".vmctl/lib"))


def test_a_file_written_to_while_it_is_sent_is_no_file(world: World) -> None:
    place = settled(world.remote / "big.bin", os.urandom(20_000_000))

    def watch(event: Event) -> None:
        if isinstance(event, Advanced) and (event.done_bytes or 0) > 1_000_000:
            os.utime(place, (1_700_000_001, 1_700_000_001))

    with pytest.raises(Conflict, match="while it was being fetched"):
        play(fetch(world.project, ["big.bin"]), watch)
    assert tree(world.root) == {}


def test_wait_fetches_again_what_changed_while_it_was_sent(world: World) -> None:
    place = settled(world.remote / "big.bin", os.urandom(20_000_000))
    last = os.urandom(10_000)
    changed: list[int] = []

    def watch(event: Event) -> None:
        if not changed and isinstance(event, Advanced) and (event.done_bytes or 0) > 1_000_000:
            changed.append(1)
            settled(place, last)

    play(fetch(world.project, ["big.bin"], wait=True), watch)
    assert (world.root / "big.bin").read_bytes() == last


# -- the link --------------------------------------------------------------------------------


def test_a_machine_that_is_away_for_a_while_is_come_back_to(world: World) -> None:
    data = os.urandom(30_000_000)
    settled(world.remote / "big.bin", data)
    lost: list[str] = []
    back: list[threading.Timer] = []

    def watch(event: Event) -> None:
        if not back and isinstance(event, Advanced) and (event.done_bytes or 0) > 5_000_000:
            world.sshd.stop()
            back.append(threading.Timer(2.0, world.sshd.start))
            back[0].start()
        if isinstance(event, Info) and "Connection lost" in event.text:
            lost.append(event.text)

    try:
        play(fetch(world.project, ["big.bin"]), watch)
    finally:
        back[0].join()
    assert len(lost) == 1
    assert (world.root / "big.bin").read_bytes() == data
    assert [item.name for item in world.root.iterdir()] == ["big.bin"]


def test_an_impostor_at_its_address_gets_nothing_and_gives_nothing(
    own_world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnect, "ACCESS_LOST_S", 0.5)
    settled(own_world.remote / "big.bin", os.urandom(30_000_000))
    stopped: list[int] = []

    def watch(event: Event) -> None:
        if not stopped and isinstance(event, Advanced) and (event.done_bytes or 0) > 5_000_000:
            stopped.append(1)
            own_world.sshd.stop()
            own_world.sshd.new_host_key()
            own_world.sshd.start()

    # the API, which would tell whether the VM has moved, cannot be asked here
    with pytest.raises((HostKeyChanged, AccessDenied)):
        play(fetch(own_world.project, ["big.bin"]), watch)
    assert [item.name for item in own_world.root.iterdir()] == [part_name("big.bin")]


def test_the_rest_of_a_folder_comes_over_the_next_connection(world: World) -> None:
    for number in range(40):
        settled(world.remote / f"out/{number:02}", os.urandom(500_000))
    there = files_of(world.remote / "out")
    os.mkfifo(world.remote / "out/pipe")
    warned: list[str] = []
    cut: list[int] = []

    def watch(event: Event) -> None:
        if isinstance(event, Warned):
            warned.append(event.text)
        if not cut and isinstance(event, Advanced) and (event.done_bytes or 0) > 10_000_000:
            cut.append(1)
            world.sshd.cut()

    result = play(fetch(world.project, ["out"]), watch)
    assert cut
    assert len(warned) == 1, "what is left out is told once, not again over each connection"
    assert files_of(world.root / "out") == there
    assert len(result.files) == 40
    assert result.bytes == 20_000_000


# -- what stands here ------------------------------------------------------------------------


def test_a_link_in_place_of_the_part_is_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("keep")
    settled(world.remote / "model.bin", b"data")
    (world.root / part_name("model.bin")).symlink_to(outside)
    play(fetch(world.project, ["model.bin"]))
    assert outside.read_text() == "keep"
    assert tree(world.root) == {"model.bin": "data"}


def test_a_pipe_or_a_second_name_in_place_of_the_part_is_not_used(
    world: World, tmp_path: Path
) -> None:
    settled(world.remote / "one", b"1")
    settled(world.remote / "two", b"2")
    os.mkfifo(world.root / part_name("one"))
    outside = tmp_path / "outside"
    outside.write_text("keep")
    (world.root / part_name("two")).hardlink_to(outside)
    play(fetch(world.project, ["one", "two"]))
    assert outside.read_text() == "keep"
    assert tree(world.root) == {"one": "1", "two": "2"}


@contextlib.contextmanager
def as_an_ordinary_user() -> Iterator[Path]:
    """A folder, and no right to anything that its mode denies; root has all rights."""
    folder = public_folder("contract")
    is_root = os.geteuid() == 0
    if is_root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if is_root:
            os.seteuid(0)
        shutil.rmtree(folder)


def test_a_part_that_was_killed_with_its_last_mode_is_in_nobodys_way() -> None:
    with as_an_ordinary_user() as folder:
        destination = Destination(folder)
        for data in (b"killed", b"whole"):
            part = destination.open_part("model.bin")
            part.begin(0)
            part.write(data)
            if data == b"killed":
                part.close()
                (folder / part_name("model.bin")).chmod(0o444)
            else:
                part.finish(0o444, 0)
                part.close()
        destination.close()
        assert tree(folder) == {"model.bin": "whole"}


def test_a_link_here_is_replaced_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("keep")
    settled(world.remote / "model.bin", b"data")
    (world.root / "model.bin").symlink_to(outside)
    play(fetch(world.project, ["model.bin"]))
    assert outside.read_text() == "keep"
    assert not (world.root / "model.bin").is_symlink()


def test_a_folder_swapped_for_a_link_at_any_moment_leads_nowhere(tmp_path: Path) -> None:
    top, outside, aside = (tmp_path / name for name in ("top", "outside", "aside"))
    (top / "sub").mkdir(parents=True)
    outside.mkdir()
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            (top / "sub").rename(aside)
            (top / "sub").symlink_to(outside)
            (top / "sub").unlink()
            aside.rename(top / "sub")

    thread = threading.Thread(target=swap)
    thread.start()
    landed = 0
    deadline = time.monotonic() + 20
    try:
        while landed < 10 and time.monotonic() < deadline:
            destination = Destination(top)
            try:
                destination.folder("sub", make=False)
                part = destination.open_part("sub/file")
                part.begin(0)
                part.write(b"x")
                part.finish(0o600, 0)
                part.close()
                landed += 1
            except (Conflict, FileNotFoundError):
                pass  # it was a link, or away, just then
            finally:
                destination.close()
    finally:
        stop.set()
        thread.join()
    assert landed, "no file ever landed: the race was not run"
    assert list(outside.iterdir()) == []


def test_a_folder_that_cannot_hold_it_is_said_before_anything_comes(world: World) -> None:
    place = settled(world.remote / "huge.bin", b"x")
    with place.open("r+b") as file:
        file.truncate(1 << 43)  # as the file system allows: no bytes are behind it
    os.utime(place, (1_700_000_000, 1_700_000_000))
    with pytest.raises(InvalidInput, match="disk is full"):
        play(fetch(world.project, ["huge.bin"]))
    assert list(world.root.iterdir()) == []


# -- a VM that lies --------------------------------------------------------------------------


@pytest.fixture
def lie(world: World) -> Callable[[str], None]:
    """Replaces what the VM's helper answers to a fetch."""
    rpc.call(world.ssh, "runs", {"project": "demo"})
    library = world.sshd.home / ".vmctl/lib" / rpc.library()[0] / "vmctl_guest/files/sender.py"
    text = library.read_text()

    def change(lines: str) -> None:
        library.write_text(f"{text}\n\ndef fetch(request):\n{lines}\n")
        shutil.rmtree(library.parent / "__pycache__", ignore_errors=True)

    return change


ENTRY = ["file", "", 4, 1, 420, ""]


def listing(**changed: object) -> dict[str, object]:
    item = {
        "wanted": "x", "base": "x", "inside": "x", "path": "/x", "kind": "file", "files": [ENTRY],
        **changed,
    }  # fmt: skip
    return {"found": [item], "missing": [], "run": None, "going": False}


SEND = """
    data = zlib.compress(json.dumps({listing!r}).encode())
    _line({{"listing": len(data)}})
    _write(data)
    _line({{"number": 0, "offset": 0, "bytes": 4}})
    _write(b"evil")
    told = {{"changed": False, "mtime_ns": 1, "mode": 420}}
    _line({{"sha256": hashlib.sha256(b"evil").hexdigest(), **told}})
    _line({{"end": True}})
"""


def test_the_lying_helper_is_believed_where_it_does_not_lie(
    world: World, lie: Callable[[str], None]
) -> None:
    lie(SEND.format(listing=listing()))
    play(fetch(world.project, ["x"]))
    assert tree(world.root) == {"x": "evil"}


OUTSIDE: list[dict[str, object]] = [
    {"base": "../x"},
    {"base": "/tmp/x"},
    {"base": ".."},
    {"kind": "dir", "files": [["file", "../../x", 4, 1, 420, ""]]},
    {"kind": "dir", "files": [["file", "/tmp/x", 4, 1, 420, ""]]},
    {"kind": "dir", "files": [["link", "l", 0, 1, 0, "/tmp"], ["file", "l/x", 4, 1, 0, ""]]},
    {"kind": "socket"},
    {"files": []},
    {"files": None},
]


def test_a_listing_that_leads_outside_is_refused(
    world: World, lie: Callable[[str], None], tmp_path: Path
) -> None:
    def here() -> set[Path]:
        ours = (tmp_path / "machine", tmp_path / "vmctl's home ü 100%")
        return {p for p in tmp_path.rglob("*") if not any(p.is_relative_to(o) for o in ours)}

    before = here()
    for changed in OUTSIDE:
        lie(SEND.format(listing=listing(**changed)))
        with pytest.raises(IntegrityError) as caught:
            play(fetch(world.project, ["x"], to=Path("got")))
        assert caught.value.exit_code == 9
        assert here() == before, changed


HOOK = {
    "base": ".git", "inside": ".git", "kind": "dir",
    "files": [["file", "hooks/pre-commit", 4, 1, 0o755, ""]],
}  # fmt: skip
NOT_ASKED: list[tuple[str, dict[str, object]]] = [
    ("model.pt", {"base": "vmctl.toml", "inside": "vmctl.toml"}),
    ("model.pt", HOOK),
    ("*", HOOK),
    ("*.pt", {"base": "train.py", "inside": "train.py"}),
    ("model.pt", {"base": "model.pt", "inside": ".git/model.pt"}),
    ("model.pt", {"base": "model.pt", "inside": "vmctl.toml"}),
]


@pytest.mark.parametrize("parents", [False, True])
def test_a_name_that_was_not_asked_for_is_refused(
    world: World, lie: Callable[[str], None], parents: bool
) -> None:
    write(world.root, {"vmctl.toml": "mine", ".git/HEAD": "mine", "train.py": "mine"})
    before = tree(world.root)
    for asked, changed in NOT_ASKED:
        lie(SEND.format(listing=listing(wanted=asked, **changed)))
        with pytest.raises(IntegrityError, match="not asked for"):
            play(fetch(world.project, [asked], parents=parents))
        assert tree(world.root) == before, changed


TRUE = SEND.format(listing=listing())
NO_ANSWER: list[tuple[str, type[VmctlError]]] = [
    ('    _line({"listing": -1})', IntegrityError),
    ('    _line({"listing": 1 << 60})', IntegrityError),
    ('    _line({"listing": 4}); _write(b"junk")', IntegrityError),
    ('    _write(b"[" * 70000 + b"\\n")', IntegrityError),
    ('    _write(b"x" * 1000000)', IntegrityError),
    ('    _line(["no", "object"])', IntegrityError),
    ("    sys.exit(3)", VmctlError),
    (TRUE.replace('"offset": 0', '"offset": 3'), IntegrityError),
    (TRUE.replace('"number": 0', '"number": 7'), IntegrityError),
    (TRUE.replace('b"evil").hex', 'b"else").hex'), IntegrityError),
    (TRUE.replace('"bytes": 4', '"bytes": 2'), IntegrityError),
    (TRUE.replace('"bytes": 4', '"bytes": -2'), IntegrityError),
]


def test_an_answer_that_is_none_is_one_clear_error(
    world: World, lie: Callable[[str], None]
) -> None:
    write(world.root, {"x": "mine"})
    for lines, error in NO_ANSWER:
        lie(lines)
        with pytest.raises(error) as caught:
            play(fetch(world.project, ["x"]))
        assert caught.value.message.isprintable(), lines
        assert tree(world.root)["x"] == "mine", lines
        (world.root / part_name("x")).unlink(missing_ok=True)
    lie(TRUE.replace('{"end": True}', '{"end": 0}'))
    with pytest.raises(IntegrityError):  # the file is proven, the end is not
        play(fetch(world.project, ["x"]))


def test_a_vm_that_is_gone_is_unreachable(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconnect, "LINK_LOST_S", 0.5)
    monkeypatch.setattr(reconnect, "ACCESS_LOST_S", 0.5)
    settled(world.remote / "big.bin", os.urandom(30_000_000))

    def watch(event: Event) -> None:
        if isinstance(event, Advanced) and (event.done_bytes or 0) > 5_000_000:
            world.sshd.stop()

    # the API cannot be asked here: nobody knows us there
    with pytest.raises((Unreachable, AccessDenied)):
        play(fetch(world.project, ["big.bin"]), watch)
    assert (world.root / part_name("big.bin")).stat().st_size > 4_000_000
    world.sshd.start()
    result = play(fetch(world.project, ["big.bin"]))
    assert result.files[0].resumed_at > 4_000_000
