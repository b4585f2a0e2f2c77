"""The emulator's machines, driven directly: real sandboxes, real sshd, real clients."""

from __future__ import annotations

import http.server
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import pytest

from vmctl.emulator import machines
from vmctl.emulator.machines import image as images
from vmctl.emulator.machines import sandbox
from vmctl.emulator.machines.interface import Booted, MachineError, MachineSpec
from vmctl.emulator.machines.spawner import Spawner

ROOT = os.geteuid() == 0
PACKAGE = Path(machines.__file__).parent
HOSTING = Path(__file__).with_name("machine_process.py")
SOMEBODY = 54_321  # an ordinary uid that owns nothing here


def abilities() -> sandbox.Abilities:
    spawner = Spawner()
    try:
        return sandbox.probe(spawner)
    finally:
        spawner.close()


REFUSAL = abilities().refusal
needs_sandbox = pytest.mark.skipif(REFUSAL is not None, reason=f"no sandbox here: {REFUSAL}")
needs_root = pytest.mark.skipif(not ROOT, reason="only root drops machines to another uid")


T = TypeVar("T")


def eventually(look: Callable[[], T], limit_s: float = 20) -> T:
    """The first truthy value of look; a failure after limit_s."""
    deadline = time.monotonic() + limit_s
    while not (found := look()):
        assert time.monotonic() < deadline, "it did not happen in time"
        threading.Event().wait(0.05)
    return found


@dataclass
class Answers:
    """The API side in one dictionary per instance."""

    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    guest_attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    exits: list[tuple[str, str]] = field(default_factory=list)

    def metadata(self, instance_id: str) -> dict[str, object]:
        instance = {
            "id": instance_id,
            "machine-type": "projects/1/machineTypes/n1-standard-4",
            "attributes": dict(self.attributes.get(instance_id, {})),
        }
        return {"instance": instance, "project": {"project-id": "p", "attributes": {}}}

    def put_guest_attribute(self, instance_id: str, path: str, value: str) -> bool:
        self.guest_attributes.setdefault(instance_id, {})[path] = value
        return True

    def exited(self, instance_id: str, reason: str) -> None:
        self.exits.append((instance_id, reason))


@dataclass
class Bench:
    """A host with its folder, a key, and ssh clients that pin what the guest published."""

    home: Path
    key: Path
    host: machines.MachineHost
    answers: Answers
    places: dict[str, Booted] = field(default_factory=dict)

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text().strip()

    def spec(self, instance_id: str, **changes: object) -> MachineSpec:
        values: dict[str, object] = {
            "instance_id": instance_id,
            "name": f"vm-{instance_id}",
            "hostname": f"vm-{instance_id}.zone.c.p.internal",
            "disk": self.home / "machines" / f"disk-{instance_id}",
            "image": "base",
            "nat_ip": None,
            "gpu": None,
            "gpu_count": 0,
        }
        return MachineSpec(**{**values, **changes})  # type: ignore[arg-type]

    def boot(self, instance_id: str, **changes: object) -> Booted:
        attributes = self.answers.attributes.setdefault(instance_id, {})
        attributes.setdefault("ssh-keys", f"alice:{self.public}")
        place = self.places[instance_id] = self.host.boot(self.spec(instance_id, **changes))
        return place

    def options(self, instance_id: str) -> list[str]:
        keys = eventually(
            lambda: self.answers.guest_attributes.get(instance_id, {}).get("hostkeys/ssh-ed25519")
        )
        known = self.home.parent / f"known-{instance_id}"
        known.write_text(f"compute.{instance_id} ssh-ed25519 {keys}\n")
        return [
            "-F", "none", "-i", str(self.key), "-o", f"HostKeyAlias=compute.{instance_id}",
            "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes",
            "-o", f"Port={self.places[instance_id].ssh_port}",
        ]  # fmt: skip

    def address(self, instance_id: str, user: str = "alice") -> str:
        return f"{user}@{self.places[instance_id].nat_ip}"

    def try_ssh(
        self, instance_id: str, command: str, *extra: str, user: str = "alice", text: str = ""
    ) -> subprocess.CompletedProcess[str]:
        argv = ["ssh", *self.options(instance_id), *extra, self.address(instance_id, user), command]
        return subprocess.run(argv, input=text, capture_output=True, text=True, timeout=120)

    def ssh(self, instance_id: str, command: str, *extra: str, user: str = "alice") -> str:
        done = self.try_ssh(instance_id, command, *extra, user=user)
        assert done.returncode == 0, f"{command}: {done.stderr}{done.stdout}"
        return done.stdout.strip()

    def serial(self, instance_id: str) -> str:
        return self.host.serial_output(instance_id).decode()


