"""The warm connection: started on at once, replaced when it is stale, never twice, never a hang."""

from __future__ import annotations

import contextlib
import os
import pty
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.fixtures import Linked
from tests.harness.folders import public_folder
from tests.harness.laptop import BASE, Laptop, project

# what a stale connection may cost on a computer that is busy with other tests; alone it is 3 s.
# Left to itself a stopped master holds a command up for ever.
NO_HANG_S = 30


@dataclass
class Machine:
    """A machine, and a laptop whose control sockets are its own."""

    laptop: Laptop
    folder: Path
    runtime: Path

    def __call__(self, *words: str, code: int | None = 0, **options: object) -> str:
        done = self.laptop(*words, cwd=self.folder, code=code, **options)  # type: ignore[arg-type]
        return done.stdout

    def file(self, suffix: str) -> Path:
        """The newest file of a kind: those of a VM that has gone may lie there until swept."""
        found = (self.runtime / "vmctl").glob(f"*.{suffix}")
        return max(found, key=lambda file: file.stat().st_mtime_ns)

    @property
    def master(self) -> int:
        """The master's process."""
        return int(self.file("pid").read_text())

    def connected_again(self, name: str) -> Machine:
        """A copy of the laptop, with a warm connection of its own."""
        made = self.started_anew(name)
        made("exec", "true")
        return made

    def started_anew(self, name: str) -> Machine:
        """A copy of the laptop as after a reboot: it knows the machine, no connection is left."""
        home, runtime = self.laptop.home.with_name(name), self.runtime.with_name(name)
        shutil.copytree(self.laptop.home, home)
        runtime.mkdir(mode=0o700)
        laptop = Laptop(home, self.laptop.emulator_home, {"XDG_RUNTIME_DIR": str(runtime)})
        return Machine(laptop, self.folder, runtime)

    def signal_master(self, number: signal.Signals) -> int:
        """Send the master a signal; which process it is."""
        master = self.master
        os.kill(master, number)
        return master

    def other_laptop(self) -> Laptop:
        """Another computer of the same person: what it does happens behind our back."""
        extra = self.laptop.extra | {"XDG_RUNTIME_DIR": str(self.runtime / "other")}
        (self.runtime / "other").mkdir(exist_ok=True)
        return Laptop(self.laptop.home.with_name("other"), self.laptop.emulator_home, extra)


@contextlib.contextmanager
def machine_of_its_own(laptop: Laptop, name: str) -> Iterator[Machine]:
    base = public_folder("c")
    sockets = Path(tempfile.mkdtemp(prefix="vc-", dir="/tmp"))  # their paths have to be short
    runtime = sockets / "r"
    runtime.mkdir(mode=0o700)
    own = Laptop(base / "home", laptop.emulator_home, {"XDG_RUNTIME_DIR": str(runtime)})
    made = Machine(own, project(base / name, BASE), runtime)
    made("up", "--gpu", "t4")
    made("exec", "true")
    yield made
    made("down", "--delete", "--yes", code=None)
    shutil.rmtree(sockets, ignore_errors=True)
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="module")
def one_machine(laptop: Laptop) -> Iterator[Machine]:
    with machine_of_its_own(laptop, "connected") as made:
        yield made


@pytest.fixture
def machine(one_machine: Machine) -> Machine:
    """The file's own machine, up and with a warm connection, whatever a test did to it before."""
    project(one_machine.folder, BASE)
    tidy = ("exec", "--", "sh", "-c", "rm -f ~/ran ~/go ~/there")
    if one_machine.laptop(*tidy, cwd=one_machine.folder, code=None).returncode != 0:
        one_machine("up")
        one_machine(*tidy)
    return one_machine


def timed_exec(machine: Machine, *words: str, code: int = 0) -> str:
    began = time.monotonic()
    told = machine("exec", "--", *words, code=code, timeout_s=60)
    assert time.monotonic() - began < NO_HANG_S
    return told


def at_once(machine: Machine, *lines: Sequence[str]) -> list[subprocess.CompletedProcess[str]]:
    """Type all these command lines at the same time."""
    with ThreadPoolExecutor(len(lines)) as typing:
        return list(typing.map(lambda words: machine.laptop(*words, cwd=machine.folder), lines))


APPEND = ("sh", "-c", "echo once >>~/ran; echo done")


