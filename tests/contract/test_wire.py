"""The wire against a real sshd: one warm connection, push, runs, fetch, tunnels."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.harness.eventually import eventually
from tests.harness.sshd import Sshd
from vmctl.clock import Clock
from vmctl.config import JobSettings, Project, ServiceSettings
from vmctl.domain.errors import (
    AccessDenied,
    Conflict,
    HostKeyChanged,
    NotFound,
    NotProvenWhole,
    TimedOut,
    Unreachable,
)
from vmctl.domain.events import Begun, Event, Noted, Output, Ready, Story, Warned
from vmctl.domain.target import Target
from vmctl.ssh import guest, hostkeys
from vmctl.ssh.connection import wait_for_ssh
from vmctl.ssh.keys import ensure_keypair
from vmctl.ssh.openssh import OpenSSH
from vmctl.workflows import run as jobs
from vmctl.workflows.connecting.session import connect, reach, remember
from vmctl.workflows.fetch import fetch
from vmctl.workflows.push import push
from vmctl.workflows.readiness.setup import prepare_machine
from vmctl.workflows.shell import exec_, scp
from vmctl.workflows.tunnel import tunnel

INSTANCE = "4711"
T = TypeVar("T")


@dataclasses.dataclass
class World:
    """A project here, a machine there."""

    project: Project
    sshd: Sshd

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def remote(self) -> Path:
        return self.sshd.home / "Workspace" / self.project.name

    def ssh_target(self) -> Target:
        return self.ssh.target

    @property
    def ssh(self) -> OpenSSH:
        return reach(self.project)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    short = Path(tempfile.mkdtemp(prefix="vmw", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short))
    monkeypatch.setenv("VMCTL_HOME", str(tmp_path / "vmctl's home ü 100%"))
    sshd = Sshd(tmp_path / "machine", short)
    sshd.start()
    root = tmp_path / "a'; echo föö"
    root.mkdir()
    monkeypatch.chdir(root)
    project = Project(
        root=root,
        name="demo",
        owner="somebody",
        google_project="none",
        jobs={
            "hello": JobSettings("hello", "echo hello", env=("GREETING",)),
            "train": JobSettings(
                "train",
                "python train.py",
                directory="work",
                setup=("./prepare.sh",),
                outputs=("model.bin", "plots"),
            ),
        },
        services={
            "web": ServiceSettings("web", "python -m http.server {port} --bind 127.0.0.1", 0),
        },
    )
    keys = ensure_keypair()
    sshd.authorized.write_text(f"{keys.public_line}\n")
    pins = hostkeys.pin(INSTANCE, [sshd.host_key])
    target = Target(INSTANCE, "127.0.0.1", sshd.port, sshd.user, str(keys.private_path), str(pins))
    remember(project, target, datetime.now(UTC) + timedelta(days=1), None)
    made = World(project, sshd)
    # the project's own user is the one that sshd lets in
    monkeypatch.setattr(Project, "login_user", property(lambda _: sshd.user))
    try:
        yield made
    finally:
        with contextlib.suppress(Unreachable, AccessDenied):
            OpenSSH(target).close()
        sshd.power_off()
        shutil.rmtree(short, ignore_errors=True)


@pytest.fixture
def prepared(world: World) -> World:
    play(prepare_machine(world.ssh))
    return world


def play(story: Story[Any], on: Callable[[Event], None] = lambda event: None) -> Any:
    try:
        while True:
            on(next(story))
    except StopIteration as end:
        return end.value


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def tree(root: Path) -> dict[str, str]:
    """Every file and link below a folder, and its content."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


# -- the connection --------------------------------------------------------------------------


def test_second_command_rides_on_the_first_ones_connection(world: World) -> None:
    assert world.ssh.run("echo one").text == "one\n"
    before = world.sshd.sessions()
    assert world.ssh.run("echo two").text == "two\n"
    assert world.sshd.sessions() == before
    assert len(before) == 1


def test_exit_code_and_both_streams_come_back(world: World) -> None:
    done = world.ssh.run("cat; echo problem >&2; exit 7", input=b"\x00\xff")
    assert (done.code, done.stdout, done.stderr) == (7, b"\x00\xff", b"problem\n")


