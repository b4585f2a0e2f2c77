"""What the tests of the machines stand on: a host, a key, clients that pin host keys."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import pytest

from tests.harness.eventually import eventually
from vmctl.emulator import machines
from vmctl.emulator.machines import sandbox
from vmctl.emulator.machines.interface import Booted, MachineSpec
from vmctl.emulator.machines.spawner import Spawner

ROOT = os.geteuid() == 0
PACKAGE = Path(machines.__file__).parent
HOSTING = Path(__file__).with_name("host_process.py")
SOMEBODY = 54_321  # an ordinary uid that owns nothing here


def abilities() -> sandbox.Abilities:
    spawner = Spawner()
    try:
        return sandbox.probe(spawner)
    finally:
        spawner.close()


REFUSAL = abilities().refusal
if REFUSAL is not None and os.environ.get("CI") == "true":
    raise RuntimeError(f"CI must be able to make sandboxes, and cannot: {REFUSAL}")
needs_sandbox = pytest.mark.skipif(REFUSAL is not None, reason=f"no sandbox here: {REFUSAL}")
needs_root = pytest.mark.skipif(not ROOT, reason="only root drops machines to another uid")


T = TypeVar("T")


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
        return self.host.serial_output(instance_id)[1].decode()


@contextmanager
def opened(path: Path, images: Path | None = None) -> Iterator[Bench]:
    """A host in path/home; it is closed at the end."""
    key = path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    answers = Answers()
    host = machines.MachineHost(path / "home", images or path / "images", answers)
    try:
        yield Bench(path / "home", key, host, answers)
    finally:
        host.close()


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
    """Living descendants of pid that belong to machines (pytest's own helpers do not count).

    Nor do whole emulators, SSH servers and links, which other tests of the same pytest process
    keep, nor the parent that forks `vmctl` for them.
    """
    others = ("vmctl.emulator\0serve", "sshd\0-D", "sshd -D", "netns_link", "fork_server")
    tree, found, todo = children(), set(), [pid]
    while todo:
        for child in tree.get(todo.pop(), []):
            line = command_line(child)
            if any(other in line for other in others):
                continue
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


def copy(path: Path, key: Path, machine: list[object], file: Path, user: str) -> None:
    identity, address, port, _ = machine
    argv = ["scp", "-q", "-F", "none", "-i", str(key), "-o", f"HostKeyAlias=compute.{identity}",
            "-o", f"UserKnownHostsFile={path / f'known-{identity}'}", "-o", "BatchMode=yes",
            "-o", "StrictHostKeyChecking=yes", "-P", str(port), str(file),
            f"{user}@{address}:uploaded"]  # fmt: skip
    subprocess.run(argv, check=True, timeout=60)


LEAVE_BEHIND = (
    "tmux new -d -s left 'sleep 1000'; setsid -f sleep 1001 </dev/null >/dev/null 2>&1; echo ok"
)


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
