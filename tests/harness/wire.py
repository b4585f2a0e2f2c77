"""A project here and a machine there, a real sshd, with no cloud and no emulator between them.

What costs most, logging in and setting a machine up, is done once: the machine of `world` is
shared, with its connection, and gets a new home before each test, a copy of what set-up leaves in
one. Tests of the connection itself, or that change who may log in, take `own_world`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.harness.sshd import Sshd
from vmctl.config import Project
from vmctl.domain.errors import AccessDenied, Unreachable
from vmctl.domain.events import Event, Story
from vmctl.domain.login.ssh_target import Target
from vmctl.domain.settings.job_settings import JobSettings
from vmctl.domain.settings.service_settings import ServiceSettings
from vmctl.ssh.identity import known_hosts
from vmctl.ssh.identity.keypair import ensure_keypair
from vmctl.ssh.session.openssh import OpenSSH
from vmctl.workflows.runs.setup import prepare_machine
from vmctl.workflows.session.session import cache_target, connect_quietly

INSTANCE = "4711"
PROJECT = Project(
    root=Path("/nowhere"),
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


@dataclasses.dataclass
class World:
    """A project here, a machine there."""

    project: Project
    sshd: Sshd
    target: Target | None = None  # what the laptop knows, before anybody has logged in

    @property
    def root(self) -> Path:
        return self.project.root

    @property
    def remote(self) -> Path:
        return self.sshd.home / "Workspace" / self.project.name

    def ssh_target(self) -> Target:
        target = self.ssh.target
        assert isinstance(target, Target)
        return target

    @property
    def ssh(self) -> OpenSSH:
        return connect_quietly(self.project)


def play(story: Story[Any], on: Callable[[Event], None] = lambda event: None) -> Any:
    """Take a story to its end and return its result."""
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


def settled(path: Path, data: bytes) -> Path:
    """A file whose last write was a while ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    os.utime(path, (1_700_000_000, 1_700_000_000))
    return path


def tree(root: Path) -> dict[str, str]:
    """Every file and link below a folder, and its content."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_text()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def processes_with(*words: bytes) -> set[int]:
    """The processes on this computer whose command line holds all of these."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            line = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if all(word in line for word in words):
                found.add(int(entry.name))
    return found


class Machine:
    """An sshd that lets this computer's key in, and what the laptop knows of it."""

    def __init__(self, folder: Path, prepared: Path | None = None) -> None:
        """`prepared` is a home as set-up leaves it, for every new one."""
        self.sockets = Path(tempfile.mkdtemp(prefix="vmw", dir="/tmp"))  # their paths are short
        self.data = folder / "vmctl's home ü 100%"
        self.prepared = prepared
        with self.known():
            pair = ensure_keypair()
            self.sshd = Sshd(folder / "machine", self.sockets)
            pins = known_hosts.pin(INSTANCE, [self.sshd.host_key])
        self.sshd.authorized.write_text(f"{pair.public_line}\n")
        self.sshd.start()
        key, user = str(pair.private_path), self.sshd.user
        self.target = Target(INSTANCE, "127.0.0.1", self.sshd.port, user, key, str(pins))

    @contextlib.contextmanager
    def known(self, data: Path | None = None) -> Iterator[pytest.MonkeyPatch]:
        """This process is the laptop that knows the machine."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_RUNTIME_DIR", str(self.sockets))
            patch.setenv("VMCTL_HOME", str(data or self.data))
            # the project's own user is the one that sshd lets in
            patch.setattr(Project, "login_user", property(lambda _: self.sshd.user))
            yield patch

    @contextlib.contextmanager
    def world(self, folder: Path) -> Iterator[World]:
        """A project in a folder, of a laptop that has just met the machine."""
        self.renew()
        root = folder / "a'; echo föö"
        root.mkdir(parents=True)
        data = folder / self.data.name
        shutil.copytree(self.data, data)
        project = dataclasses.replace(PROJECT, root=root)
        with self.known(data) as patch:
            patch.chdir(root)
            cache_target(project, self.target, datetime.now(UTC) + timedelta(days=1), None)
            yield World(project, self.sshd, self.target)

    def renew(self) -> None:
        """Nothing of an earlier test is there or runs there; the connection may stay."""
        if (self.sockets / f"tmux-{os.getuid()}").exists():
            self.sshd.end_tmux()
        if self.sshd.process is None:
            self.sshd.start()
        home = self.sshd.home
        for pid in processes_with(os.fsencode(home / ".vmctl")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(home)
        if self.prepared is None:
            home.mkdir()
        else:
            shutil.copytree(self.prepared, home, symlinks=True)

    def close(self) -> None:
        with self.known(), contextlib.suppress(Unreachable, AccessDenied):
            OpenSSH(self.target).close()
        self.sshd.power_off()
        shutil.rmtree(self.sockets, ignore_errors=True)


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What set-up leaves in a machine's home, with the helpers compiled."""
    folder = tmp_path_factory.mktemp("prepared")
    with contextlib.closing(Machine(folder)) as machine, machine.known():
        play(prepare_machine(OpenSSH(machine.target)))
        shutil.copytree(machine.sshd.home, folder / "home", symlinks=True)
    return folder / "home"


@pytest.fixture(scope="session")
def shared_wire(tmp_path_factory: pytest.TempPathFactory, prepared_home: Path) -> Iterator[Machine]:
    with contextlib.closing(Machine(tmp_path_factory.mktemp("shared"), prepared_home)) as machine:
        yield machine


@pytest.fixture
def world(shared_wire: Machine, tmp_path: Path) -> Iterator[World]:
    """A machine that was set up, with nothing else in its home."""
    with shared_wire.world(tmp_path) as made:
        yield made


@pytest.fixture
def own_world(tmp_path: Path) -> Iterator[World]:
    """A machine without any login so far."""
    with (
        contextlib.closing(Machine(tmp_path)) as machine,
        machine.world(tmp_path / "laptop") as made,
    ):
        yield made
