"""Any server that the user's own ssh reaches: an alias behind a jump host, a real sshd each."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import jsonschema
import pytest

from tests.harness.eventually import eventually
from tests.harness.laptop import Laptop, project
from tests.harness.sshd import Sshd, free_port
from tests.harness.wheels import make_wheel, pip_settings
from vmctl.cli.json_results import schema_of

TOML = """
[targets.lab]
kind = "ssh"
host = "lab"
workspace = "~/work space"
[jobs.train]
command = "python3 train.py"
outputs = ["model.bin"]
[jobs.hello]
script = "hello.py"
requirements = ["greeter"]
"""
TRAIN = "import sys; open('model.bin', 'w').write('weights'); print('trained', *sys.argv[1:])"


@dataclass
class Lab:
    """A server behind a jump host, and a laptop whose OpenSSH configuration knows both."""

    server: Sshd
    jump: Sshd
    laptop: Laptop
    folder: Path

    def __call__(self, *words: str, code: int | None = 0, on: str = "lab") -> tuple[str, str]:
        done = self.laptop("--on", on, *words, cwd=self.folder, code=code)
        return done.stdout, done.stderr

    @property
    def known_hosts(self) -> Path:
        return Path(self.laptop.extra["HOME"]) / ".ssh" / "known"

    @property
    def runtime(self) -> Path:
        return Path(self.laptop.extra["XDG_RUNTIME_DIR"]) / "vmctl"

    def trust(self, *machines: Sshd) -> None:
        lines = [f"[127.0.0.1]:{one.port} {one.host_key}\n" for one in machines]
        self.known_hosts.write_text("".join(lines))


@pytest.fixture(scope="module")
def shared_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("lab")
    sockets = Path(tempfile.mkdtemp(prefix="vml", dir="/tmp"))
    machines = [Sshd(folder / name, sockets) for name in ("server", "jump")]
    home = folder / "user"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    key = home / ".ssh" / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    for machine in machines:
        machine.authorized.write_text(Path(f"{key}.pub").read_text())
        machine.start()
    server, jump = machines
    # what a user's configuration may hold that no program expects
    (home / ".ssh" / "config").write_text(
        f"""Host lab
    HostName 127.0.0.1
    Port {server.port}
    ProxyJump bastion
    RemoteCommand echo never
    RequestTTY force
    LocalForward {free_port()} 127.0.0.1:9
Host bastion
    HostName 127.0.0.1
    Port {jump.port}
Host *
    User {server.user}
    IdentityFile {key}
    IdentitiesOnly yes
    UserKnownHostsFile {home}/.ssh/known
    ControlMaster auto
    ControlPath {sockets}/user-%C
    ForwardAgent yes
    LogLevel VERBOSE
