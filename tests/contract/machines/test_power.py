"""Up and down, killed or asked, and what is left."""

from __future__ import annotations

import os
import shlex
import signal
import socket
from pathlib import Path

import pytest

from tests.contract.machines.host import (
    LEAVE_BEHIND,
    ROOT,
    SOMEBODY,
    Answers,
    Bench,
    alive,
    command_line,
    descendants,
    enter,
    hosting,
    needs_root,
    needs_sandbox,
)
from tests.harness.eventually import eventually
from vmctl.emulator import machines
from vmctl.emulator.machines import sandbox
from vmctl.emulator.machines.interface import MachineError


@needs_sandbox
def test_power_commands_inside_end_the_machine(bench: Bench) -> None:
    bench.boot("2")
    assert bench.try_ssh("2", "shutdown -h now").returncode == 1  # not without sudo
    for command, reason in (
        ("sudo shutdown -h now", "poweroff"),
        ("sudo poweroff", "poweroff"),
        ("sudo systemctl reboot", "reboot"),
    ):
        assert bench.try_ssh("2", command).returncode in (0, 255)
        eventually(lambda: bench.answers.exits, command)
        assert bench.answers.exits == [("2", reason)]
        place = bench.places["2"]
        with pytest.raises(OSError), socket.create_connection((place.nat_ip, place.ssh_port), 2):
            pass
        bench.answers.exits.clear()
        again = bench.boot("2", nat_ip=place.nat_ip)
        assert again == place
        assert bench.ssh("2", "id -un") == "alice"


@needs_sandbox
def test_the_disk_survives_and_memory_does_not(bench: Bench) -> None:
    bench.boot("2")
    bench.ssh("2", "echo kept >~/file; sudo mkdir /data; echo x >/data/y; touch /tmp/gone")
    bench.ssh(
        "2", "echo 'export MINE=1' | sudo tee /etc/profile.d/mine.sh; tmux new -d 'sleep 999'"
    )
    key = bench.answers.guest_attributes["2"]["hostkeys/ssh-ed25519"]
    bench.host.shutdown("2", 10)
    assert "sshd answers" in bench.serial("2")
    bench.boot("2")
    assert bench.answers.guest_attributes["2"]["hostkeys/ssh-ed25519"] == key
    assert bench.ssh("2", "cat ~/file /data/y; bash -lc 'echo $MINE'").split() == ["kept", "x", "1"]
    assert bench.try_ssh("2", "test -e /tmp/gone").returncode == 1
    assert bench.try_ssh("2", "tmux list-sessions").returncode == 1
    with pytest.raises(MachineError, match="running already"):
        bench.boot("2")
    bench.host.shutdown("2", 10)
    bench.answers.attributes["2"] = {"startup-script": "poweroff"}
    bench.boot("2")
    eventually(lambda: bench.answers.exits, "it is heard")
    assert bench.answers.exits == [("2", "poweroff")]


@needs_sandbox
def test_shutdown_gives_programs_time_and_then_pulls_the_plug(bench: Bench) -> None:
    before = descendants(os.getpid())
    bench.boot("2")
    polite = 'trap "" HUP; trap "echo saved >~/saved; exit" TERM; while :; do sleep 0.1; done'
    deaf = 'trap "" TERM HUP; echo >~/deaf; while :; do sleep 1; done'
    bench.ssh("2", f"tmux new -d {shlex.quote(polite)}")
    bench.ssh("2", f"setsid -f sh -c {shlex.quote(deaf)} </dev/null >/dev/null 2>&1")
    eventually(lambda: bench.try_ssh("2", "test -e ~/deaf").returncode == 0)
    family = descendants(os.getpid()) - before
    bench.host.shutdown("2", 4)
    assert (bench.spec("2").disk / "fs/home/alice/saved").read_text() == "saved\n"
    assert alive(family) == set()