def test_a_stopped_master_is_replaced_and_the_command_runs_once(machine: Machine) -> None:
    before = machine.master
    os.kill(before, signal.SIGSTOP)
    assert timed_exec(machine, *APPEND) == "done\n"
    assert machine.master != before
    with contextlib.suppress(ProcessLookupError):
        os.kill(before, signal.SIGCONT)  # what was asked of it must not begin now
    assert timed_exec(machine, "cat", "/home/vmctl/ran") == "once\n"
    assert timed_exec(machine, *APPEND) == "done\n"


def test_a_master_that_died_is_replaced_at_once(machine: Machine) -> None:
    os.kill(machine.master, signal.SIGKILL)
    assert timed_exec(machine, *APPEND) == "done\n"
    assert timed_exec(machine, "cat", "/home/vmctl/ran") == "once\n"


def test_standard_input_survives_the_replacing(machine: Machine) -> None:
    os.kill(machine.master, signal.SIGSTOP)
    data = b"".join(b"%d\n" % number for number in range(100_000))
    assert machine("exec", "cat", stdin=data).encode() == data


def test_twenty_sessions_at_once(machine: Machine) -> None:
    """None of them ends before all twenty are there."""
    line = "echo $$ >>~/there; until [ $(wc -l <~/there) -ge 20 ]; do sleep 0.1; done; echo done"
    told = at_once(machine, *[("exec", "--", "sh", "-c", line)] * 20)
    assert [(one.stdout, one.stderr) for one in told] == [("done\n", "")] * 20
    assert len(set(machine("exec", "--", "sh", "-c", "cat ~/there").split())) == 20


def test_twenty_commands_at_once_replace_a_stopped_master_by_one(machine: Machine) -> None:
    os.kill(machine.master, signal.SIGSTOP)
    told = at_once(machine, *[("exec", "--", *APPEND)] * 20)
    assert [one.stdout for one in told] == ["done\n"] * 20
    assert machine("exec", "cat", "/home/vmctl/ran").splitlines() == ["once"] * 20
    assert len(_masters(machine)) == 1


def _masters(machine: Machine) -> list[str]:
    """The ssh processes that hold connections for this laptop."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
            if b"-N" in words and f"{machine.runtime}/".encode() in b" ".join(words):
                found.append(entry.name)
    return found


def test_sessions_that_the_vm_refuses_get_a_connection_of_their_own(machine: Machine) -> None:
    _sshd_says(machine, "MaxSessions 1")
    os.kill(machine.master, signal.SIGKILL)  # the next one is made under the new rule
    held = machine.laptop.start(
        "exec", "--", "sh", "-c", "echo on; cat", cwd=machine.folder, stdin=subprocess.PIPE
    )
    assert held.stdout is not None
    assert held.stdout.readline() == b"on\n"
    told = machine.laptop("exec", "--", *APPEND, cwd=machine.folder)
    assert (told.stdout, told.stderr) == ("done\n", "")
    told = machine.laptop("exec", "true", cwd=machine.folder, environ={"VMCTL_VERBOSE": "1"})
    assert "opening another one" in told.stderr
    assert machine("exec", "cat", "/home/vmctl/ran") == "once\n"
    held.communicate(timeout=30)
    machine("exec", "--", "sudo", "sed", "-i", "/^MaxSessions 1$/d", "/etc/ssh/sshd_config")
    os.kill(machine.master, signal.SIGKILL)


def _sshd_says(machine: Machine, line: str) -> None:
    """Put a line before everything else in the configuration of the machine's sshd."""
    program = (
        "import pathlib, sys; f = pathlib.Path('/etc/ssh/sshd_config');"
        "f.write_text(sys.argv[1] + '\\n' + f.read_text())"
    )
    machine("exec", "--", "sudo", "python3", "-c", program, line)


def test_255_of_the_command_is_its_own(machine: Machine) -> None:
    told = machine.laptop("exec", "--", "sh", "-c", "exit 255", cwd=machine.folder, code=255)
    assert told.stderr == ""
    words = "sh", "-c", "echo 'ssh: my own words' >&2; exit 255"
    told = machine.laptop("exec", "--", *words, cwd=machine.folder, code=255)
    assert told.stderr == "ssh: my own words\n"


def test_a_connection_that_breaks_under_a_command_is_said_to_be_lost(machine: Machine) -> None:
    running = machine.laptop.start("exec", "--", "sh", "-c", "echo on; cat", cwd=machine.folder,
                                   stdin=subprocess.PIPE)  # fmt: skip
    assert running.stdout is not None
    assert running.stdout.readline() == b"on\n"
    os.kill(machine.master, signal.SIGKILL)
    _, errors = running.communicate(timeout=30)
    assert running.returncode == 7
    assert b"lost" in errors