"""
    )
    extra = {"HOME": str(home), "XDG_RUNTIME_DIR": str(sockets), "VMCTL_LOCAL": "0"}
    work = project(folder / "work", TOML, {"train.py": TRAIN})
    lab = Lab(server, jump, Laptop(folder / "vmctl", folder / "none", extra), work)
    lab.trust(*machines)
    yield lab
    forget_connection(lab)
    for machine in machines:
        machine.power_off()
    shutil.rmtree(sockets, ignore_errors=True)


@pytest.fixture
def lab(shared_lab: Lab) -> Lab:
    shared_lab.trust(shared_lab.server, shared_lab.jump)
    return shared_lab


def forget_connection(lab: Lab) -> None:
    """As after a reboot of the laptop: the next command connects again."""
    for path in lab.runtime.glob("*.pid"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(path.read_text()), signal.SIGKILL)
        path.with_suffix(".s").unlink(missing_ok=True)


def test_the_four_lines_behind_a_jump_host(lab: Lab) -> None:
    lab("push")
    out, _ = lab("run", "train", "fast")
    assert "trained fast\n" in out
    lab("fetch", "model.bin")
    assert (lab.folder / "model.bin").read_text() == "weights"
    (lab.folder / "model.bin").unlink()
    assert (lab.server.home / "work space" / "work" / "train.py").exists()
    assert "succeeded" in lab("ps")[0]
    assert lab("exec", "pwd")[0] == f"{lab.server.home}/work space/work\n"


def test_a_script_gets_its_requirements_in_the_users_home(lab: Lab) -> None:
    make_wheel(lab.server.home / "wheels", "greeter", "1.0", "def greet(): print('greeted')")
    pip_settings(lab.server.home, lab.server.home / "wheels")
    (lab.folder / "hello.py").write_text("import greeter; greeter.greet()")
    lab("push")
    assert "greeted\n" in lab("run", "hello")[0]
    assert "already installed: greeter\n" in lab("run", "hello")[0]
    (lab.folder / "hello.py").unlink()
    assert "hello.py, which is not there" in lab("run", "hello", code=3)[1]


def test_a_tunnel_rides_on_the_same_connection(lab: Lab) -> None:
    lab("push")
    remote, here = free_port(), free_port()
    serve = f"nohup python3 -m http.server {remote} --bind 127.0.0.1 >/dev/null 2>&1 & echo $!"
    pid = int(lab("exec", serve)[0])
    tunnel = lab.laptop.start("--on", "lab", "tunnel", f"{here}:{remote}", cwd=lab.folder)
    try:

        def answers() -> bool:
            with contextlib.suppress(OSError):
                return bool(urllib.request.urlopen(f"http://127.0.0.1:{here}/").status == 200)
            return False

        eventually(answers, "the page comes through the tunnel")
    finally:
        tunnel.terminate()
        tunnel.wait()
        os.kill(pid, 15)


def test_an_unknown_host_key_is_shown_and_refused(lab: Lab) -> None:
    forget_connection(lab)
    lab.trust(lab.jump)
    _, err = lab("exec", "true", code=7)
    made = ["ssh-keygen", "-lf", f"{lab.server.key}.pub"]
    print_ = subprocess.run(made, capture_output=True, text=True, check=True).stdout.split()[1]
    assert "is not in your known hosts" in err
    assert print_ in err
    assert "ssh lab true" in err
    lab.trust(lab.server)
    _, err = lab("exec", "true", code=7)
    assert f"127.0.0.1]:{lab.jump.port}" in err or "cannot be reached" in err


def test_a_changed_host_key_is_refused(lab: Lab) -> None:
    forget_connection(lab)
    lines = [f"[127.0.0.1]:{port} {key}\n" for port, key in [
        (lab.jump.port, lab.jump.host_key), (lab.server.port, lab.jump.host_key)]]  # fmt: skip
    lab.known_hosts.write_text("".join(lines))
    _, err = lab("exec", "true", code=7)
    assert "another host key" in err


def test_a_target_that_the_file_chose_is_asked_about_once(lab: Lab, tmp_path: Path) -> None:
    folder = project(tmp_path / "cloned", f'on = "lab"\n{TOML}')
    done = lab.laptop("exec", "true", cwd=folder, code=2)
    assert "names lab as the place to work" in done.stderr
    lab.laptop("--yes", "exec", "true", cwd=folder)
    lab.laptop("exec", "true", cwd=folder)
    text = (folder / "vmctl.toml").read_text()
    (folder / "vmctl.toml").write_text(text.replace('host = "lab"', 'host = "other"'))
    lab.laptop("exec", "true", cwd=folder, code=2)


def test_nothing_is_changed_outside_the_home(lab: Lab) -> None:
    before = set(Path("/etc/ssh").rglob("*"))
    shutil.rmtree(lab.server.home / ".vmctl", ignore_errors=True)
    lab("push")
    lab("run", "train")
    assert set(Path("/etc/ssh").rglob("*")) == before
    assert (lab.server.home / ".vmctl" / "python").is_symlink()


def test_the_server_is_looked_at_and_nothing_is_started(lab: Lab) -> None:
    for words, name in (("up", "up --on"), ("down", "down --on"), ("status", "status --on"),
                        ("login", "login")):  # fmt: skip
        document = lab.laptop.json("--on", "lab", words, cwd=lab.folder)
        jsonschema.Draft202012Validator(schema_of(name)).validate(document)
    found = lab.laptop.json("--on", "lab", "doctor", cwd=lab.folder)
    assert found["ready"]
    assert [one["check"] for one in found["findings"]] == [
        "ssh", "python", "rsync", "tmux", "gpu", "torch", "disk"]  # fmt: skip
    status = lab.laptop.json("--on", "lab", "status", cwd=lab.folder)
    assert status["cores"] >= 1
    assert status["free_bytes"] > 0
    out, _ = lab("up")
    assert "✓ ssh" in out
    assert "is not vmctl's to stop" in lab("down")[0]
    assert "is about a VM" in lab("up", "--gpu", "t4", code=2)[1]


@pytest.fixture(scope="module")
def bare(shared_lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server without tmux."""
    folder = tmp_path_factory.mktemp("bare")
    programs = folder / "bin"
    programs.mkdir()
    for program in [*Path("/usr/local/bin").iterdir(), *Path("/usr/bin").iterdir()]:
        if program.name != "tmux" and not (programs / program.name).is_symlink():
            (programs / program.name).symlink_to(program)
    server = Sshd(folder / "server", shared_lab.server.sockets, str(programs))
    server.authorized.write_text(shared_lab.server.authorized.read_text())
    server.start()
    yield server
    server.power_off()


def test_without_tmux_runs_go_on_all_the_same(lab: Lab, bare: Sshd) -> None:
    lab.trust(lab.server, lab.jump, bare)
    on = f"ssh/127.0.0.1:{bare.port}"
    lab("push", on=on)
    slow = project(
        lab.folder.with_name("slow"),
        "[jobs.slow]\ncommand = 'trap \"echo saved; exit 3\" TERM; sleep 60 & wait'\n",
    )
    lab.laptop("--on", on, "push", cwd=slow)
    lab.laptop("--on", on, "run", "--detach", "slow", cwd=slow)
    eventually(lambda: " running " in lab.laptop("--on", on, "ps", cwd=slow).stdout, "the job runs")
    assert "tmux is not installed" in lab.laptop("--on", on, "attach", cwd=slow, code=4).stderr
    lab.laptop("--on", on, "cancel", "slow", cwd=slow)
    assert "saved" in lab.laptop("--on", on, "logs", "slow", cwd=slow).stdout
    assert "trained\n" in lab("run", "train", on=on)[0]
    found = lab.laptop.json("--on", on, "doctor", cwd=slow)
    assert {one["check"]: one["status"] for one in found["findings"]}["tmux"] == "warning"


def test_a_command_about_compute_engine_says_so(lab: Lab) -> None:
    for words in (["keep", "1h"], ["gpus"], ["ls"]):
        assert "about Compute Engine" in lab(*words, code=2)[1]