@pytest.fixture
def folder() -> Iterator[Path]:
    """Like tmp_path, but open to the machines' uid on the way."""
    path = Path(tempfile.mkdtemp(prefix="machines-", dir="/var/tmp"))
    path.chmod(0o755)
    yield path
    machines.delete_disk(path)


@contextmanager
def opened(path: Path) -> Iterator[Bench]:
    key = path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    answers = Answers()
    host = machines.MachineHost(path / "home", path / "images", answers)
    try:
        yield Bench(path / "home", key, host, answers)
    finally:
        host.close()


@pytest.fixture
def bench(folder: Path) -> Iterator[Bench]:
    with opened(folder) as bench:
        yield bench


@pytest.fixture(scope="module")
def shared() -> Iterator[Bench]:
    """One machine, "1", for the tests that only look."""
    path = Path(tempfile.mkdtemp(prefix="machines-", dir="/var/tmp"))
    path.chmod(0o755)
    with opened(path) as bench:
        bench.boot("1", gpu="nvidia-tesla-t4", gpu_count=2)
        yield bench
    machines.delete_disk(path)


# -- a machine of one's own --------------------------------------------------------------------


@needs_sandbox
def test_login_user_is_the_one_named_in_the_metadata(shared: Bench) -> None:
    assert shared.host.mode == "sandbox"
    assert shared.ssh("1", "id -un; id -u; hostname; hostname -f; pwd").splitlines() == [
        "alice", "1000", "vm-1", "vm-1.zone.c.p.internal", "/home/alice",
    ]  # fmt: skip


@needs_sandbox
def test_nothing_of_the_computer_but_usr_is_there(shared: Bench) -> None:
    for hidden in (shared.key, Path(__file__), shared.home):
        assert hidden.exists()
        assert shared.try_ssh("1", f"test -e {hidden}").returncode == 1
    ours = {"bin", "sbin", "lib", "lib32", "lib64", "libx32"}
    own = {"dev", "etc", "home", "media", "mnt", "opt", "proc", "root", "run", "srv", "sys", "tmp"}
    assert set(shared.ssh("1", "ls /").split()) <= ours | own | {"usr", "var"}
    assert shared.ssh("1", "ls /home /opt /srv /root").split() == [
        "/home:", "alice", "/opt:", "/root:", "/srv:",
    ]  # fmt: skip
    assert shared.try_ssh("1", "touch /usr/share/mine").returncode != 0
    shared.ssh("1", "touch /usr/local/share-of-mine")
    assert not Path("/usr/local/share-of-mine").exists()


@needs_sandbox
def test_only_its_own_processes_are_visible(shared: Bench) -> None:
    commands = shared.ssh("1", "ps -eo args").splitlines()
    assert "guest.init" in commands[1]
    assert not any("pytest" in command for command in commands)


@needs_sandbox
def test_root_of_a_machine_cannot_write_kernel_settings(shared: Bench) -> None:
    setting = Path("/proc/sys/kernel/core_pattern")
    before = setting.read_text()
    for attempt in (
        "echo mine > /proc/sys/kernel/core_pattern",
        "sudo sh -c 'echo mine > /proc/sys/kernel/core_pattern'",
        "sudo unshare -m sh -c 'mount -t proc proc /proc && echo x >/proc/sys/kernel/core_pattern'",
        "unshare -rmpf sh -c 'mount -t proc p /mnt && echo x >/mnt/sys/kernel/core_pattern'",
    ):
        assert shared.try_ssh("1", attempt).returncode != 0
    assert setting.read_text() == before