def test_the_connection_is_only_ours_to_use(machine: Machine) -> None:
    folder = machine.runtime / "vmctl"
    for path in [folder, *folder.iterdir(), machine.laptop.home / "data" / "id_ed25519"]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 or path.suffix in (".conf", ".pid")
    config = machine.file("conf").read_text()
    for line in ("ForwardAgent no", "IdentityAgent none", "StrictHostKeyChecking yes"):
        assert line in config
    agent = {"SSH_AUTH_SOCK": str(machine.runtime / "agent")}
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(agent["SSH_AUTH_SOCK"])
        listening.listen()
        os.kill(machine.master, signal.SIGKILL)
        for words in (["exec", "--", "env"], ["ssh", "--", "env"]):
            told = machine.laptop(*words, cwd=machine.folder, environ=agent).stdout
            assert "SSH_AUTH_SOCK" not in told


def test_a_terminal_is_given_on_a_connection_that_answers(machine: Machine) -> None:
    os.kill(machine.master, signal.SIGSTOP)
    ours, theirs = pty.openpty()
    with open(ours, "rb", buffering=0) as screen:  # noqa: PTH123  a descriptor
        login = machine.laptop.start(
            "ssh", "--", "tty", cwd=machine.folder, stdin=theirs, stdout=theirs, stderr=theirs
        )
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO: the terminal's other side has closed
            while data := screen.read(4096):
                shown += data
    assert login.wait(60) == 0
    # a master that is quicker than the ssh here makes the terminal add a return of its own
    assert shown.replace(b"\r\r\n", b"\r\n") == b"/dev/pts/0\r\n"


def test_no_secret_is_in_a_process_list(machine: Machine) -> None:
    secret = "s3cret-" + os.urandom(8).hex()
    job = "[jobs.waits]\ncommand = 'until [ -e ~/go ]; do sleep 0.1; done'\nenv = ['TOKEN']\n"
    project(machine.folder, BASE + job)
    machine("push")
    machine("run", "--yes", "--detach", "waits", environ={"TOKEN": secret})
    eventually(lambda: b"until [ -e ~/go ]" in _command_lines(), what="the job's own process")
    listed = _command_lines()
    assert secret.encode() not in listed
    machine("exec", "--", "touch", "/home/vmctl/go")
    assert secret not in machine("logs", "-f", "waits")


def _command_lines() -> bytes:
    """Those of all processes here, the machines' own among them."""
    listed = b""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            listed += (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
    return listed


def test_what_nobody_used_for_a_day_goes_away(machine: Machine) -> None:
    again = machine.connected_again("day")
    folder = again.runtime / "vmctl"
    # on a slow computer there may be another one, made for where the machine was seen before
    connected = {path.stem for path in folder.glob("*.s")}
    live = [path.name for path in folder.iterdir() if path.name.partition(".")[0] in connected]
    long_ago = time.time() - 2 * 86400
    old = {
        "0123456789abcdef.conf": "",
        "0123456789abcdef.lock": "",
        "push-0123456789abcdef.lock": "",
        "77.1.log": "",
    }
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(folder / "0123456789abcdef.s"))
    dead.close()
    for name in old:
        (folder / name).touch()
    (folder / "somebody-elses").touch()
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    again("exec", "true")
    left = sorted(path.name for path in folder.iterdir())
    # a slow answer may have brought a second connection, to the machine as the API names it
    assert {*live, ".tidied", "somebody-elses"} <= set(left)
    assert not {*old, "0123456789abcdef.s"} & set(left)
    (folder / "push-0123456789abcdef.lock").touch()
    os.utime(folder / "push-0123456789abcdef.lock", (long_ago, long_ago))
    again("exec", "true")
    assert (folder / "push-0123456789abcdef.lock").exists(), "once a day is enough"


def test_names_with_spaces_and_letters_of_the_world(laptop: Laptop, tmp_path: Path) -> None:
    base = public_folder("n")
    home = base / "meine Dateien ü 100%"
    own = Laptop(
        home / "vmctl", laptop.emulator_home, {"LOGNAME": "Jürgen Groß", "HOME": str(home)}
    )
    home.mkdir()
    folder = project(tmp_path / "mein Projekt ñ", BASE, {"größe.txt": "1"})
    try:
        own("up", "--gpu", "t4", cwd=folder)
        own("push", cwd=folder)
        assert own("exec", "ls", cwd=folder).stdout.split() == ["größe.txt", "vmctl.toml"]
        own("scp", "größe.txt", ":zurück.txt", cwd=folder)
        own("scp", ":zurück.txt", ".", cwd=folder)
        assert (folder / "zurück.txt").read_text() == "1"
        assert own("exec", "id", "-un", cwd=folder).stdout == "jurgen_gro\n"
    finally:
        own("down", "--delete", "--yes", cwd=folder, code=None)
        shutil.rmtree(base, ignore_errors=True)