def test_lost_master_is_replaced(world: World) -> None:
    assert world.ssh.run("true").code == 0
    world.sshd.cut()
    assert world.ssh.run("echo again").text == "again\n"


def test_frozen_link_is_found_out_and_replaced(world: World) -> None:
    target = world.ssh_target()
    frozen = world.sshd.sessions()
    stopped = [pid for pid in frozen for pid in (pid, *_below(pid))]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        old = OpenSSH(target)
        assert not old.probe()
        old.open()
        assert old.run("echo back").text == "back\n"
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def _below(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_two_processes_at_once_open_one_master(world: World) -> None:
    results: list[str] = []
    errors: list[BaseException] = []

    def one() -> None:
        try:
            results.append(world.ssh.run("echo x").text)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, errors) == (["x\n"] * 4, [])
    assert len(world.sshd.sessions()) == 1


def test_changed_host_key_is_an_error_never_a_question(world: World) -> None:
    target = world.ssh_target()
    OpenSSH(target).close()
    world.sshd.stop()
    world.sshd.new_host_key()
    world.sshd.start()
    with pytest.raises(HostKeyChanged) as caught:
        OpenSSH(target).open()
    assert caught.value.exit_code == 7
    with pytest.raises(HostKeyChanged):
        wait_for_ssh(target, time.monotonic() + 5, Clock())


def test_unpinned_machine_is_not_trusted(world: World, tmp_path: Path) -> None:
    empty = tmp_path / "nothing pinned"
    empty.touch()
    stranger = dataclasses.replace(world.ssh_target(), instance_id="9999", known_hosts=str(empty))
    with pytest.raises(HostKeyChanged):
        OpenSSH(stranger).open()
    with pytest.raises(HostKeyChanged):
        wait_for_ssh(stranger, time.monotonic() + 5, Clock())


def test_refused_key_and_silent_port_are_told_apart(world: World) -> None:
    target = world.ssh_target()
    OpenSSH(target).close()
    kept = world.sshd.authorized.read_text()
    world.sshd.authorized.write_text("")
    with pytest.raises(AccessDenied):
        OpenSSH(target).open()
    world.sshd.authorized.write_text(kept)
    world.sshd.stop()
    with pytest.raises(Unreachable, match="does not answer"):
        OpenSSH(target).open()


class Counting(Clock):
    """The real clock, which knows how often it was slept on: after each try in vain."""

    sleeps = 0

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        super().sleep(seconds)


def test_waiting_for_ssh_outlasts_boot_and_key_propagation(world: World) -> None:
    kept = world.sshd.authorized.read_text()
    target = world.ssh_target()
    OpenSSH(target).close()
    world.sshd.stop()
    world.sshd.authorized.write_text("")

    clock = Counting()

    def one_try_fails() -> None:
        before = clock.sleeps
        eventually(lambda: clock.sleeps > before + 1, "one whole try in vain")

    def boot() -> None:
        one_try_fails()
        world.sshd.start()
        one_try_fails()
        world.sshd.authorized.write_text(kept)

    thread = threading.Thread(target=boot)
    thread.start()
    with wait_for_ssh(target, time.monotonic() + 30, clock) as connection:
        done = connection.run("cat; echo problem >&2; exit 3", input=b"given")
    thread.join()
    assert (done.code, done.stdout, done.stderr) == (3, b"given", b"problem\n")


def test_waiting_for_ssh_ends_with_the_reason(world: World) -> None:
    target = world.ssh_target()
    world.sshd.authorized.write_text("")
    with pytest.raises(TimedOut, match="does not accept"):
        wait_for_ssh(target, time.monotonic() + 1, Clock())


def test_pin_wins_over_a_later_key(world: World) -> None:
    other = world.sshd.new_host_key()
    with pytest.raises(HostKeyChanged):
        hostkeys.pin(INSTANCE, [other])
    hostkeys.unpin(INSTANCE)
    hostkeys.pin(INSTANCE, [other])
    assert hostkeys.pinned(INSTANCE) == [other]


# -- set-up ----------------------------------------------------------------------------------


