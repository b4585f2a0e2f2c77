"""ssh, scp and rsync of the user's own find the VM by a name, wherever it is."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.harness.endpoint import Endpoint
from tests.harness.folders import public_folder
from tests.harness.laptop import Laptop, project
from vmctl.domain.login.ssh_keys import expiry_of, key_entry

BASE = '[vm]\ngpu = "none"\nmachine = "e2-small"\nimage = "debian-cloud/debian-12"\n'
BEFORE = b"# mine\r\nHost *\n\tServerAliveInterval 7\nHost x\n  User me"  # no newline at its end


@dataclass
class Desk:
    """A laptop with an ssh configuration of its own, and a machine that is up."""

    laptop: Laptop
    folder: Path
    config: Path
    other: Laptop
    name: str

    def __call__(self, *words: str, code: int = 0) -> str:
        return self.laptop(*words, cwd=self.folder, code=code).stdout

    def run(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        """A program of the user's, with nothing of vmctl's in its environment."""
        environ = {k: v for k, v in os.environ.items() if not k.startswith(("VMCTL_", "XDG_"))}
        environ["XDG_RUNTIME_DIR"] = self.laptop.environ["XDG_RUNTIME_DIR"]
        done = subprocess.run(
            words, capture_output=True, text=True, env=environ, cwd=self.folder, check=False,
            stdin=subprocess.DEVNULL, timeout=120,
        )  # fmt: skip
        assert done.returncode == code, f"{words}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def ssh(self, line: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return self.run("ssh", "-F", str(self.config), self.name, line, code=code)

    def address(self) -> str:
        return str(self.laptop.json("status", cwd=self.folder)["machine"]["address"])


@pytest.fixture(scope="module")
def desk_up(laptop: Laptop) -> Iterator[Desk]:
    base = public_folder("desk")
    (base / "r").mkdir(mode=0o700)
    (base / "r2").mkdir(mode=0o700)
    own = Laptop(base / "a home", laptop.emulator_home, {"XDG_RUNTIME_DIR": str(base / "r")})
    other = Laptop(base / "other", laptop.emulator_home, {"XDG_RUNTIME_DIR": str(base / "r2")})
    made = Desk(own, project(base / "desk", BASE), base / "config", other, "desk.local.vmctl")
    made("up")
    yield made
    made.other("down", "--delete", "--yes", cwd=made.folder, code=None)
    made("down", "--delete", "--yes")
    shutil.rmtree(base, ignore_errors=True)


def is_up(desk: Desk) -> bool:
    vms = Endpoint(desk.laptop.emulator_home).admin("GET", "status")["instances"]
    return any((vm["name"], vm["status"]) == ("tester-desk", "RUNNING") for vm in vms)


@pytest.fixture
def desk(desk_up: Desk) -> Iterator[Desk]:
    if not is_up(desk_up):
        desk_up("up")
    desk_up.config.write_bytes(BEFORE)
    desk_up("ssh-config", "--file", str(desk_up.config))
    yield desk_up
    desk_up("ssh-config", "--remove", "--file", str(desk_up.config))
    assert desk_up.config.read_bytes() == BEFORE


def test_ssh_scp_and_rsync_just_work(desk: Desk) -> None:
    assert desk.ssh("hostname; id -un").stdout.split() == ["tester-desk", "vmctl"]
    (desk.folder / "sent").write_text("there and back\n")
    desk.run("scp", "-F", str(desk.config), "sent", f"{desk.name}:arrived")
    remote = f"ssh -F {desk.config}"
    desk.run("rsync", "-a", "-e", remote, f"{desk.name}:arrived", "back")
    assert (desk.folder / "back").read_text() == "there and back\n"
    told = desk.laptop.json("ssh-config", "--file", str(desk.config), cwd=desk.folder)
    assert (told["action"], told["host"]) == ("unchanged", desk.name)
    assert told["address"] == desk.address()


def test_a_vm_that_is_off_is_said_to_be_off_and_followed_when_it_was_started_elsewhere(
    desk: Desk,
) -> None:
    before = desk.address()
    desk.ssh("echo kept >note")
    with socket.socket() as held:
        desk.other("down", cwd=desk.folder)
        told = desk.ssh("true", code=255)
        assert "not running" in told.stderr
        assert "vmctl up" in told.stderr
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((before, 22 if os.getuid() == 0 else 0))
        held.listen()
        desk.other("up", cwd=desk.folder)
        assert desk.ssh("cat note").stdout == "kept\n"
        assert desk.address() != before


def test_the_name_follows_a_vm_made_again_and_its_host_keys(desk: Desk) -> None:
    desk.ssh("echo old >note")
    desk.other("down", "--delete", "--yes", cwd=desk.folder)
    desk.other("up", cwd=desk.folder)
    assert desk.ssh("ls").stdout == ""


def test_using_the_name_renews_the_key(desk: Desk) -> None:
    machine = desk.laptop.json("status", cwd=desk.folder)["machine"]
    user = json.loads(desk("ssh-config", "--json", "--file", str(desk.config)))["user"]
    public = (desk.laptop.home / "data" / "id_ed25519.pub").read_text()
    soon = datetime.now(UTC) + timedelta(hours=1)
    desk.run(
        *api(desk, machine, "/setMetadata", soon, key_entry(user, public, soon)),
    )  # fmt: skip
    shutil.rmtree(desk.laptop.home / "cache")  # a cache: it may vanish at any moment
    desk.ssh("true")
    left = [expiry_of(line) for line in keys_of(desk, machine).splitlines()]
    assert max(end for end in left if end) > datetime.now(UTC) + timedelta(hours=23)


def of_instance(desk: Desk, machine: dict[str, str], verb: str = "") -> list[str]:
    """curl's words for a call about a VM."""
    endpoint = Endpoint(desk.laptop.emulator_home)
    where = f"projects/vmctl-local/zones/{machine['zone']}/instances/{machine['name']}{verb}"
    return [*endpoint.curl, "--fail", f"{endpoint.url}/compute/v1/{where}"]