@needs_sandbox
@needs_root
def test_no_process_of_a_machine_is_root_on_the_computer(shared: Bench) -> None:
    pid = shared.ssh("1", "sudo sh -c 'sleep 60 >/dev/null 2>&1 & echo $!'")
    assert pid.isdigit()
    family = descendants(os.getpid())
    uids = {
        line.split()[index]
        for process in family
        for line in (Path(f"/proc/{process}/status").read_text().splitlines())
        if line.startswith("Uid:")
        for index in range(1, 5)
    }
    assert len(family) >= 4  # bwrap, the first process, sudo's sleep, slirp4netns or sshd
    assert uids == {str(sandbox.MACHINE_UID)}


@needs_sandbox
def test_scp_sftp_and_rsync_carry_files(shared: Bench, tmp_path: Path) -> None:
    source = tmp_path / "a file"
    source.write_bytes(os.urandom(200_000))
    options, there = shared.options("1"), shared.address("1")
    shell = shlex.join(["ssh", *options])
    carriers = {
        "scp": ["scp", "-q", *options, str(source), f"{there}:by-scp"],
        "scp -O": ["scp", "-O", "-q", *options, str(source), f"{there}:by-scp-O"],
        "rsync": ["rsync", "-a", "-e", shell, str(source), f"{there}:by-rsync"],
    }
    for name, argv in carriers.items():
        subprocess.run(argv, check=True, timeout=60, capture_output=True)
        back = tmp_path / name.replace(" ", "")
        remote = "by-" + name.replace(" ", "")
        subprocess.run(
            ["sftp", "-q", *options, f"{there}:{remote}", str(back)],
            check=True, timeout=60, capture_output=True,
        )  # fmt: skip
        assert back.read_bytes() == source.read_bytes()


@needs_sandbox
def test_a_terminal_is_a_terminal(shared: Bench) -> None:
    done = shared.try_ssh("1", "test -t 0 && stty -a | head -1 && tty", "-tt")
    assert done.returncode == 0
    assert "/dev/pts/" in done.stdout


@needs_sandbox
def test_tmux_outlives_the_connection(shared: Bench) -> None:
    shared.ssh("1", "tmux -L t new-session -d -s job 'sleep 1000'")
    assert shared.ssh("1", "tmux -L t list-sessions -F '#S'") == "job"
    attached = shared.try_ssh("1", "TERM=xterm timeout 2 tmux -L t attach -t job", "-tt")
    assert "no sessions" not in attached.stdout + attached.stderr
    assert shared.ssh("1", "tmux -L t list-sessions -F '#S'") == "job"


@needs_sandbox
def test_many_sessions_share_one_connection(shared: Bench) -> None:
    path = shared.key.parent / "mux"
    control = ["-o", f"ControlPath={path}"]
    argv = ["ssh", *shared.options("1"), *control, "-M", "-N", "-f", shared.address("1")]
    subprocess.run(argv, check=True, timeout=30, stderr=subprocess.DEVNULL)
    try:
        command = ["ssh", *shared.options("1"), *control, shared.address("1"), "cat"]
        running = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            for _ in range(24)
        ]
        outputs = [process.communicate(b"same", timeout=60)[0] for process in running]
        assert outputs == [b"same"] * 24
    finally:
        subprocess.run(
            ["ssh", *control, "-O", "exit", "x"], check=True, timeout=10, capture_output=True
        )


@needs_sandbox
def test_sudo_shows_root_and_files_stay_the_users(shared: Bench) -> None:
    assert shared.ssh("1", "sudo -n id -u") == "0"
    assert shared.ssh("1", "sudo -u alice id -un; sudo -H sh -c 'echo $HOME'").split() == [
        "alice", "/root",
    ]  # fmt: skip
    assert shared.ssh("1", "A=1 sudo -E B='two words' sh -c 'echo $A $B'") == "1 two words"
    assert shared.ssh("1", "sudo -nE env X=1 sh -c 'echo $X'; sudo -i pwd").split() == [
        "1",
        "/root",
    ]
    shared.ssh("1", "sudo tee /etc/by-root </dev/null && stat -c %U /etc/by-root | grep alice")
    assert shared.try_ssh("1", "sudo -n false").returncode == 1
    assert shared.try_ssh("1", "sudo -u nosuch true").returncode == 1