def test_a_link_that_moved_costs_the_next_command_a_moment_only(linked: Linked) -> None:
    linked.laptop("exec", "true", cwd=linked.folder)
    linked.link.move()  # the laptop has another address: the old connection is dead
    began = time.monotonic()
    told = linked.laptop("exec", "--", "echo", "here", cwd=linked.folder)
    assert told.stdout == "here\n"
    assert time.monotonic() - began < NO_HANG_S


DROP_IN = "/etc/ssh/sshd_config.d/10-vmctl.conf"


def test_set_up_gives_the_vms_sshd_settings_for_dead_links(machine: Machine) -> None:
    settings = machine("exec", "sudo", "/usr/sbin/sshd", "-T").lower().splitlines()
    for line in ("clientaliveinterval 15", "clientalivecountmax 3", "maxsessions 64"):
        assert line in settings
    made = machine("exec", "stat", "-c", "%i %y %a", DROP_IN)
    assert made.endswith(" 644\n")
    machine("up")
    assert machine("exec", "stat", "-c", "%i %y %a", DROP_IN) == made, "once is enough"


def test_settings_that_sshd_would_not_take_are_taken_back(machine: Machine) -> None:
    machine("exec", "--", "sudo", "rm", DROP_IN)
    _sshd_says(machine, "NoSuchSetting yes")
    machine("up")  # over the warm connection: a new one would be refused
    machine("exec", "test", "-e", DROP_IN, code=1)
    machine("exec", "--", "sudo", "sed", "-i", "/NoSuchSetting/d", "/etc/ssh/sshd_config")
    machine("up")
    machine("exec", "test", "-e", DROP_IN)
    assert machine("exec", "ls", "/etc/ssh/sshd_config.d").split() == ["10-vmctl.conf"]


def test_a_connection_that_is_busy_is_waited_for_not_replaced(linked: Linked) -> None:
    size = 800_000
    linked.laptop("exec", "true", cwd=linked.folder)
    linked.link.set(rate_mbit=0.5)  # what ssh has buffered stands before anything else it sends
    line = "echo on; wc -c"
    giving = linked.laptop.start(
        "exec", "--", "sh", "-c", line, cwd=linked.folder, stdin=subprocess.PIPE
    )
    assert giving.stdout is not None
    assert giving.stdin is not None
    assert giving.stdout.readline() == b"on\n"
    writer = threading.Thread(target=giving.stdin.write, args=(bytes(size),))
    writer.start()
    eventually(lambda: linked.link.counters().up.payload > size / 8, what="it flows")
    told = linked.laptop("exec", "--", "echo", "me too", cwd=linked.folder)
    assert told.stdout == "me too\n"
    writer.join(60)
    assert giving.communicate(timeout=60) == (f"{size}\n".encode(), b"")


def test_a_long_tmpdir_and_odd_folders_are_no_hindrance(machine: Machine, tmp_path: Path) -> None:
    long = tmp_path / ("ä " * 60)
    long.mkdir()
    odd = {"XDG_RUNTIME_DIR": "", "TMPDIR": str(long)}
    assert machine("exec", "--", "echo", "hi", environ=odd) == "hi\n"
    short = machine.runtime / "50%d é"
    short.mkdir(mode=0o700)
    odd = {"XDG_RUNTIME_DIR": str(short)}
    assert machine("exec", "--", "echo", "hi", environ=odd) == "hi\n"
    told = machine.laptop(
        "exec", "true", cwd=machine.folder, code=2, environ={"VMCTL_HOME": "/tmp/a\nb"}
    )
    assert "VMCTL_HOME" in told.stderr


def test_a_command_that_was_given_up_does_not_run_when_the_link_comes_back(
    linked: Linked,
) -> None:
    linked.laptop("exec", "--", "rm", "-f", "/home/vmctl/ran", cwd=linked.folder)
    linked.link.set(cut=True)
    began = time.monotonic()
    told = linked.laptop("exec", "--", *APPEND, cwd=linked.folder, code=7)
    assert "does not answer" in told.stderr
    assert time.monotonic() - began < NO_HANG_S
    linked.link.set(cut=False)
    assert linked.laptop("exec", "--", *APPEND, cwd=linked.folder).stdout == "done\n"
    assert linked.laptop("exec", "cat", "/home/vmctl/ran", cwd=linked.folder).stdout == "once\n"


