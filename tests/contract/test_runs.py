"""Runs on a real machine: their words, codes and ends, over links that are cut."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.wire import World, play, processes_with, write
from vmctl.clock import Clock
from vmctl.config import Project
from vmctl.domain.errors import (
    Conflict,
    NotFound,
)
from vmctl.domain.events import Event, Output, RunStarted, Warned
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.runs import run as jobs
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.sync.push import push


def collect(into: list[bytes]) -> Callable[[Event], None]:
    return lambda event: into.append(event.data) if isinstance(event, Output) else None


def test_run_shows_its_output_and_its_code(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.root, {"a": ""})
    play(push(world.project))
    monkeypatch.setenv("GREETING", "top secret")
    seen: list[bytes] = []
    words = ["two words", "$HOME", "a'b", "*"]
    result = play(jobs.run(world.project, "hello", words), collect(seen))
    assert (result.state, result.code) == ("succeeded", 0)
    assert b"".join(seen).endswith(b"hello two words $HOME a'b *\n")
    spec = world.sshd.home / ".vmctl/runs" / result.run_id / "spec.json"
    assert spec.stat().st_mode & 0o077 == 0
    shown = jobs.ps(world.project)
    assert [view.state for view in shown] == ["succeeded"]
    assert "top secret" not in repr(shown)


def test_environment_reaches_the_job(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(world.root, {"a": ""})
    play(push(world.project))
    monkeypatch.setenv("GREETING", "grüß 'dich'\nzweimal")
    job = JobSettings(
        "hello",
        'printf "%s|" "$GREETING" "$PYTHONUNBUFFERED"',
        setup=('printf "%s" "$GREETING" >~/seen_by_setup',),
        env=("GREETING",),
    )
    project = dataclasses.replace(world.project, jobs={"hello": job})
    seen: list[bytes] = []
    play(jobs.run(project, "hello"), collect(seen))
    assert "grüß 'dich'\nzweimal|1|" in b"".join(seen).decode()
    assert (world.sshd.home / "seen_by_setup").read_text() == "grüß 'dich'\nzweimal"


def test_failing_job_hands_its_code_over(world: World) -> None:
    write(world.root, {"work/train.py": "raise SystemExit(42)", "work/prepare.sh": "#!/bin/sh"})
    (world.root / "work/prepare.sh").chmod(0o755)
    play(push(world.project))
    result = play(jobs.run(world.project, "train"))
    assert (result.state, result.code) == ("failed", 42)


def test_setup_runs_once_per_content(world: World) -> None:
    write(
        world.root,
        {
            "work/prepare.sh": "#!/bin/sh\necho preparing >> ../prepared",
            "work/train.py": "print('trained')",
        },
    )
    (world.root / "work/prepare.sh").chmod(0o755)
    play(push(world.project))
    play(jobs.run(world.project, "train"))
    play(jobs.run(world.project, "train"))
    assert (world.remote / "prepared").read_text() == "preparing\n"
    write(world.root, {"work/prepare.sh": "#!/bin/sh\necho again >> ../prepared; exit 3"})
    play(push(world.project))
    seen: list[bytes] = []
    result = play(jobs.run(world.project, "train"), collect(seen))
    assert (result.state, result.code) == ("failed", 3)
    assert b"set-up 1/1 failed with exit code 3" in b"".join(seen)


def test_job_that_was_not_pushed_says_push(world: World) -> None:
    with pytest.raises(NotFound) as caught:
        play(jobs.run(world.project, "train"))
    assert caught.value.hint == "vmctl push"


def test_unknown_job_names_the_nearest(world: World) -> None:
    with pytest.raises(NotFound) as caught:
        play(jobs.run(world.project, "trian"))
    assert caught.value.hint == "vmctl run train"


def slow_project(world: World, lines: int, waits_at: int = -1) -> Project:
    """A job that writes numbered lines for a while; before one of them it waits for ~/go."""
    write(
        world.root,
        {
            "count.py": f"""import os, sys, time
for number in range({lines}):
    while number == {waits_at} and not os.path.exists(os.path.expanduser('~/go')):
        time.sleep(0.05)
    print('line', number)
    time.sleep(0.01)
sys.exit(5)
"""
        },
    )
    job = JobSettings("count", "python count.py")
    project = dataclasses.replace(world.project, jobs={"count": job})
    play(push(project))
    return project


def numbered(seen: list[bytes]) -> list[bytes]:
    return [line for line in b"".join(seen).splitlines() if line.startswith(b"line")]


def test_no_line_is_lost_or_repeated_over_cut_links(world: World) -> None:
    project = slow_project(world, lines=200)
    seen: list[bytes] = []
    cuts = [20, 120]
    warned: list[str] = []

    def watch(event: Event) -> None:
        collect(seen)(event)
        if isinstance(event, Warned):
            warned.append(event.text)
        if cuts and len(numbered(seen)) >= cuts[0]:
            cuts.pop(0)
            world.sshd.cut()

    result = play(jobs.run(project, "count"), watch)
    assert numbered(seen) == [b"line %d" % number for number in range(200)]
    assert (result.state, result.code) == ("failed", 5)
    assert len(warned) == 2


class Later(Clock):
    """A clock that a test sets forward."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


