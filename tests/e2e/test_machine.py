"""up, down, status, ls on the embedded Compute Engine, through the installed program."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.eventually import eventually
from tests.harness.folders import processes_of, public_folder
from tests.harness.laptop import BASE, Laptop, project


@pytest.fixture(scope="module")
def other_folder(laptop: Laptop) -> Iterator[Path]:
    base = public_folder("sibling")
    folder = project(base / "sibling", BASE + '[jobs.x]\ncommand = "true"\n')
    yield folder
    laptop("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base)


@pytest.fixture
def other_project(laptop: Laptop, other_folder: Path) -> Path:
    """Another machine, up, whatever a test did to it before."""
    laptop("up", "--gpu", "t4", cwd=other_folder)
    return other_folder


def test_a_second_up_creates_nothing(laptop: Laptop, shared_machine: Path) -> None:
    before = laptop.json("ls", "--all", cwd=shared_machine)
    again = laptop("up", "--gpu", "t4", cwd=shared_machine)
    assert "already" in again.stdout + again.stderr
    assert laptop.json("ls", "--all", cwd=shared_machine) == before


def test_status_says_what_it_is_and_what_will_stop_it(laptop: Laptop, shared_machine: Path) -> None:
    told = laptop("status", cwd=shared_machine).stdout
    assert "RUNNING" in told
    assert "T4" in told.upper()
    assert "$" in told
    assert "stop" in told.lower()
    found = laptop.json("status", cwd=shared_machine)
    assert found["machine"]["status"] == "RUNNING"


def test_two_projects_do_not_see_each_other(
    laptop: Laptop, shared_machine: Path, other_project: Path
) -> None:
    first, second = other_project, shared_machine
    assert "shared" not in laptop("ls", cwd=first).stdout
    assert "sibling" not in laptop("ls", cwd=second).stdout
    everything = laptop("ls", "--all", cwd=first).stdout
    assert "shared" in everything
    assert "sibling" in everything
    (first / "only-here.txt").write_text("mine")
    laptop("push", cwd=first)
    assert laptop("exec", "ls", cwd=first).stdout.split() == ["only-here.txt", "vmctl.toml"]
    laptop("exec", "test", "-e", "only-here.txt", cwd=second, code=1)


def test_down_stops_and_up_brings_the_disk_back(laptop: Laptop, other_project: Path) -> None:
    folder = other_project
    laptop("exec", "--", "sh", "-c", "echo kept >~/note; touch /tmp/gone", cwd=folder)
    told = laptop("down", cwd=folder)
    assert "disk" in (told.stdout + told.stderr).lower(), "what still costs money is said"
    assert laptop.json("status", cwd=folder)["machine"]["status"] == "TERMINATED"
    again = laptop("down", cwd=folder)
    assert "already" in again.stdout + again.stderr
    refused = laptop("push", cwd=folder, code=4)
    assert "vmctl up" in refused.stderr

    laptop("up", cwd=folder)
    assert laptop("exec", "--", "sh", "-c", "cat ~/note; ls /tmp", cwd=folder).stdout == "kept\n"


def test_shutdown_inside_ends_as_terminated(laptop: Laptop, other_project: Path) -> None:
    laptop("exec", "--", "sudo", "shutdown", "-h", "now", cwd=other_project, code=None)
    eventually(
        lambda: laptop.json("status", cwd=other_project)["machine"]["status"] == "TERMINATED",
        what="TERMINATED after shutdown -h now",
    )
    refused = laptop("exec", "true", cwd=other_project, code=4)
    assert "vmctl up" in refused.stderr


def test_a_machine_deleted_behind_our_back_is_said_to_be_gone(
    laptop: Laptop, other_project: Path
) -> None:
    folder = other_project
    laptop("exec", "true", cwd=folder)
    # another laptop of the same owner deletes it; this one still holds a warm connection
    other = Laptop(laptop.home.with_name("other"), laptop.emulator_home)
    other("down", "--delete", "--yes", cwd=folder)
    assert "sibling" not in laptop("ls", "--all", cwd=folder).stdout
    for words in (["push"], ["run", "x"], ["ssh", "true"], ["fetch", "y"]):
        told = laptop(*words, cwd=folder, code=None)
        assert told.returncode == 3, told.stderr
        assert "vmctl up" in told.stderr
    assert laptop.json("status", cwd=folder)["machine"] is None
    laptop("down", cwd=folder)
    gone = laptop("down", "--delete", "--yes", cwd=folder)
    assert "already" in gone.stdout + gone.stderr


def test_without_an_agreement_nothing_is_deleted(laptop: Laptop, shared_machine: Path) -> None:
    told = laptop("down", "--delete", cwd=shared_machine, code=2)
    assert "--yes" in told.stderr or "-y" in told.stderr
    assert laptop.json("status", cwd=shared_machine)["machine"]["status"] == "RUNNING"


def test_the_machine_sees_nothing_of_this_computer(laptop: Laptop, shared_machine: Path) -> None:
    secret = laptop.home / "secret"
    secret.write_text("x")
    laptop("exec", "cat", str(secret), cwd=shared_machine, code=1)
    uid = laptop("exec", "id", "-u", cwd=shared_machine).stdout.strip()
    assert uid != "0"
    name = laptop("exec", "hostname", cwd=shared_machine).stdout.strip()
    assert name == "tester-shared"
    keys = laptop("exec", "--", "sh", "-c", "env | grep -ci vmctl_home", cwd=shared_machine, code=1)
    assert keys.stdout.strip() == "0"


def test_emulator_env_points_other_clients_at_it(laptop: Laptop, shared_machine: Path) -> None:
    exports = laptop("emulator", "env", cwd=shared_machine).stdout
    line = (
        exports
        + """
    curl -sS --cacert "$VMCTL_EMULATOR_CERTIFICATE" \\
      -H "Authorization: Bearer $(cat "$VMCTL_EMULATOR_TOKEN_FILE")" \\
      "${VMCTL_EMULATOR_URL}compute/v1/projects/$CLOUDSDK_CORE_PROJECT"
    """
    )
    told = subprocess.run(
        ["bash", "-c", line],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(told.stdout)["kind"] == "compute#project"


def test_killing_the_emulator_leaves_no_process_and_its_machines_come_back(
    tmp_path: Path,
) -> None:
    base = public_folder("killed")
    laptop = Laptop(base / "laptop", base / "emulator")
    folder = project(tmp_path / "survivor", BASE)
    laptop("up", cwd=folder)
    laptop("exec", "--", "sh", "-c", "echo kept >~/note", cwd=folder)
    laptop(
        "exec", "--", "sh", "-c",
        "tmux new -d 'sleep 98989'; setsid sleep 98988 >/dev/null 2>&1 </dev/null &",
        cwd=folder,
    )  # fmt: skip
    pid = json.loads((laptop.emulator_home / "emulator.json").read_text())["pid"]
    os.kill(pid, signal.SIGKILL)

    def machines() -> list[str]:
        return [p for p in processes_of(str(laptop.emulator_home)) if " ssh" not in p[:30]]

    def sleepers() -> list[str]:
        return [p for p in processes_of("sleep") if "sleep 9898" in p]

    eventually(lambda: not machines() and not sleepers(), what=f"nothing left: {machines()}")
    laptop("emulator", "start", cwd=folder)
    assert laptop.json("status", cwd=folder)["machine"]["status"] == "RUNNING"
    laptop("up", cwd=folder)
    assert laptop("exec", "--", "sh", "-c", "cat ~/note", cwd=folder).stdout == "kept\n"
    laptop("down", "--delete", "--yes", cwd=folder)
    laptop("emulator", "stop", cwd=folder)
    eventually(lambda: not machines(), what="a stopped emulator leaves nothing")
    shutil.rmtree(base, ignore_errors=True)