@needs_sandbox
def test_a_failed_boot_says_why_and_leaves_nothing(bench: Bench) -> None:
    disk = bench.spec("2").disk
    disk.mkdir(parents=True)
    (disk / "fs").mkdir()
    (disk / "local").mkdir()  # a disk that belongs to root: the machine cannot write on it
    if not ROOT:
        for part in (disk / "fs", disk / "local"):
            part.chmod(0o555)
    before = descendants(os.getpid())
    with pytest.raises(MachineError, match="vm-2"):
        bench.boot("2")
    assert descendants(os.getpid()) <= before


@needs_sandbox
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killing_the_emulator_leaves_no_process(
    folder: Path, key: Path, number: signal.Signals
) -> None:
    public = key.with_suffix(".pub").read_text().strip()
    with hosting(folder, public, 2) as (process, line):
        for machine in line["machines"]:  # type: ignore[attr-defined]
            assert enter(folder, key, machine, LEAVE_BEHIND) == "ok"
        family = descendants(process.pid)
        commands = "".join(command_line(pid) for pid in family)
        assert "tmux" in commands and "1001" in commands
        process.send_signal(number)
        process.wait(20)
        eventually(lambda: not alive(family), 10)


@needs_root
@needs_sandbox
def test_an_ordinary_user_runs_machines_too(folder: Path, key: Path) -> None:
    os.chown(folder, SOMEBODY, SOMEBODY)
    public = key.with_suffix(".pub").read_text().strip()
    with hosting(folder, public, 1, uid=SOMEBODY, python=sandbox.PYTHON) as (process, line):
        assert line["mode"] == "sandbox"
        if not Path("/dev/net/tun").stat().st_mode & 0o006:
            assert "/dev/net/tun" in str(line["note"])
        machine = line["machines"][0]  # type: ignore[index]
        assert machine[2] != 22 or low_ports_are_free()
        assert enter(folder, key, machine, "id -un; sudo id -u").split() == ["alice", "0"]
        assert enter(folder, key, machine, WRITE_DISKS) == "first\nlater"
        family = descendants(process.pid)
        process.kill()
        process.wait(20)
        eventually(lambda: not alive(family), 10)


WRITE_DISKS = "cd /mnt/disks; for disk in *; do echo $disk >$disk/it; done; cat */it"


def low_ports_are_free() -> bool:
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 22


@needs_root
def test_a_closed_home_is_one_clear_error(folder: Path) -> None:
    folder.chmod(0o700)
    with pytest.raises(MachineError, match="chmod o\\+x"):
        machines.MachineHost(folder / "home", folder / "images", Answers())


@needs_sandbox
def test_a_frozen_machine_keeps_its_memory_and_lets_nobody_in(bench: Bench) -> None:
    place = bench.boot("2")
    bench.ssh("2", "tmux new -d -s kept 'sleep 999'")
    bench.ssh("2", "setsid sh -c 'kill -STOP $$; sleep 998' </dev/null >/dev/null 2>&1 &")

    def stopped() -> set[int]:
        return {pid for pid in descendants(os.getpid()) if state(pid) == "T"}

    held = eventually(stopped, "it has stopped itself")
    bench.host.freeze("2")
    sleeping = {pid for pid in descendants(os.getpid()) if "sleep" in command_line(pid)}
    assert len(sleeping) >= 2 and sleeping <= stopped()
    with pytest.raises(OSError), socket.create_connection((place.nat_ip, place.ssh_port), 1) as it:
        it.settimeout(1)
        assert it.recv(1) == b"", "sshd answers"
        raise OSError("closed")
    assert bench.host.thaw("2")
    bench.host.admit("2", True)
    assert bench.ssh("2", "tmux ls -F '#S'") == "kept"
    assert stopped() == held, "what was stopped before stays so"
    bench.host.freeze("2")
    bench.host.shutdown("2", 60.0)  # at once: nothing in it could react
    assert not bench.host.thaw("2")


def state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "X"  # a session that was just ending