@needs_sandbox
def test_apt_get_tells_the_truth(shared: Bench) -> None:
    shared.ssh(
        "1", "sudo apt-get update && sudo -E apt-get -o DPkg::Lock::Timeout=60 -y install tar"
    )
    refused = shared.try_ssh("1", "sudo apt-get install -y tar no-such-package")
    assert refused.returncode == 100
    assert "emulator" in refused.stderr and "no-such-package" in refused.stderr
    assert " tar" not in refused.stderr


@needs_sandbox
def test_the_gpu_says_that_it_is_simulated(shared: Bench) -> None:
    query = "nvidia-smi --query-gpu=name,driver_version --format=csv,noheader"
    assert shared.ssh("1", query).splitlines() == ["Tesla T4 (simulated), 580.00-simulated"] * 2
    assert "SIMULATED" in shared.ssh("1", "nvidia-smi")
    assert shared.try_ssh("1", "nvidia-smi --query-gpu=nonsense --format=csv").returncode == 2


@needs_sandbox
def test_without_a_gpu_there_is_no_nvidia_smi(bench: Bench) -> None:
    bench.boot("2")
    assert bench.try_ssh("2", "test -e /usr/local/bin/nvidia-smi").returncode == 1


# -- metadata ----------------------------------------------------------------------------------

ASK = """\
import sys, urllib.error, urllib.request as u
path, method, body, *header = sys.argv[1:]
request = u.Request("http://metadata.google.internal/computeMetadata/v1/" + path,
                    data=body.encode() or None, method=method,
                    headers=dict(h.split("=") for h in header))
try:
    with u.urlopen(request, timeout=30) as answer:
        print(answer.status, answer.headers["Metadata-Flavor"], answer.read().decode())
except u.HTTPError as error:
    print(error.code, error.read().decode())
"""


def ask(
    bench: Bench, path: str, method: str = "GET", body: str = "", flavour: str = "Google"
) -> str:
    header = [f"Metadata-Flavor={flavour}"] if flavour else []
    return bench.ssh("1", shlex.join(["python3", "-c", ASK, path, method, body, *header]))


@needs_sandbox
def test_the_metadata_server_answers_as_on_compute_engine(shared: Bench) -> None:
    shared.answers.attributes["1"]["some-key"] = "some value"
    assert ask(shared, "instance/attributes/some-key") == "200 Google some value"
    assert ask(shared, "instance/id") == "200 Google 1"
    assert ask(shared, "instance/id", flavour="").startswith("403")
    assert ask(shared, "instance/nothing").startswith("404")
    assert ask(shared, "instance/").splitlines() == [
        "200 Google attributes/", "id", "machine-type",
    ]  # fmt: skip
    tree = json.loads(ask(shared, "?recursive=true").removeprefix("200 Google "))
    assert tree["instance"]["machineType"].endswith("n1-standard-4")
    assert tree["instance"]["attributes"]["some-key"] == "some value"
    assert tree["project"]["projectId"] == "p"
    text = ask(shared, "instance/?recursive=true&alt=text")
    assert "attributes/some-key some value" in text


@needs_sandbox
def test_guest_attributes_arrive_outside(shared: Bench) -> None:
    assert ask(shared, "instance/guest-attributes/mine/key", "PUT", "value").startswith("200")
    assert shared.answers.guest_attributes["1"]["mine/key"] == "value"


