"""A run's tree and its workspace: the code stays, everything else is one."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vmctl.guest import paths
from vmctl.guest.files import lookup
from vmctl.guest.runs import mirror, run_tree, snapshot
from vmctl.guest.runs.mirror import Mirror
from vmctl.guest.runs.run_tree import RunTree
from vmctl.guest.sync import pushed_index, record


class World:
    """A VM's home with one workspace, what pushes put there, and one run."""

    def __init__(self, home: Path) -> None:
        self.root = home / "Workspace" / "p"
        self.root.mkdir(parents=True)
        self.run = home / ".vmctl" / "runs" / "job-1"
        self.top = self.run / "tree"
        self.opened: list[RunTree] = []

    def push(self, files: dict[str, bytes | None]) -> None:
        """What a push does: the record names what comes, a rename puts it, deletions last."""
        known = record.PushRecord("p")
        for path, data in files.items():
            place = self.root / path
            if data is None:
                place.unlink(missing_ok=True)
                known.files.pop(path, None)
                continue
            place.parent.mkdir(parents=True, exist_ok=True)
            part = self.root.parent / "part"
            part.write_bytes(data)
            sha = hashlib.sha256(data).hexdigest()
            known.files[path] = ["f", sha, len(data), part.stat().st_mtime_ns, 0o644]
            part.replace(place)
        known.commit()

    def start(self, **request: Any) -> Mirror:
        """A run's tree, and its carrier's view of it."""
        self.run.mkdir(parents=True)
        (self.run / "spec.json").write_text("{}")
        (self.run / "log").touch()
        asked = {"project": "p", "directory": "", "outputs": [], **request}
        snapshot.take(self.run, asked)
        return self.again()

    def again(self) -> Mirror:
        """Another carrier's view: what it knows is in the journal."""
        loaded = RunTree.load(self.run, wait=False)
        assert loaded is not None
        self.opened.append(loaded)
        return Mirror(loaded)

    def end(self, shared: Mirror) -> list[str]:
        told = snapshot.sync_back(shared)
        snapshot.dismantle(shared.tree)
        shared.tree.close()
        return told


def settle(shared: Mirror) -> None:
    """Two looks: a removal counts when it was seen twice."""
    shared.sync()
    shared.sync()