def instance(desk: Desk, machine: dict[str, str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(desk.run(*of_instance(desk, machine)).stdout)
    return found


def items_of(desk: Desk, machine: dict[str, str]) -> tuple[dict[str, str], str]:
    metadata: dict[str, object] = instance(desk, machine)["metadata"]  # type: ignore[assignment]
    items: list[dict[str, str]] = metadata["items"]  # type: ignore[assignment]
    return {item["key"]: item["value"] for item in items}, str(metadata["fingerprint"])


def keys_of(desk: Desk, machine: dict[str, str]) -> str:
    return items_of(desk, machine)[0]["ssh-keys"]


def api(desk: Desk, machine: dict[str, str], verb: str, soon: datetime, entry: str) -> list[str]:
    items, fingerprint = items_of(desk, machine)
    items["ssh-keys"] = entry
    body = {
        "fingerprint": fingerprint,
        "items": [{"key": key, "value": value} for key, value in items.items()],
    }
    sent = ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
    return [*of_instance(desk, machine, verb), *sent]


def test_a_link_and_a_mode_stay_as_they_are(desk: Desk, tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles", tmp_path / "config"
    real.write_bytes(BEFORE)
    real.chmod(0o640)
    link.symlink_to(real)
    desk("ssh-config", "--file", str(link))
    assert link.is_symlink()
    assert (real.stat().st_mode & 0o777, BEFORE in real.read_bytes()) == (0o640, True)
    desk("ssh-config", "--remove", "--file", str(link))
    assert (link.is_symlink(), real.read_bytes()) == (True, BEFORE)
    assert [path.name for path in tmp_path.iterdir()].count("config") == 1
    assert len(list(tmp_path.iterdir())) == 2, "nothing else is left beside it"


def test_what_was_not_there_is_not_there_afterwards(desk: Desk, tmp_path: Path) -> None:
    file = tmp_path / ".ssh" / "config"
    desk("ssh-config", "--file", str(file))
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    desk("ssh-config", "--remove", "--file", str(file))
    assert not file.parent.exists()
    assert not (desk.laptop.home / "data" / "ssh-config").exists()
    again = desk("ssh-config", "--remove", "--file", str(file))
    assert "already removed" in again


def test_two_projects_have_two_names(desk: Desk, tmp_path: Path) -> None:
    second = project(tmp_path / "second", BASE)
    told = desk.laptop.json("ssh-config", "--file", str(desk.config), cwd=second)
    assert told["hosts"] == [desk.name, "second.local.vmctl"]
    assert told["address"] is None
    missing = desk.run("ssh", "-F", str(desk.config), "second.local.vmctl", "true", code=255)
    assert "vmctl up" in missing.stderr
    assert desk.ssh("echo here").stdout == "here\n"


def test_another_home_is_honoured_and_said_not_to_be_ssh_s(desk: Desk, tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path)}
    told = desk.laptop("ssh-config", cwd=desk.folder, environ=home)
    assert f"ssh -F {tmp_path}/.ssh/config {desk.name}" in told.stderr
    assert str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh" / "config") in told.stderr
    assert (tmp_path / ".ssh" / "config").read_bytes().startswith(b"# >>> vmctl")
    desk.laptop("ssh-config", "--remove", cwd=desk.folder, environ=home)
    assert list(tmp_path.iterdir()) == []