@needs_sandbox
def test_wait_for_change_returns_when_the_metadata_changes(shared: Bench) -> None:
    shared.answers.attributes["1"]["wait-key"] = "old"
    answers: list[str] = []
    query = "instance/attributes/wait-key?wait_for_change=true&timeout_sec=20"
    thread = threading.Thread(target=lambda: answers.append(ask(shared, query)))
    thread.start()
    waiting = "ss -Htn state established '( sport = :80 )'"
    eventually(lambda: shared.ssh("1", waiting))
    shared.answers.attributes["1"]["wait-key"] = "new"
    shared.host.metadata_changed("1")
    thread.join(15)
    assert answers == ["200 Google new"]
    expired = "instance/attributes/wait-key?wait_for_change=true&timeout_sec=1"
    assert ask(shared, expired) == "200 Google new"


@needs_sandbox
def test_users_come_and_go_with_the_metadata(bench: Bench) -> None:
    bench.boot("2")
    attributes = bench.answers.attributes["2"]
    attributes["ssh-keys"] = f"alice:{bench.public}\nbob.b:{bench.public}\nroot:{bench.public}"
    bench.host.metadata_changed("2")
    eventually(lambda: bench.try_ssh("2", "true", user="bob.b").returncode == 0)
    assert bench.ssh("2", "echo $HOME $USER", user="bob.b") == "/home/bob.b bob.b"
    assert bench.try_ssh("2", "true", user="root").returncode == 255
    attributes["ssh-keys"] = f"bob.b:{bench.public}"
    bench.host.metadata_changed("2")
    eventually(lambda: bench.try_ssh("2", "true", user="alice").returncode == 255)
    assert bench.ssh("2", "id -un", user="bob.b") == "bob.b"


@needs_sandbox
def test_an_expiring_key_stops_working_when_it_expires(bench: Bench) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=4)
    stamp = ends.strftime("%Y-%m-%dT%H:%M:%S+0000")
    kind, blob = bench.public.split()[:2]
    comment = '{"userName":"alice","expireOn":"' + stamp + '"}'
    bench.answers.attributes["2"] = {"ssh-keys": f"alice:{kind} {blob} google-ssh {comment}"}
    bench.boot("2")
    assert bench.ssh("2", "id -un") == "alice"
    eventually(lambda: bench.try_ssh("2", "true").returncode == 255)
    assert datetime.now(UTC) >= ends.replace(microsecond=0)


@needs_sandbox
def test_host_keys_are_published_and_printed(bench: Bench) -> None:
    bench.boot("2")
    serial = eventually(
        lambda: text if "END SSH HOST KEY KEYS" in (text := bench.serial("2")) else ""
    )
    published = bench.answers.guest_attributes["2"]
    assert set(published) == {
        "hostkeys/ssh-ed25519", "hostkeys/ecdsa-sha2-nistp256", "hostkeys/ssh-rsa",
    }  # fmt: skip
    for path, value in published.items():
        assert f"{path.removeprefix('hostkeys/')} {value} root@vm-2" in serial
    bench.host.shutdown("2", 10)
    published.clear()
    bench.boot("2")
    eventually(lambda: bench.serial("2").count("END SSH HOST KEY KEYS") == 2)
    assert published == {}  # once per instance id
    bench.host.shutdown("2", 10)
    bench.boot("3", disk=bench.spec("2").disk)
    assert bench.options("3")
    assert published == {}
    assert bench.answers.guest_attributes["3"]["hostkeys/ssh-ed25519"] not in serial


@needs_sandbox
def test_scripts_run_as_root_with_output_on_the_serial_port(bench: Bench) -> None:
    bench.answers.attributes["2"] = {
        "startup-script": "#!/bin/bash\necho up $(id -u)\nsleep 1000 &\nexit 3",
        "shutdown-script": "echo down $(hostname)",
    }
    bench.boot("2")
    eventually(lambda: "startup-script exit status 3" in bench.serial("2"))
    assert "startup-script: up 0" in bench.serial("2")
    bench.host.shutdown("2", 20)
    assert "shutdown-script: down vm-2" in bench.serial("2")
    assert "shutdown-script exit status 0" in bench.serial("2")
    assert bench.answers.exits == []


# -- up and down -------------------------------------------------------------------------------