def test_setup_twice_does_the_work_once(world: World) -> None:
    first = play(prepare_machine(world.ssh))
    second = play(prepare_machine(world.ssh))
    assert first.python == second.python
    assert Path(first.python).exists()
    found = world.ssh.run('ls "$HOME/.vmctl/lib"').text.split()
    assert found == [guest.library()[0]]


def test_setup_over_fabric_is_the_same(world: World) -> None:
    with wait_for_ssh(world.ssh_target(), time.monotonic() + 10, Clock()) as connection:
        machine = play(prepare_machine(connection))
    assert machine == dataclasses.replace(
        play(prepare_machine(world.ssh)), done_before=machine.done_before
    )


# -- push ------------------------------------------------------------------------------------


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
    with pytest.raises(Conflict, match="stands where a file must come"):
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
    with pytest.raises(Conflict, match="was pushed from"):
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


# -- runs ------------------------------------------------------------------------------------


def collect(into: list[bytes]) -> Callable[[Event], None]:
    return lambda event: into.append(event.data) if isinstance(event, Output) else None


def test_run_shows_its_output_and_its_code(
    prepared: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(prepared.root, {"a": ""})
    play(push(prepared.project))
    monkeypatch.setenv("GREETING", "top secret")
    seen: list[bytes] = []
    words = ["two words", "$HOME", "a'b", "*"]
    result = play(jobs.run(prepared.project, "hello", words), collect(seen))
    assert (result.state, result.code) == ("succeeded", 0)
    assert b"".join(seen).endswith(b"hello two words $HOME a'b *\n")
    spec = prepared.sshd.home / ".vmctl/runs" / result.run_id / "spec.json"
    assert spec.stat().st_mode & 0o077 == 0
    shown = jobs.ps(prepared.project)
    assert [view.state for view in shown] == ["succeeded"]
    assert "top secret" not in repr(shown)


def test_environment_reaches_the_job(prepared: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write(prepared.root, {"a": ""})
    play(push(prepared.project))
    monkeypatch.setenv("GREETING", "grüß 'dich'\nzweimal")
    job = JobSettings("hello", 'printf "%s|" "$GREETING" "$PYTHONUNBUFFERED"', env=("GREETING",))
    project = dataclasses.replace(prepared.project, jobs={"hello": job})
    seen: list[bytes] = []
    play(jobs.run(project, "hello"), collect(seen))
    assert "grüß 'dich'\nzweimal|1|" in b"".join(seen).decode()


def test_failing_job_hands_its_code_over(prepared: World) -> None:
    write(prepared.root, {"work/train.py": "raise SystemExit(42)", "work/prepare.sh": "#!/bin/sh"})
    (prepared.root / "work/prepare.sh").chmod(0o755)
    play(push(prepared.project))
    result = play(jobs.run(prepared.project, "train"))
    assert (result.state, result.code) == ("failed", 42)


def test_setup_runs_once_per_content(prepared: World) -> None:
    write(
        prepared.root,
        {
            "work/prepare.sh": "#!/bin/sh\necho preparing >> ../prepared",
            "work/train.py": "print('trained')",
        },
    )
    (prepared.root / "work/prepare.sh").chmod(0o755)
    play(push(prepared.project))
    play(jobs.run(prepared.project, "train"))
    play(jobs.run(prepared.project, "train"))
    assert (prepared.remote / "prepared").read_text() == "preparing\n"
    write(prepared.root, {"work/prepare.sh": "#!/bin/sh\necho again >> ../prepared; exit 3"})
    play(push(prepared.project))
    seen: list[bytes] = []
    result = play(jobs.run(prepared.project, "train"), collect(seen))
    assert (result.state, result.code) == ("failed", 3)
    assert b"set-up 1/1 failed with exit code 3" in b"".join(seen)


def test_job_that_was_not_pushed_says_push(prepared: World) -> None:
    with pytest.raises(NotFound) as caught:
        play(jobs.run(prepared.project, "train"))
    assert caught.value.hint == "vmctl push"


def test_unknown_job_names_the_nearest(prepared: World) -> None:
    with pytest.raises(NotFound) as caught:
        play(jobs.run(prepared.project, "trian"))
    assert caught.value.hint == "vmctl run train"


def slow_project(world: World, lines: int = 200, pause: float = 0.01) -> Project:
    """A job that writes numbered lines for a while."""
    write(
        world.root,
        {
            "count.py": f"""import sys, time
for number in range({lines}):
    print('line', number)
    time.sleep({pause})
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


def test_no_line_is_lost_or_repeated_over_cut_links(prepared: World) -> None:
    project = slow_project(prepared, lines=300)
    seen: list[bytes] = []
    cuts = [20, 120, 220]
    warned: list[str] = []

    def watch(event: Event) -> None:
        collect(seen)(event)
        if isinstance(event, Warned):
            warned.append(event.text)
        if cuts and len(numbered(seen)) >= cuts[0]:
            cuts.pop(0)
            prepared.sshd.cut()

    result = play(jobs.run(project, "count"), watch)
    assert numbered(seen) == [b"line %d" % number for number in range(300)]
    assert (result.state, result.code) == ("failed", 5)
    assert len(warned) == 3


class Later(Clock):
    """A clock that a test sets forward."""

    ahead_s = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.ahead_s


def test_a_run_that_says_nothing_is_followed_over_cuts_hours_apart(prepared: World) -> None:
    write(prepared.root, {"quiet.sh": "while ! [ -e ~/go ]; do sleep 0.05; done; exit 5\n"})
    project = dataclasses.replace(
        prepared.project, jobs={"quiet": JobSettings("quiet", "sh quiet.sh")}
    )
    play(push(project))
    clock, cuts = Later(), 3
    helper = os.fsencode(prepared.sshd.home / ".vmctl/lib")

    def followers() -> set[int]:
        found = set()
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
                if helper in words and words.endswith(b"\0follow\0"):
                    found.add(int(entry.name))
        return found

    def cut() -> None:
        for _ in range(cuts):
            seen = eventually(lambda: followers() or over.is_set())
            if over.is_set():
                return
            clock.ahead_s += 3600.0
            prepared.sshd.cut()
            eventually(lambda seen=seen: not seen & followers())
        (prepared.sshd.home / "go").touch()

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
        (prepared.sshd.home / "go").touch()
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


def test_detached_run_goes_on_and_is_followed_again(prepared: World) -> None:
    project = slow_project(prepared, lines=800)
    story = jobs.run(project, "count")
    for event in story:
        if isinstance(event, Output) and b"line 3" in event.data:
            break
    story.close()
    OpenSSH(prepared.ssh_target()).close()
    notes: list[str] = []
    seen: list[bytes] = []

    def watch(event: Event) -> None:
        collect(seen)(event)
        if isinstance(event, Begun):
            notes.append(event.text)

    result = play(jobs.run(project, "count"), watch)  # the same command typed again
    assert "running already" in notes[0]
    assert numbered(seen) == [b"line %d" % number for number in range(800)]
    assert result.code == 5
    assert len(jobs.ps(project)) == 1


def test_other_arguments_while_it_runs_are_a_conflict(prepared: World) -> None:
    project = slow_project(prepared, lines=2000)
    started = play(jobs.run(project, "count", detach=True))
    assert started.state in ("preparing", "running")
    with pytest.raises(Conflict, match="running already with other arguments"):
        play(jobs.run(project, "count", ["--more"]))
    cancelled = play(jobs.cancel(project, "count"))
    assert (cancelled.state, cancelled.already) == ("cancelled", False)
    again = play(jobs.cancel(project, "count"))
    assert (again.state, again.already) == ("cancelled", True)


def test_cancel_lets_the_job_save_and_ends_its_children(prepared: World) -> None:
    write(
        prepared.root,
        {
            "job.sh": """trap 'echo saved > saved; exit 0' TERM
sleep 1000 & echo $! > child
echo up
while :; do sleep 0.1; done
"""
        },
    )
    job = JobSettings("stubborn", "bash job.sh")
    project = dataclasses.replace(prepared.project, jobs={"stubborn": job})
    play(push(project))
    started = play(jobs.run(project, "stubborn", detach=True))
    eventually(lambda: (prepared.remote / "child").exists())
    child = int(eventually(lambda: (prepared.remote / "child").read_text()))
    assert play(jobs.cancel(project, started.run_id)).state == "cancelled"
    assert (prepared.remote / "saved").exists()
    eventually(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_run_under_a_stopped_vm_is_lost(prepared: World) -> None:
    project = slow_project(prepared, lines=5000)
    started = play(jobs.run(project, "count", detach=True))
    run = prepared.sshd.home / ".vmctl/runs" / started.run_id
    eventually(lambda: (run / "phase").exists() and b"line" in (run / "log").read_bytes())
    prepared.sshd.power_off()
    prepared.sshd.start()
    eventually((run / "exit").exists)  # tmux let the runner record its end;
    (run / "exit").unlink()  # a power cut would not have
    old = time.time() - 60
    spec = run / "spec.json"
    import json

    spec.write_text(json.dumps({**json.loads(spec.read_text()), "created_at": old}))
    assert [view.state for view in jobs.ps(project)] == ["lost"]
    lost = play(jobs.logs(project))
    assert (lost.state, lost.code) == ("lost", 1)
    shutil.rmtree(run)
    assert jobs.ps(project) == []
    with pytest.raises(NotFound):
        play(jobs.logs(project))


# -- fetch -----------------------------------------------------------------------------------


def settled(path: Path, data: bytes) -> Path:
    """A file whose last write was a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


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
    guest.call(world.ssh, "runs", {"project": "demo"})
    library = world.sshd.home / ".vmctl/lib" / guest.library()[0] / "vmctl_guest/sending.py"
    text = library.read_text()
    library.write_text(text.replace('digest.hexdigest(), "changed"', "'0' * 64, \"changed\""))
    shutil.rmtree(library.parent / "__pycache__", ignore_errors=True)
    settled(world.remote / "model.bin", b"data")
    write(world.root, {"model.bin": "older"})
    with pytest.raises(NotProvenWhole) as caught:
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


def test_fetch_looks_in_outputs_then_job_then_root(prepared: World) -> None:
    write(
        prepared.root,
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
    (prepared.root / "work/prepare.sh").chmod(0o755)
    play(push(prepared.project))
    assert play(jobs.run(prepared.project, "train")).code == 0
    play(fetch(prepared.project, [], to=Path("got")))
    assert tree(prepared.root / "got") == {
        "model.bin": "job model.bin",
        "plots/a.png": "job plots/a.png",
        "plots/deep/b.png": "job plots/deep/b.png",
    }
    result = play(fetch(prepared.project, ["extra.txt", "root.txt"], to=Path("more")))
    assert tree(prepared.root / "more") == {"extra.txt": "job extra.txt", "root.txt": "root"}
    assert len(result.files) == 2
    with pytest.raises(NotFound, match="'nowhere' is not on the VM"):
        play(fetch(prepared.project, ["nowhere"]))
    play(fetch(prepared.project, ["plots/*.png"], to=Path("globbed")))
    assert set(tree(prepared.root / "globbed")) == {"a.png"}


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
    with pytest.raises(Conflict, match="no folder here"):
        play(fetch(world.project, ["out"]))
    assert list(outside.iterdir()) == []


def test_two_fetches_of_one_file_do_not_mix(world: World) -> None:
    data = os.urandom(8_000_000)
    settled(world.remote / "big.bin", data)
    first = fetch(world.project, ["big.bin"])
    for event in first:
        if getattr(event, "done_bytes", None):
            break
    with pytest.raises(Conflict, match="Another command is fetching"):
        play(fetch(world.project, ["big.bin"]))
    play(first)
    assert (world.root / "big.bin").read_bytes() == data


# -- shell -----------------------------------------------------------------------------------


def test_exec_hands_over_code_words_and_streams(
    world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    world.remote.mkdir(parents=True)
    assert exec_(world.project, ["sh", "-c", 'pwd; echo "$1"; exit 9', "x", "a  'b'"]) == 9
    assert capfd.readouterr().out == f"{world.remote}\na  'b'\n"
    assert exec_(world.project, ["echo one | tr o 0"]) == 0
    assert capfd.readouterr().out == "0ne\n"


def test_scp_both_ways(world: World) -> None:
    write(world.root, {"a:b c": "text", "-r": "dash"})
    assert scp(world.project, ["-q", "a:b c", ":there it is"]) == 0
    assert (world.sshd.home / "there it is").read_text() == "text"
    assert scp(world.project, [":there it is", "back"]) == 0
    assert (world.root / "back").read_text() == "text"


# -- tunnels ---------------------------------------------------------------------------------


def get(port: int) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/hello.txt")
        return connection.getresponse().read()
    finally:
        connection.close()


def free_port() -> int:
    from tests.harness.sshd import _free_port

    return _free_port()


@pytest.fixture
def web(prepared: World) -> World:
    """A service `web` on a port of its own."""
    write(prepared.root, {"hello.txt": "hello through the tunnel"})
    play(push(prepared.project))
    service = ServiceSettings("web", "python -m http.server {port} --bind 127.0.0.1", free_port())
    return World(dataclasses.replace(prepared.project, services={"web": service}), prepared.sshd)


def next_told(story: Story[Any], kind: type[T], seconds: float = 30.0) -> T:
    """The next event of a kind; the ones before it pass by."""
    limit = time.monotonic() + seconds
    for event in story:
        if isinstance(event, kind):
            return event
        assert time.monotonic() < limit, f"no {kind.__name__} in time, but {event}"
    raise AssertionError(f"the story ended without {kind.__name__}")


def test_tunnel_starts_the_service_and_heals(web: World) -> None:
    port = free_port()
    story = tunnel(web.project, "web", port)
    with contextlib.closing(story):
        assert next_told(story, Ready).url == f"http://127.0.0.1:{port}/"
        assert get(port) == b"hello through the tunnel"
        web.sshd.cut()
        assert "back" in next_told(story, Noted).text
        assert get(port) == b"hello through the tunnel"
    with pytest.raises(OSError):
        get(port)


def test_tunnel_restarts_the_service_after_a_reboot(web: World) -> None:
    port = free_port()
    story = tunnel(web.project, "web", port)
    with contextlib.closing(story):
        next_told(story, Ready)
        web.sshd.power_off()
        web.sshd.start()
        next_told(story, Noted)
        eventually(lambda: _answers(port))
        assert get(port) == b"hello through the tunnel"


def _answers(port: int) -> bool:
    try:
        get(port)
    except (OSError, http.client.HTTPException):
        return False
    return True


def test_taken_port_names_its_holder_and_the_next_free_one(web: World) -> None:
    import socket

    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(Conflict, match=f"process {os.getpid()}") as caught:
            next(tunnel(web.project, "web", port))
    assert caught.value.hint.startswith("Use the next free one: --port ")


def test_service_that_dies_shows_its_last_words(web: World) -> None:
    broken = ServiceSettings("web", "echo no such module >&2; exit 1", free_port())
    project = dataclasses.replace(web.project, services={"web": broken})
    with pytest.raises(Conflict, match="no such module"):
        play(tunnel(project, "web", free_port()))


def test_unknown_service_names_the_nearest(web: World) -> None:
    with pytest.raises(NotFound) as caught:
        next(tunnel(web.project, "wep"))
    assert caught.value.hint == "vmctl tunnel web"


def test_token_is_in_the_url_and_in_no_process_list(web: World) -> None:
    line = 'echo "$JUPYTER_TOKEN_FILE" > where; exec python -m http.server {port}'
    service = dataclasses.replace(
        web.project.services["web"], command=f"{line} --bind 127.0.0.1", token=True
    )
    project = dataclasses.replace(web.project, services={"web": service})
    story = tunnel(project, "web", free_port())
    with contextlib.closing(story):
        token = next_told(story, Ready).url.partition("?token=")[2]
        file = Path((web.remote / "where").read_text().strip())
        assert file.read_text() == token
        assert len(token) >= 32
        assert file.stat().st_mode & 0o077 == 0
        shown = subprocess.run(["ps", "-ewwo", "args"], capture_output=True, text=True).stdout
        assert token not in shown


def test_more_than_ten_commands_at_once(world: World) -> None:
    ssh = world.ssh
    processes = [ssh.popen("cat") for _ in range(14)]
    outputs = [process.communicate(b"x", timeout=30)[0] for process in processes]
    assert outputs == [b"x"] * 14


def test_connect_asks_nobody_when_the_master_answers(world: World) -> None:
    story = connect(world.project)
    with pytest.raises(StopIteration):
        next(story)
