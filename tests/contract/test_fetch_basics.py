"""What fetch brings home, proven, and from which of the places where it may lie."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
from pathlib import Path

import pytest

from tests.harness.wire import World, play, settled, tree, write
from vmctl.domain.errors import (
    Conflict,
    IntegrityError,
    NotFound,
)
from vmctl.domain.events import Event
from vmctl.ssh import rpc
from vmctl.workflows.runs import run as jobs
from vmctl.workflows.sync.fetch import fetch
from vmctl.workflows.sync.push import push


def test_fetch_proves_keeps_times_and_replaces(world: World) -> None:
    data = os.urandom(2_500_000)
    there = settled(world.remote / "model.bin", data)
    there.chmod(0o640)
    write(world.root, {"model.bin": "older"})
    result = play(fetch(world.project, ["model.bin"]))
    here = world.root / "model.bin"
    assert here.read_bytes() == data
    assert here.stat().st_mtime == 1_700_000_000
    assert here.stat().st_mode & 0o777 == 0o640
    assert result.files[0].sha256 == hashlib.sha256(data).hexdigest()
    assert result.files[0].replaced
    assert [item.name for item in world.root.iterdir()] == ["model.bin"]


def test_cut_fetch_resumes_and_proves_the_whole(world: World, tmp_path: Path) -> None:
    data = os.urandom(30_000_000)
    settled(world.remote / "big.bin", data)
    story = fetch(world.project, ["big.bin"])
    for event in story:
        done = getattr(event, "done_bytes", None)
        if done and done > 5_000_000:
            break
    story.close()
    part = world.root / ".big.bin.vmctl-part"
    kept = part.stat().st_size
    assert 0 < kept < len(data)
    result = play(fetch(world.project, ["big.bin"]))
    assert result.files[0].resumed_at == kept
    assert (world.root / "big.bin").read_bytes() == data
    assert not part.exists()


def test_fetch_goes_on_by_itself_over_a_cut_link(world: World) -> None:
    data = os.urandom(30_000_000)
    settled(world.remote / "big.bin", data)
    cut = [5_000_000, 15_000_000]

    def watch(event: Event) -> None:
        done = getattr(event, "done_bytes", None)
        if cut and done and done > cut[0]:
            cut.pop(0)
            world.sshd.cut()

    play(fetch(world.project, ["big.bin"]), watch)
    assert cut == []
    assert (world.root / "big.bin").read_bytes() == data


def test_left_over_of_another_version_is_not_mixed_in(world: World) -> None:
    data = os.urandom(1_000_000)
    settled(world.remote / "big.bin", data)
    (world.root / ".big.bin.vmctl-part").write_bytes(os.urandom(500_000))
    result = play(fetch(world.project, ["big.bin"]))
    assert result.files[0].resumed_at == 0
    assert (world.root / "big.bin").read_bytes() == data


def test_wrong_sum_is_an_error_never_a_file(world: World) -> None:
    # a helper on the VM that lies about what it sends
    write(world.remote, {"model.bin": "x"})
    rpc.call(world.ssh, "runs", {"project": "demo"})
    library = world.sshd.home / ".vmctl/lib" / rpc.library()[0] / "vmctl_guest/files/sender.py"
    text = library.read_text()
    library.write_text(text.replace('digest.hexdigest(), "changed"', "'0' * 64, \"changed\""))
    shutil.rmtree(library.parent / "__pycache__", ignore_errors=True)
    settled(world.remote / "model.bin", b"data")
    write(world.root, {"model.bin": "older"})
    with pytest.raises(IntegrityError) as caught:
        play(fetch(world.project, ["model.bin"]))
    assert caught.value.exit_code == 9
    assert tree(world.root) == {"model.bin": "older"}


def test_file_open_for_writing_is_refused(world: World) -> None:
    there = settled(world.remote / "model.bin", b"half")
    with there.open("ab"):
        with pytest.raises(Conflict, match="still being written by"):
            play(fetch(world.project, ["model.bin"]))
        play(fetch(world.project, ["model.bin"], force=True))
    assert (world.root / "model.bin").read_bytes() == b"half"


def test_growing_file_is_refused_even_when_nobody_holds_it(world: World) -> None:
    there = world.remote / "log.txt"
    write(world.remote, {"log.txt": ""})
    stop = threading.Event()

    def grow() -> None:
        while not stop.wait(0.2):
            with there.open("a") as file:
                file.write("more\n")

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with pytest.raises(Conflict, match="still being written"):
            play(fetch(world.project, ["log.txt"]))
    finally:
        stop.set()
        thread.join()


def test_fetch_looks_in_outputs_then_job_then_root(world: World) -> None:
    write(
        world.root,
        {
            "work/prepare.sh": "#!/bin/sh",
            "work/train.py": """import os
os.makedirs('plots/deep', exist_ok=True)
for name in ('model.bin', 'plots/a.png', 'plots/deep/b.png', 'extra.txt'):
    open(name, 'w').write('job ' + name)
open('../root.txt', 'w').write('root')
open('../extra.txt', 'w').write('not this one')
""",
        },
    )
    (world.root / "work/prepare.sh").chmod(0o755)
    play(push(world.project))
    assert play(jobs.run(world.project, "train")).code == 0
    play(fetch(world.project, [], to=Path("got")))
    assert tree(world.root / "got") == {
        "model.bin": "job model.bin",
        "plots/a.png": "job plots/a.png",
        "plots/deep/b.png": "job plots/deep/b.png",
    }
    result = play(fetch(world.project, ["extra.txt", "root.txt"], to=Path("more")))
    assert tree(world.root / "more") == {"extra.txt": "job extra.txt", "root.txt": "root"}
    assert len(result.files) == 2
    with pytest.raises(NotFound, match="'nowhere' is not on the VM"):
        play(fetch(world.project, ["nowhere"]))
    play(fetch(world.project, ["plots/*.png"], to=Path("globbed")))
    assert set(tree(world.root / "globbed")) == {"a.png"}


def test_link_that_leads_outside_is_left_out(world: World) -> None:
    settled(world.remote / "out/file", b"1")
    (world.remote / "out/good").symlink_to("file")
    (world.remote / "out/evil").symlink_to("/etc")
    result = play(fetch(world.project, ["out"]))
    assert result.links_left_out == ("out/evil",)
    assert tree(world.root) == {"out/file": "1", "out/good": "file"}


def test_nothing_is_written_through_a_link_here(world: World, tmp_path: Path) -> None:
    settled(world.remote / "out/sub/file", b"1")
    outside = tmp_path / "outside"
    outside.mkdir()
    (world.root / "out").mkdir()
    (world.root / "out/sub").symlink_to(outside)
    with pytest.raises(Conflict, match="not a folder here"):
        play(fetch(world.project, ["out"]))
    assert list(outside.iterdir()) == []


def test_two_fetches_of_one_file_do_not_mix(world: World) -> None:
    data = os.urandom(40_000_000)
    settled(world.remote / "big.bin", data)
    first = fetch(world.project, ["big.bin"])
    for event in first:
        if getattr(event, "done_bytes", None):
            break
    with pytest.raises(Conflict, match="Another command is fetching"):
        play(fetch(world.project, ["big.bin"]))
    play(first)
    assert (world.root / "big.bin").read_bytes() == data