@needs_sandbox
@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("sudo shutdown -h now", "poweroff"),
        ("sudo poweroff", "poweroff"),
        ("sudo systemctl reboot", "reboot"),
    ],
)
def test_power_commands_inside_end_the_machine(bench: Bench, command: str, reason: str) -> None:
    bench.boot("2")
    assert bench.try_ssh("2", "shutdown -h now").returncode == 1  # not without sudo
    assert bench.try_ssh("2", command).returncode in (0, 255)
    eventually(lambda: bench.answers.exits)
    assert bench.answers.exits == [("2", reason)]
    place = bench.places["2"]
    with pytest.raises(OSError), socket.create_connection((place.nat_ip, place.ssh_port), 2):
        pass
    again = bench.boot("2", nat_ip=place.nat_ip)
    assert again == place
    assert bench.ssh("2", "id -un") == "alice"


@needs_sandbox
def test_poweroff_in_the_startup_script_is_heard(bench: Bench) -> None:
    bench.answers.attributes["2"] = {"startup-script": "poweroff"}
    bench.boot("2")
    eventually(lambda: bench.answers.exits)
    assert bench.answers.exits == [("2", "poweroff")]


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
    started = time.monotonic()
    bench.host.shutdown("2", 4)
    assert time.monotonic() - started < 8
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


# -- networks ----------------------------------------------------------------------------------


@needs_sandbox
def test_two_machines_serve_the_same_port(bench: Bench) -> None:
    tunnels = []
    for number in ("2", "3"):
        bench.boot(number)
        serve = "mkdir -p w; hostname >w/name; cd w; python3 -m http.server -b 127.0.0.1 8888"
        bench.ssh(number, f"tmux new -d '{serve}'")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        forward = ["-N", "-L", f"127.0.0.1:{port}:localhost:8888"]
        argv = ["ssh", *bench.options(number), *forward, bench.address(number)]
        tunnels.append((number, port, subprocess.Popen(argv, stderr=subprocess.DEVNULL)))
    try:
        for number, port, _ in tunnels:
            assert eventually(lambda port=port: read_name(port)) == f"vm-{number}"
    finally:
        for _, _, process in tunnels:
            process.terminate()
            process.wait()


def read_name(port: int) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port), 2) as connection:
            connection.sendall(b"GET /name HTTP/1.0\r\n\r\n")
            with connection.makefile() as stream:
                return stream.read().splitlines()[-1]
    except (OSError, IndexError):
        return ""


@needs_sandbox
def test_a_machine_reaches_a_server_on_this_computer(shared: Bench) -> None:
    if "outbound" in shared.host.note:
        pytest.skip(shared.host.note)

    class Hello(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"hello from outside")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Hello) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            fetch = "import urllib.request as u; print(u.urlopen('http://10.0.2.2:%d').read())"
            code = shlex.quote(fetch % server.server_port)
            assert "hello from outside" in shared.ssh("1", f"python3 -c {code}")
        finally:
            server.shutdown()
            thread.join()


# -- ends --------------------------------------------------------------------------------------


def children() -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                found.setdefault(int(fields[1]), []).append(int(entry.name))
    return found


def descendants(pid: int) -> set[int]:
    """Living descendants of pid that belong to machines (pytest's own helpers do not count)."""
    tree, found, todo = children(), set(), [pid]
    while todo:
        for child in tree.get(todo.pop(), []):
            found.add(child)
            todo.append(child)
    return found


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""  # a session that was just ending


def alive(pids: set[int]) -> set[int]:
    living = {pid for group in children().values() for pid in group}
    return pids & living