@contextmanager
def at_home(home: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        state = home / ".vmctl"
        for module in (paths, lookup, pushed_index, record, mirror, snapshot, run_tree):
            for name, place in (("HOME", home), ("STATE", state), ("RUNS", state / "runs")):
                if hasattr(module, name):
                    patch.setattr(module, name, place)
        made = World(home)
        yield made
        for held in made.opened:
            held.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with at_home(tmp_path) as made:
        yield made


def content(top: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(top)): path.read_bytes()
        for path in top.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_a_push_never_changes_the_code_under_a_run(world: World) -> None:
    world.push({"main.py": b"1", "pkg/lazy.py": b"1", "pkg/gone.py": b"1", "pkg/old.py": b"1"})
    shared = world.start()
    world.push({"main.py": b"2", "pkg/lazy.py": b"2", "pkg/gone.py": None, "new/x.py": b"2"})
    world.push({"pkg/plugin.py": b"2", "plugin.py": b"2"})
    settle(shared)
    kept = {"main.py": b"1", "pkg/lazy.py": b"1", "pkg/gone.py": b"1", "pkg/old.py": b"1"}
    assert content(world.top) == kept
    assert world.end(shared) == []
    assert content(world.root) == {
        "main.py": b"2", "pkg/lazy.py": b"2", "pkg/old.py": b"1", "new/x.py": b"2",
        "pkg/plugin.py": b"2", "plugin.py": b"2",
    }  # fmt: skip
    assert not world.top.exists()


def test_a_run_that_starts_during_a_push_has_the_whole_of_it(world: World) -> None:
    world.push({"a.py": b"1", "b.py": b"1"})
    lock = paths.STATE / "push" / "p.tree.lock"
    thread = threading.Thread(target=world.start)
    with record.hold_tree("p"):
        world.push({"a.py": b"2"})
        thread.start()
        while thread.is_alive() and not is_waited_for(lock):
            time.sleep(0.001)
        world.push({"b.py": b"2"})
    thread.join()
    assert content(world.top) == {"a.py": b"2", "b.py": b"2"}


def is_waited_for(lock: Path) -> bool:
    """Whether the kernel makes somebody wait for a lock."""
    inode = f":{lock.stat().st_ino} "
    lines = Path("/proc/locks").read_text().splitlines()
    return any(" -> FLOCK " in line and inode in line for line in lines)


def test_mode_and_time_of_the_code_are_kept(world: World) -> None:
    world.push({"go.sh": b"#!/bin/sh\n"})
    (world.root / "go.sh").chmod(0o755)
    os.utime(world.root / "go.sh", ns=(1, 1_234_567_890_123_456_789))
    world.start()
    found = (world.top / "go.sh").stat()
    assert (found.st_mode & 0o777, found.st_mtime_ns) == (0o755, 1_234_567_890_123_456_789)
    assert not (world.top / "go.sh").samefile(world.root / "go.sh")


def test_what_a_run_makes_is_in_the_workspace_at_once_and_grows_there(world: World) -> None:
    world.push({"main.py": b"1"})
    shared = world.start()
    (world.top / "runs/UNet").mkdir(parents=True)
    with (world.top / "runs/UNet/events").open("wb") as events:
        events.write(b"one")
        events.flush()
        shared.sync()
        assert (world.root / "runs/UNet/events").read_bytes() == b"one"
        events.write(b"two")
    assert (world.root / "runs/UNet/events").read_bytes() == b"onetwo"
    assert not (world.root / "runs").is_symlink()
    (world.top / "part").write_bytes(b"w")
    (world.top / "part").replace(world.top / "unet.pth")
    world.end(shared)
    assert content(world.root) == {
        "main.py": b"1", "runs/UNet/events": b"onetwo", "unet.pth": b"w"
    }  # fmt: skip


def test_replaced_and_removed_outputs_are_so_in_the_workspace(world: World) -> None:
    world.push({"main.py": b"1"})
    for name in ("unet.pth", "runs/old", "runs/deep/old", "keep"):
        (world.root / name).parent.mkdir(parents=True, exist_ok=True)
        (world.root / name).write_bytes(b"of an earlier run")
    shared = world.start()
    shutil.rmtree(world.top / "runs")
    (world.top / "runs").mkdir()
    (world.top / "runs/new").write_bytes(b"new")
    (world.top / "part").write_bytes(b"better")
    (world.top / "part").replace(world.top / "unet.pth")
    (world.top / "keep").rename(world.top / "kept")
    settle(shared)
    wanted = {
        "main.py": b"1", "unet.pth": b"better", "runs/new": b"new", "kept": b"of an earlier run"
    }  # fmt: skip
    assert content(world.root) == wanted
    assert world.end(shared) == []
    assert content(world.root) == wanted


def test_what_comes_into_the_workspace_meanwhile_comes_to_the_run(world: World) -> None:
    world.push({"main.py": b"1"})
    shared = world.start(outputs=["own.pth"])
    (world.root / "STOP").touch()
    os.utime(world.root / "STOP", (1, 1))  # not written to since the last look
    (world.root / "other/deep").mkdir(parents=True)
    (world.root / "other/deep/x").write_bytes(b"x")
    (world.root / "own.pth").write_bytes(b"another run's")
    settle(shared)
    assert content(world.top) == {"main.py": b"1", "STOP": b"", "other/deep/x": b"x"}
    (world.root / "STOP").unlink()
    settle(shared)
    assert not (world.top / "STOP").exists()
    (world.top / "own.pth").write_bytes(b"mine")
    (line,) = world.end(shared)
    assert "own.pth" in line
    assert (world.root / "own.pth").read_bytes() == b"another run's"
    tops = lookup._tops(world.root, {"id": "job-1"})
    assert [place.read_bytes() for place in lookup._both(tops, "", "own.pth")] == [b"mine"]
    assert lookup._both(tops, "", "other") == [world.root / "other"]
    found = lookup._both(tops, "", "*.p*")
    assert sorted(found) == sorted([world.top / "own.pth", world.root / "main.py"])


def test_what_a_run_writes_into_a_file_that_was_just_removed_is_not_lost(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root / "log").write_bytes(b"earlier")
    shared = world.start()
    settle(shared)
    (world.root / "log").unlink()
    (world.top / "log").write_bytes(b"by the run")
    settle(shared)
    world.end(shared)
    assert (world.root / "log").read_bytes() == b"by the run"


def test_what_the_workspace_has_lost_since_stays_in_the_tree(world: World) -> None:
    world.push({"main.py": b"1"})
    shared = world.start()
    (world.top / "made").write_bytes(b"m")
    snapshot.sync_back(shared)
    (world.root / "made").unlink()
    snapshot.dismantle(shared.tree)
    assert content(world.top) == {"made": b"m"}


def test_a_pushed_file_that_the_run_wrote_goes_home_unless_it_was_pushed_again(
    world: World,
) -> None:
    world.push({"a.json": b"{}", "b.json": b"{}", "c.json": b"{}"})
    shared = world.start()
    for name in ("a.json", "b.json"):
        (world.top / name).write_bytes(b"by the run")
    os.utime(world.top / "c.json")
    world.push({"b.json": b"pushed again"})
    (line,) = world.end(shared)
    assert "b.json" in line
    assert content(world.root) == {
        "a.json": b"by the run", "b.json": b"pushed again", "c.json": b"{}"
    }  # fmt: skip
    assert content(world.top) == {"b.json": b"by the run"}


def test_what_set_up_makes_and_changes_is_the_runs(world: World) -> None:
    world.push({"main.py": b"1", "config": b"NAME"})
    shared = world.start(outputs=["data/made"])
    (world.root / "data").mkdir()
    (world.root / "data/made").write_bytes(b"m")
    (world.root / "config").write_bytes(b"vm")
    shared.sync(after_setup=True)
    assert content(world.top) == {"main.py": b"1", "config": b"vm", "data/made": b"m"}


def test_a_push_during_set_up_is_not_taken_for_set_up(world: World) -> None:
    world.push({"main.py": b"1"})
    shared = world.start()
    world.push({"main.py": b"2"})
    shared.sync(after_setup=True)
    assert content(world.top) == {"main.py": b"1"}


def test_a_very_full_folder_is_linked_as_a_whole(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tree, "MANY", 20)
    world.push({"main.py": b"1", "data/.gitkeep": b"", "src/x.py": b"1"})
    for number in range(30):
        for folder in ("data/photos", "src/cache"):
            (world.root / folder).mkdir(parents=True, exist_ok=True)
            (world.root / folder / str(number)).write_bytes(b"p")
    shared = world.start(directory="out/deep")
    assert (world.top / "data").is_symlink()
    assert not (world.top / "src").is_symlink()
    assert (world.top / "src/cache").is_symlink()
    (world.top / "data/photos/new").write_bytes(b"n")
    assert (world.root / "data/photos/new").read_bytes() == b"n"
    (world.top / "src/cache").unlink()
    (world.top / "src/cache").mkdir()
    (world.top / "src/cache/3").write_bytes(b"anew")
    (world.top / "data").unlink()
    told = world.end(shared)
    assert len(content(world.root / "data/photos")) == 31, "only the link was removed"
    assert any("data" in line for line in told)
    assert (world.root / "src/cache/3").read_bytes() == b"anew"
    assert len(content(world.root / "src/cache")) == 30


def test_a_job_in_a_folder_that_no_push_made_still_finds_its_code_above(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_tree, "MANY", 3)
    world.push({"main.py": b"1"})
    (world.root / "out").mkdir()
    for number in range(9):
        (world.root / "out" / str(number)).touch()
    world.start(directory="out")
    world.push({"main.py": b"2"})
    assert (world.top / "out" / ".." / "main.py").read_bytes() == b"1"


def test_links_lead_where_they_led(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root.parent / "elsewhere").write_bytes(b"far")
    (world.root / "far").symlink_to("../elsewhere")
    (world.root / "near").symlink_to("main.py")
    shared = world.start()
    assert (world.top / "far").read_bytes() == b"far"
    assert str((world.top / "near").readlink()) == "main.py"
    (world.top / "ckpt").write_bytes(b"c")
    (world.top / "latest").symlink_to(world.top / "ckpt")
    world.end(shared)
    assert (world.root / "latest").read_bytes() == b"c"
    assert (world.root / "far").read_bytes() == b"far"


def test_compiled_modules_are_each_runs_own(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root / "__pycache__").mkdir()
    (world.root / "__pycache__/main.pyc").write_bytes(b"of another code")
    shared = world.start()
    assert not (world.top / "__pycache__").exists()
    (world.top / "__pycache__").mkdir()
    (world.top / "__pycache__/lazy.pyc").write_bytes(b"of this code")
    assert world.end(shared) == []
    assert content(world.root / "__pycache__") == {"main.pyc": b"of another code"}
    assert not world.top.exists()


def test_modules_compiled_where_no_code_was_pushed_are_shared(world: World) -> None:
    world.push({"main.py": b"1"})
    compiled = world.root / "venv/lib/__pycache__/torch.pyc"
    compiled.parent.mkdir(parents=True)
    compiled.write_bytes(b"took ten seconds")
    world.start()
    assert (world.top / "venv/lib/__pycache__/torch.pyc").samefile(compiled)


def test_a_database_has_one_name_so_that_its_journal_is_found(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root / "optuna.db").write_bytes(b"SQLite")
    world.start()
    assert (world.top / "optuna.db").resolve() == world.root / "optuna.db"


def test_a_copy_serves_the_next_run_as_long_as_it_is_right(world: World) -> None:
    world.push({"same.py": b"1", "pushed.py": b"1", "edited.py": b"1", "written.py": b"1"})
    wait_for_a_tick(world.root)
    world.end(world.start())
    world.push({"pushed.py": b"2"})
    before = (world.root / "edited.py").stat()
    (world.root / "edited.py").write_bytes(b"2")
    os.utime(world.root / "edited.py", ns=(before.st_atime_ns, before.st_mtime_ns))
    wait_for_a_tick(world.root)
    for number in (2, 3):
        world.run = world.run.with_name(f"job-{number}")
        world.top = world.run / "tree"
        shared = world.start()
        right = {"same.py": b"1", "pushed.py": b"2", "edited.py": b"2", "written.py": b"1"}
        assert content(world.top) == right
        (world.top / "written.py").write_bytes(b"by the run")
        world.push({"written.py": b"1"})
        wait_for_a_tick(world.root)
        world.end(shared)
    stored = list((world.run.parents[1] / "trees/p/code").iterdir())
    assert len(stored) <= 4, "what no run has use for is forgotten"


def test_two_runs_at_once_share_no_copy(world: World) -> None:
    world.push({"config.json": b"{}"})
    wait_for_a_tick(world.root)
    world.end(world.start())
    tops = []
    for number in (2, 3):
        world.run = world.run.with_name(f"job-{number}")
        world.top = world.run / "tree"
        world.start()
        tops.append(world.top)
    (tops[0] / "config.json").write_bytes(b"by the first")
    assert (tops[1] / "config.json").read_bytes() == b"{}"


def wait_for_a_tick(folder: Path) -> None:
    """Until what is in a folder is surely older than the file system's clock can blur."""
    newest = max(path.stat().st_ctime_ns for path in folder.rglob("*"))
    while time.time_ns() < newest + 2 * run_tree.COARSE_NS:
        os.sched_yield()


def test_one_run_after_the_other_is_at_the_same_place(world: World) -> None:
    world.push({"main.py": b"1"})
    shared = world.start()
    place = world.top.resolve()
    (world.root / "mine").write_bytes(b"w")
    (world.top / "mine").write_bytes(b"t")
    world.end(shared)
    assert (world.top / "mine").read_bytes() == b"t"
    assert not world.top.is_symlink(), "what is kept makes way for the next run"
    world.run = world.run.with_name("job-2")
    world.top = world.run / "tree"
    world.start()
    assert world.top.resolve() == place
    world.run = world.run.with_name("job-3")
    world.start()
    assert (world.run / "tree").resolve() != place


def test_a_workspace_that_is_taken_away_takes_nothing_of_the_run(world: World) -> None:
    world.push({"main.py": b"1", "pkg/x.py": b"1"})
    shared = world.start()
    (world.top / "unet.pth").write_bytes(b"weights")
    os.utime(world.top / "unet.pth", (1, 1))
    settle(shared)
    shutil.rmtree(world.root)
    world.root.mkdir()
    settle(shared)
    assert (world.top / "unet.pth").read_bytes() == b"weights"
    world.end(shared)
    assert content(world.root) == {"unet.pth": b"weights"}


def test_a_tree_that_somebody_takes_away_takes_nothing_with_it(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root / "unet.pth").write_bytes(b"weights")
    shared = world.start()
    (world.top / "main.py").unlink()
    (world.top / "unet.pth").unlink()
    settle(shared)
    world.end(shared)
    assert (world.root / "unet.pth").read_bytes() == b"weights"


def test_a_killed_carriers_run_is_brought_home_by_the_next_start(world: World) -> None:
    world.push({"main.py": b"1"})
    (world.root / "old").write_bytes(b"old")
    shared = world.start()
    (world.top / "one").write_bytes(b"1")
    shared.sync()
    (world.top / "one.part").write_bytes(b"2")
    (world.top / "one.part").replace(world.top / "one")
    (world.top / "two").write_bytes(b"2")
    (world.top / "old").unlink()  # perhaps by whoever began to take the tree away
    shared.tree.close()
    snapshot.sweep(set())
    assert content(world.root) == {"main.py": b"1", "old": b"old", "one": b"2", "two": b"2"}
    assert not world.top.exists()
    snapshot.sweep(set())


@pytest.mark.parametrize("damage", ["", "{", "null\n", '{"root": 1}\n', "lines"])
def test_a_damaged_journal_keeps_the_tree_and_stops_nobody(world: World, damage: str) -> None:
    world.push({"main.py": b"1"})
    world.start().tree.close()
    (world.top / "made").write_bytes(b"m")
    journal = world.run / "tree.jsonl"
    whole = journal.read_text()
    journal.write_text(damage if damage != "lines" else whole + "[1]\n")
    snapshot.sweep(set())
    assert content(world.top) == {"main.py": b"1", "made": b"m"}
    assert not world.top.is_symlink()
    snapshot.sweep(set())


def test_a_journal_that_ends_in_the_middle_of_a_line_is_whole_enough(world: World) -> None:
    world.push({"main.py": b"1"})
    world.start().tree.close()
    (world.top / "made").write_bytes(b"m")
    with (world.run / "tree.jsonl").open("a") as journal:
        journal.write('["", "mad')
    shared = world.again()
    shared.sync()
    shared.tree.close()
    world.again().tree.close()
    snapshot.sweep(set())
    assert content(world.root) == {"main.py": b"1", "made": b"m"}


def test_a_tree_on_another_disk_is_beside_the_workspace(world: World, tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one disk only")
    with tempfile.TemporaryDirectory(dir=other) as disk:
        world.root.rmdir()
        world.root.symlink_to(disk)
        known = record.PushRecord("p")
        (Path(disk) / "main.py").write_bytes(b"1")
        known.files["main.py"] = ["f", hashlib.sha256(b"1").hexdigest(), 1, 0, 0o644]
        known.commit()
        shared = world.start()
        (world.top / "out").write_bytes(b"o")
        world.end(shared)
        assert (world.root / "out").read_bytes() == b"o"
        assert not world.top.is_symlink()


NAMES = ["a", "b.py", "d/e", "d/f.py", "d/g/h", "\udcff'; echo x\n"]
ACTS = st.lists(
    st.tuples(
        st.sampled_from(["run", "run", "run replaces", "run removes", "push", "push", "other",
                         "other removes", "look", "look", "carrier dies"]),
        st.sampled_from(NAMES),
    ),
    max_size=25,
)  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(first=st.sets(st.sampled_from(NAMES)), before=st.sets(st.sampled_from(NAMES)), acts=ACTS)
def test_whatever_happens_code_stays_and_nothing_is_lost(
    first: set[str], before: set[str], acts: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as home, at_home(Path(home)) as world:
        world.push({name: f"first {name}".encode("utf-8", "surrogateescape") for name in first})
        for name in before - first:
            (world.root / name).parent.mkdir(parents=True, exist_ok=True)
            (world.root / name).write_bytes(b"before")
        shared = world.start()
        mine: dict[str, bytes] = {}  # what the run wrote last, and nobody wrote over
        pushed = {name: (world.root / name).read_bytes() for name in first}
        untouched = dict(pushed)  # the run's code as long as the run leaves it alone
        for number, (act, name) in enumerate(acts):
            data = f"{act} {number}".encode()
            here, there = world.top / name, world.root / name
            if act in ("run", "run replaces"):
                here.parent.mkdir(parents=True, exist_ok=True)
                place = here if act == "run" else here.with_name("part")
                place.write_bytes(data)
                place.replace(here)
                mine[name] = data
                untouched.pop(name, None)
                if there.exists() and there.samefile(here):
                    pushed.pop(name, None)
            elif act == "run removes" and name not in first:
                here.unlink(missing_ok=True)
                mine.pop(name, None)
            elif act == "push":
                world.push({name: data})
                pushed[name] = data
                # over a file that the run had made and the workspace had got: as ever
                if not (here.exists() and here.read_bytes() == mine.get(name)):
                    mine.pop(name, None)
            elif act == "other" and name not in first:
                there.parent.mkdir(parents=True, exist_ok=True)
                shares = here.exists() and there.exists() and here.samefile(there)
                there.write_bytes(data)
                pushed.pop(name, None)
                if shares:
                    mine.pop(name, None)
            elif act == "other removes" and name not in first:
                there.unlink(missing_ok=True)
                pushed.pop(name, None)
                mine.pop(name, None)
            elif act == "look":
                shared.sync()
            elif act == "carrier dies":
                shared.tree.close()
                shared = world.again()
            for code, text in untouched.items():
                assert (world.top / code).read_bytes() == text
        world.end(shared)
        for name in pushed.keys() - {name for act, name in acts if act.startswith("run")}:
            assert (world.root / name).read_bytes() == pushed[name], "a push is never undone"
        for name, data in mine.items():
            places = [place / name for place in (world.top, world.root)]
            assert data in [place.read_bytes() for place in places if place.is_file()], name
