"""The connection to a machine, against a real sshd: opened once, kept, replaced, never trusted."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.wire import INSTANCE, World, play, write
from vmctl.clock import Clock
from vmctl.domain.errors import (
    AccessDenied,
    HostKeyChanged,
    TimedOut,
    Unreachable,
)
from vmctl.ssh import rpc
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.remote_output import without_noise
from vmctl.ssh.session.bootstrap import wait_for_ssh
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.session.session import connect
from vmctl.workflows.session.shell import exec_, scp


def test_second_command_rides_on_the_first_ones_connection_until_it_is_lost(
    own_world: World,
) -> None:
    assert own_world.ssh.run("echo one").text == "one\n"
    before = own_world.sshd.sessions()
    assert own_world.ssh.run("echo two").text == "two\n"
    assert own_world.sshd.sessions() == before
    assert len(before) == 1

    # one that is lost is replaced
    own_world.sshd.cut()
    assert own_world.ssh.run("echo again").text == "again\n"


def test_exit_code_and_both_streams_come_back(world: World) -> None:
    done = world.ssh.run("cat; echo problem >&2; exit 7", input=b"\x00\xff")
    assert (done.code, done.stdout, done.stderr) == (7, b"\x00\xff", b"problem\n")


def test_frozen_link_is_found_out_and_replaced(own_world: World) -> None:
    target = own_world.ssh_target()
    frozen = own_world.sshd.sessions()
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


def test_two_processes_at_once_open_one_master(own_world: World) -> None:
    results: list[str] = []
    errors: list[BaseException] = []

    def one() -> None:
        try:
            results.append(own_world.ssh.run("echo x").text)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (results, errors) == (["x\n"] * 4, [])
    assert len(own_world.sshd.sessions()) == 1


def test_changed_or_unknown_host_key_is_an_error_never_a_question(
    own_world: World, tmp_path: Path
) -> None:
    target = own_world.target
    assert target is not None
    empty = tmp_path / "nothing pinned"
    empty.touch()
    stranger = dataclasses.replace(target, instance_id="9999", known_hosts=str(empty))
    with pytest.raises(HostKeyChanged):
        OpenSSH(stranger).open()
    with pytest.raises(HostKeyChanged):
        wait_for_ssh(stranger, time.monotonic() + 5, Clock())

    own_world.sshd.stop()
    own_world.sshd.new_host_key()
    own_world.sshd.start()
    with pytest.raises(HostKeyChanged) as caught:
        OpenSSH(target).open()
    assert caught.value.exit_code == 7
    with pytest.raises(HostKeyChanged):
        wait_for_ssh(target, time.monotonic() + 5, Clock())


def test_refused_key_and_silent_port_are_distinguished(own_world: World) -> None:
    target = own_world.target
    assert target is not None
    kept = own_world.sshd.authorized.read_text()
    own_world.sshd.authorized.write_text("")
    with pytest.raises(AccessDenied):
        OpenSSH(target).open()
    with pytest.raises(TimedOut, match="does not accept"):  # waiting ends with the reason
        wait_for_ssh(target, time.monotonic() + 1, Clock())
    own_world.sshd.authorized.write_text(kept)
    own_world.sshd.stop()
    with pytest.raises(Unreachable, match="does not answer"):
        OpenSSH(target).open()


class Counting(Clock):
    """The real clock, which knows how often it was slept on: after each try in vain."""

    sleeps = 0

    def sleep(self, seconds: float) -> None:
        self.sleeps += 1
        super().sleep(seconds)


def test_waiting_for_ssh_outlasts_boot_and_key_propagation(own_world: World) -> None:
    kept = own_world.sshd.authorized.read_text()
    target = own_world.target
    assert target is not None
    own_world.sshd.stop()
    own_world.sshd.authorized.write_text("")

    clock = Counting()

    def one_try_fails() -> None:
        before = clock.sleeps
        eventually(lambda: clock.sleeps > before + 1, "one whole try in vain")

    def boot() -> None:
        one_try_fails()
        own_world.sshd.start()
        one_try_fails()
        own_world.sshd.authorized.write_text(kept)

    thread = threading.Thread(target=boot)
    thread.start()
    with wait_for_ssh(target, time.monotonic() + 30, clock) as connection:
        done = connection.run("cat; echo problem >&2; exit 3", input=b"given")
    thread.join()
    assert (done.code, done.stdout, done.stderr) == (3, b"given", b"problem\n")


def test_pin_wins_over_a_later_key(own_world: World) -> None:
    other = own_world.sshd.new_host_key()
    with pytest.raises(HostKeyChanged):
        known_hosts.pin(INSTANCE, [other])
    known_hosts.unpin(INSTANCE)
    known_hosts.pin(INSTANCE, [other])
    assert known_hosts.pinned(INSTANCE) == [other]


# -- set-up ----------------------------------------------------------------------------------


def test_setup_twice_does_the_work_once_and_over_fabric_it_is_the_same(own_world: World) -> None:
    with wait_for_ssh(own_world.ssh_target(), time.monotonic() + 10, Clock()) as connection:
        first = play(prepare_machine(connection))
    second = play(prepare_machine(own_world.ssh))
    assert first == second._replace(done_before=first.done_before)
    assert Path(first.python).exists()
    found = own_world.ssh.run('ls "$HOME/.vmctl/lib"').text.split()
    assert found == [rpc.library()[0]]


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


def test_more_than_ten_commands_at_once(world: World) -> None:
    ssh = world.ssh
    processes = [ssh.popen("cat") for _ in range(14)]
    outputs = [process.communicate(b"x", timeout=30)[0] for process in processes]
    assert [without_noise(output) for output in outputs] == [b"x"] * 14


def test_connect_asks_nobody_when_the_master_answers(world: World) -> None:
    assert world.ssh.run("true").code == 0
    story = connect(world.project)
    with pytest.raises(StopIteration):
        next(story)