@contextmanager
def hosting(
    path: Path, public: str, count: int, *, uid: int | None = None, user: str = "alice",
    environment: dict[str, str] | None = None, python: str = sys.executable,
) -> Iterator[tuple[subprocess.Popen[str], dict[str, object]]]:  # fmt: skip
    """Another process that runs machines; its first line of output."""
    package = path / "machines_package"
    if not package.exists():
        shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(HOSTING, path / "hosting.py")
    argv = [python, "-B", str(path / "hosting.py"), str(package), str(path / "home"),
            str(path / "images"), public, str(count), user]  # fmt: skip
    with (path / "errors").open("w") as errors:
        process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            cwd=path, user=uid, group=uid, extra_groups=None if uid is None else [],
            env={**os.environ, "HOME": str(path), **(environment or {})},
        )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, (path / "errors").read_text()
        yield process, json.loads(line)
    finally:
        try:
            process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def enter(path: Path, key: Path, machine: list[object], command: str, user: str = "alice") -> str:
    identity, address, port, public = machine
    known = path / f"known-{identity}"
    known.write_text(f"compute.{identity} ssh-ed25519 {public}\n")
    argv = ["ssh", "-F", "none", "-i", str(key), "-o", f"HostKeyAlias=compute.{identity}",
            "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes",
            "-o", "BatchMode=yes", "-p", str(port), f"{user}@{address}", command]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture
def key(folder: Path) -> Path:
    file = folder / "client-key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    return file


LEAVE_BEHIND = (
    "tmux new -d -s left 'sleep 1000'; setsid -f sleep 1001 </dev/null >/dev/null 2>&1; echo ok"
)


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
        family = descendants(process.pid)
        process.kill()
        process.wait(20)
        eventually(lambda: not alive(family), 10)


def low_ports_are_free() -> bool:
    return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 22


@needs_root
def test_a_closed_home_is_one_clear_error(folder: Path) -> None:
    folder.chmod(0o700)
    with pytest.raises(MachineError, match="chmod o\\+x"):
        machines.MachineHost(folder / "home", folder / "images", Answers())


# -- without namespaces ------------------------------------------------------------------------


def test_plain_machines_work_and_end_with_the_emulator(folder: Path, key: Path) -> None:
    public = key.with_suffix(".pub").read_text().strip()
    user = "alice" if ROOT else os.environ.get("USER", "alice")
    plain = {"VMCTL_EMULATOR_PLAIN": "1"}
    with hosting(folder, public, 2, user=user, environment=plain) as (process, line):
        assert line["mode"] == "plain"
        assert "share this computer" in str(line["note"])
        first, second = line["machines"]  # type: ignore[misc]
        assert enter(folder, key, first, "echo one >file; cat file; id -u", user).split() == [
            "one", str(sandbox.MACHINE_UID if ROOT else os.getuid()),
        ]  # fmt: skip
        assert "file" not in enter(folder, key, second, "ls -a", user).split()
        assert enter(folder, key, first, LEAVE_BEHIND, user) == "ok"
        assert enter(folder, key, first, "tmux list-sessions -F '#S'", user) == "left"
        assert (
            enter(folder, key, second, "tmux list-windows 2>/dev/null || echo none", user) == "none"
        )
        upload = folder / "upload"
        upload.write_text("by scp")
        copy(folder, key, first, upload, user)
        assert enter(folder, key, first, "cat uploaded", user) == "by scp"
        # What ssh says when its connection is cut is no matter; the news is what counts.
        enter(folder, key, second, "(sleep 0.5; sudo shutdown -h now) >/dev/null 2>&1 &", user)
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["reason"] == "poweroff"
        family = descendants(process.pid)
        assert len(family) >= 3
        process.kill()
        process.wait(20)
        eventually(lambda: not alive(family), 15)


def copy(path: Path, key: Path, machine: list[object], file: Path, user: str) -> None:
    identity, address, port, _ = machine
    argv = ["scp", "-q", "-F", "none", "-i", str(key), "-o", f"HostKeyAlias=compute.{identity}",
            "-o", f"UserKnownHostsFile={path / f'known-{identity}'}", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=yes", "-P", str(port), str(file),
            f"{user}@{address}:uploaded"]  # fmt: skip
    subprocess.run(argv, check=True, timeout=60)


# -- images ------------------------------------------------------------------------------------


def make_wheel(path: Path, version: str) -> Path:
    """A package of one module, so that pip has something to install without a network."""
    file = path / f"probe_package-{version}-py3-none-any.whl"
    info = f"probe_package-{version}.dist-info"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("probe_package.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: probe-package\n"
                       f"Version: {version}\n")  # fmt: skip
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\n"
                       "Tag: py3-none-any\n")  # fmt: skip
        wheel.writestr(f"{info}/RECORD", "")
    return file