def test_an_openssh_with_other_words_in_its_log_is_lived_with(
    machine: Machine, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    real = shutil.which("ssh")
    wrapper = programs / "ssh"  # the real one; what it says into the log is lost
    wrapper.write_text(
        '#!/bin/bash\nwords=("$@")\nfor i in "${!words[@]}"; do\n'
        '  if [ "${words[$i]}" = -E ]; then words[$i+1]=/dev/null; fi\ndone\n'
        f'exec {real} "${{words[@]}}"\n'
    )
    wrapper.chmod(0o755)
    path = {"PATH": f"{programs}:{os.environ['PATH']}"}
    late = "sleep 4; echo once >>~/ran; echo late"
    assert machine("exec", "--", "sh", "-c", late, environ=path) == "late\n"
    assert machine("exec", "cat", "/home/vmctl/ran", environ=path) == "once\n"
    machine("exec", "--", "sh", "-c", "exit 3", environ=path, code=3)


# -- a VM that was stopped behind our back, and somebody else at its address ---------------------


@dataclass
class Impostor:
    """A real sshd that would let anybody's key in, with a host key of its own."""

    log: Path
    seen: Path

    @property
    def reached(self) -> int:
        """How many connections have come."""
        return self.log.read_text().count("Connection from")

    def got_nothing(self) -> None:
        log = self.log.read_text()
        assert "Accepted" not in log
        assert "publickey" not in log, "not even our key was offered to it"
        assert not self.seen.exists(), "no command, no data"


@contextlib.contextmanager
def impostor_at(door: tuple[str, int], public_key: str) -> Iterator[Impostor]:
    base = public_folder("m")
    address, port = door
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", base / "key"], check=True)
    keys = base / "authorized"
    keys.write_text(public_key)
    seen = base / "seen"
    config = base / "sshd_config"
    config.write_text(
        f"ListenAddress {address}\nPort {port}\nHostKey {base / 'key'}\nPidFile none\n"
        f"AuthorizedKeysFile {keys}\nStrictModes no\nUsePAM no\nPermitRootLogin yes\n"
        f"LogLevel VERBOSE\nForceCommand cat >>{seen}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    log = base / "log"
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/bin") or "/usr/sbin/sshd"
    process = subprocess.Popen([sshd, "-D", "-f", config, "-E", log])
    try:
        eventually(lambda: _accepts(address, port), what="the other sshd listens")
        yield Impostor(log, seen)
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(base, ignore_errors=True)


def _accepts(address: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((address, port), timeout=1):
        return True
    return False


def _door(config: str) -> tuple[str, int]:
    """The address and port in a connection's configuration."""
    words = dict(line.split(maxsplit=1) for line in config.splitlines())
    return words["HostName"], int(words["Port"])


WAYS = {
    "exec": ["exec", "echo", "secret"],
    "push": ["push"],
    "fetch": ["fetch", "x"],
    "tunnel": ["tunnel", "8000"],
    "scp": ["scp", "vmctl.toml", ":"],
    "ssh": ["ssh", "--", "echo", "secret"],
}
KILLED = ("exec", "moved")
AFTERWARDS = ("moved", "anew")


@dataclass
class Lost:
    """A VM that has stopped. Nobody told the connections that stood to it.

    Each command has a laptop of its own: the `gone` ones have been started anew, or their master
    was killed; the master of a `stalled` one is stopped, as if the link were dead.
    """

    machine: Machine
    downed: Machine  # that told the VM to stop
    impostor: Impostor
    gone: dict[str, Machine]
    stalled: dict[str, Machine]


@pytest.fixture(scope="module")
def lost(one_machine: Machine) -> Iterator[Lost]:
    """The VM has stopped, and another sshd answers at its address and port."""
    machine = one_machine
    machine("up")
    machine("exec", "--", "sh", "-c", "rm -f ~/ran; touch ~/of-the-first")
    gone = {name: machine.started_anew(f"g-{name}") for name in WAYS if name not in KILLED}
    gone |= {name: machine.connected_again(f"g-{name}") for name in KILLED}
    for name in KILLED:
        gone[name].signal_master(signal.SIGKILL)
    stalled = {name: machine.connected_again(f"s-{name}") for name in (*WAYS, "ps", *AFTERWARDS)}
    stopped = [one.signal_master(signal.SIGSTOP) for one in stalled.values()]
    downed = machine.connected_again("down")
    assert _masters(downed)
    downed("down")
    key = (machine.laptop.home / "data" / "id_ed25519.pub").read_text()
    door = _door(stalled["exec"].file("conf").read_text())
    with impostor_at(door, key) as impostor:
        yield Lost(machine, downed, impostor, gone, stalled)
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):  # most have been replaced
            os.kill(pid, signal.SIGKILL)


def test_down_leaves_no_file_and_no_process(lost: Lost) -> None:
    assert not _masters(lost.downed)
    folder = lost.downed.runtime / "vmctl"
    assert [path.name for path in folder.iterdir() if path.name[0] != "."] == []


@pytest.mark.parametrize("name", WAYS)
def test_who_took_a_stopped_vms_address_gets_nothing(lost: Lost, name: str) -> None:
    machine, before = lost.gone[name], lost.impostor.reached
    told = machine.laptop(*WAYS[name], cwd=machine.folder, code=4, timeout_s=60)
    assert "TERMINATED" in told.stderr
    assert lost.impostor.reached > before
    lost.impostor.got_nothing()


@pytest.mark.parametrize("name", [*WAYS, "ps"])
def test_a_vm_that_is_off_is_said_to_be_off(lost: Lost, name: str) -> None:
    machine, began = lost.stalled[name], time.monotonic()
    told = machine.laptop(*WAYS.get(name, [name]), cwd=machine.folder, code=4)
    assert "vmctl up" in told.stderr
    assert time.monotonic() - began < NO_HANG_S
    lost.impostor.got_nothing()


@pytest.fixture(scope="module")
def moved(lost: Lost) -> Lost:
    """The VM is up again, at another address: somebody else has its old one."""
    lost.machine.other_laptop()("up", cwd=lost.machine.folder)
    return lost


def test_a_vm_that_was_restarted_at_another_address_is_found(moved: Lost) -> None:
    machine = moved.stalled["moved"]
    before = machine.file("conf").read_text()
    assert timed_exec(machine, *APPEND) == "done\n"
    assert machine.file("conf").read_text() != before
    assert timed_exec(machine, "cat", "/home/vmctl/ran") == "once\n"


def test_who_took_the_old_address_of_a_vm_gets_nothing(moved: Lost) -> None:
    before = moved.impostor.reached
    assert timed_exec(moved.gone["moved"], "echo", "done") == "done\n"
    assert moved.impostor.reached > before
    moved.impostor.got_nothing()


@pytest.fixture(scope="module")
def anew(moved: Lost) -> Lost:
    """The VM was deleted, and another one made in its place."""
    machine, other = moved.machine, moved.machine.other_laptop()
    other("down", "--delete", "--yes", cwd=machine.folder)
    other("up", "--gpu", "t4", cwd=machine.folder)
    return moved


def test_a_vm_that_was_made_again_is_another_one(anew: Lost) -> None:
    machine = anew.stalled["anew"]
    before = machine.file("conf").read_text()
    assert timed_exec(machine, "ls", "/home/vmctl") == ""
    after = machine.file("conf").read_text()
    assert after.splitlines()[0] != before.splitlines()[0], "its host keys are pinned anew"


def test_another_host_key_at_the_vms_own_address_ends_everything(anew: Lost) -> None:
    # the API says that this is the VM's address, and an sshd there would take our key
    machine = anew.stalled["anew"]
    new_key = "rm /etc/ssh/ssh_host_*; ssh-keygen -q -t ed25519 -N '' "
    machine("exec", "sudo", "sh", "-c", f"{new_key} -f /etc/ssh/ssh_host_ed25519_key")
    before = _sshd_logs(machine)
    os.kill(machine.master, signal.SIGKILL)
    for words in WAYS.values():
        told = machine.laptop(*words, cwd=machine.folder, code=7, timeout_s=60)
        assert "host key" in told.stderr, words
    after = _sshd_logs(machine)
    assert after != before, "it was reached"
    assert after.count("Accepted") == before.count("Accepted")


def _sshd_logs(machine: Machine) -> str:
    """What the sshds of all machines have logged."""
    found = (machine.laptop.emulator_home / "machines").glob("*/fs/var/log/sshd.log")
    return "".join(path.read_text() for path in sorted(found))