def test_a_run_that_says_nothing_is_followed_over_cuts_hours_apart(world: World) -> None:
    write(world.root, {"quiet.sh": "while ! [ -e ~/go ]; do sleep 0.05; done; exit 5\n"})
    project = dataclasses.replace(
        world.project, jobs={"quiet": JobSettings("quiet", "sh quiet.sh")}
    )
    play(push(project))
    clock, cuts = Later(), 2
    helper = os.fsencode(world.sshd.home / ".vmctl/lib")

    def followers() -> set[int]:
        return processes_with(helper, b"\0follow\0")

    def cut() -> None:
        for _ in range(cuts):
            seen = eventually(lambda: followers() or over.is_set())
            if over.is_set():
                return
            clock.ahead_s += 3600.0
            world.sshd.cut()
            eventually(lambda seen=seen: not seen & followers())
        (world.sshd.home / "go").touch()

    over = threading.Event()
    warned: list[str] = []
    thread = threading.Thread(target=cut)
    thread.start()
    try:
        result = play(
            jobs.run(project, "quiet", clock=clock),
            lambda event: warned.append(event.text) if isinstance(event, Warned) else None,
        )
    finally:
        over.set()
        (world.sshd.home / "go").touch()
        thread.join()
    assert (result.state, result.code) == ("failed", 5)
    assert len(warned) == cuts


@pytest.fixture
def small(world: World) -> Iterator[World]:
    """A machine whose home is a file system of a few megabytes."""
    home = str(world.sshd.home)
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", home]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small file system to fill it")
    yield world
    world.sshd.power_off()
    subprocess.run(["umount", "--lazy", home], check=True)


def test_a_job_that_fills_the_disk_keeps_its_exit_code(small: World) -> None:
    write(small.root, {"fill.sh": "head -c 50000000 /dev/zero > out.bin; exit 3\n"})
    fill = JobSettings("fill", "sh fill.sh", outputs=("out.bin",))
    project = dataclasses.replace(small.project, jobs={"fill": fill})
    play(prepare_machine(small.ssh))
    play(push(project))
    result = play(jobs.run(project, "fill"))
    assert (result.state, result.code) == ("failed", 3)
    [view] = jobs.ps(project)
    assert view.state == "failed"


def test_detached_run_goes_on_and_is_followed_again(world: World) -> None:
    project = slow_project(world, lines=200, waits_at=100)
    story = jobs.run(project, "count")
    for event in story:
        if isinstance(event, Output) and b"line 3" in event.data:
            break
    story.close()
    OpenSSH(world.ssh_target()).close()
    notes: list[str] = []
    seen: list[bytes] = []

    def watch(event: Event) -> None:
        collect(seen)(event)
        if isinstance(event, RunStarted):
            notes.append(event.text)
            (world.sshd.home / "go").touch()

    result = play(jobs.run(project, "count"), watch)  # the same command typed again
    assert "already running" in notes[0]
    assert numbered(seen) == [b"line %d" % number for number in range(200)]
    assert result.code == 5
    assert len(jobs.ps(project)) == 1


def test_other_arguments_while_it_runs_are_a_conflict(world: World) -> None:
    project = slow_project(world, lines=2000)
    started = play(jobs.run(project, "count", detach=True))
    assert started.state in ("preparing", "running")
    with pytest.raises(Conflict, match="already running with other arguments"):
        play(jobs.run(project, "count", ["--more"]))
    cancelled = play(jobs.cancel(project, "count"))
    assert (cancelled.state, cancelled.already) == ("cancelled", False)
    again = play(jobs.cancel(project, "count"))
    assert (again.state, again.already) == ("cancelled", True)


def test_cancel_lets_the_job_save_and_ends_its_children(world: World) -> None:
    write(
        world.root,
        {
            "job.sh": """trap 'echo saved > saved; exit 0' TERM
sleep 1000 & echo $! > child
echo up
while :; do sleep 0.1; done
"""
        },
    )
    job = JobSettings("stubborn", "bash job.sh")
    project = dataclasses.replace(world.project, jobs={"stubborn": job})
    play(push(project))
    started = play(jobs.run(project, "stubborn", detach=True))
    eventually(lambda: (world.remote / "child").exists())
    child = int(eventually(lambda: (world.remote / "child").read_text()))
    assert play(jobs.cancel(project, started.run_id)).state == "cancelled"
    assert (world.remote / "saved").exists()
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_run_under_a_stopped_vm_is_lost(world: World) -> None:
    project = slow_project(world, lines=5000)
    started = play(jobs.run(project, "count", detach=True))
    run = world.sshd.home / ".vmctl/runs" / started.run_id
    eventually(lambda: (run / "phase").exists() and b"line" in (run / "log").read_bytes())
    world.sshd.power_off()
    world.sshd.start()
    eventually((run / "exit").exists)  # tmux let the runner record its end;
    (run / "exit").unlink()  # a power cut would not have
    old = time.time() - 60
    spec = run / "spec.json"
    spec.write_text(json.dumps({**json.loads(spec.read_text()), "created_at": old}))
    assert [view.state for view in jobs.ps(project)] == ["lost"]
    lost = play(jobs.logs(project))
    assert (lost.state, lost.code) == ("lost", 1)
    shutil.rmtree(run)
    assert jobs.ps(project) == []
    with pytest.raises(NotFound):
        play(jobs.logs(project))