@needs_sandbox
@pytest.mark.parametrize("overlay", [True, False])
def test_pip_installs_into_the_machines_own_layer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, overlay: bool
) -> None:
    monkeypatch.setitem(images.RECIPES, "tiny", images.Recipe((), ("pip",), 0.1))
    lines: list[str] = []
    bench.host.prepare_image("tiny", lines.append)
    assert any("installing" in line for line in lines)
    built = images.ImageStore(bench.home.parent / "images", None, True).path("tiny")  # type: ignore[arg-type]
    assert built is not None
    listing = {file: file.lstat().st_mtime_ns for file in built.rglob("*")}
    if overlay and not bench.host._overlay:
        pytest.skip(bench.host.note)
    bench.host._overlay = overlay
    for number in ("2", "3"):
        bench.boot(number, image="tiny")
    where = "import sys; print(sys.prefix)"
    assert bench.ssh("2", f"bash -lc 'python -c \"{where}\"'") == "/opt/python"
    wheel = make_wheel(tmp_path, "1.0")
    bench.try_ssh("2", "true")
    subprocess.run(
        ["scp", "-q", *bench.options("2"), str(wheel), f"{bench.address('2')}:"], check=True
    )
    bench.ssh("2", f"bash -lc 'pip install --no-index ~/{wheel.name}'")
    version = "bash -lc 'python -c \"import probe_package as p; print(p.version)\"'"
    assert bench.ssh("2", version) == "1.0"
    assert bench.try_ssh("3", version).returncode == 1
    bench.host.shutdown("2", 10)
    bench.boot("2", image="tiny")
    assert bench.ssh("2", version) == "1.0"
    assert {file: file.lstat().st_mtime_ns for file in built.rglob("*")} == listing


@needs_sandbox
def test_a_build_that_was_killed_is_done_again(
    folder: Path, key: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(PACKAGE), str(folder / "home"), str(folder / "images"), "key", "prepare:tiny"]
    package = folder / "machines_package"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HOSTING, folder / "hosting.py")
    process = subprocess.Popen(
        [sys.executable, "-B", str(folder / "hosting.py"), str(package), *arguments[1:]],
        stdout=subprocess.DEVNULL,
    )
    eventually(lambda: list((folder / "images").glob(".building-*/python/bin")))
    family = descendants(process.pid)
    process.kill()
    process.wait()
    eventually(lambda: not alive(family), 10)
    monkeypatch.setitem(images.RECIPES, "tiny", images.Recipe((), ("pip",), 0.1))
    host = machines.MachineHost(folder / "home", folder / "images", Answers())
    try:
        host.prepare_image("tiny", lambda _: None)
        again: list[str] = []
        host.prepare_image("tiny", again.append)
        assert again == []
        left = [entry.name for entry in (folder / "images").iterdir()]
        assert sorted(name.split("-")[0] for name in left) == [".tiny", "tiny"]
    finally:
        host.close()


@needs_sandbox
def test_a_package_that_does_not_exist_is_one_sentence(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    recipe = images.Recipe(("no-such-package-of-mine",), (), 0.1)
    monkeypatch.setitem(images.RECIPES, "broken", recipe)
    with pytest.raises(MachineError, match=r"No matching distribution.*; .*pip config"):
        bench.host.prepare_image("broken", lambda _: None)
    assert [e.name for e in (bench.home.parent / "images").iterdir() if ".lock" not in e.name] == []
    with pytest.raises(MachineError, match="has not been prepared"):
        bench.boot("2", image="broken")


@needs_sandbox
def test_two_machines_start_at_once_and_one_host_has_many(bench: Bench) -> None:
    numbers = [str(number) for number in range(10, 16)]
    threads = [threading.Thread(target=bench.boot, args=(number,)) for number in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len({bench.places[number].nat_ip for number in numbers}) == len(numbers)
    for number in numbers:
        assert bench.ssh(number, "hostname") == f"vm-{number}"
