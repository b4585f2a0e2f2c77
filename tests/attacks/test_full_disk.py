"""A disk of this computer is full while a tunnel in the background is made."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from tests.harness.laptop import PROGRAM, Laptop

FULL = """
mount -t tmpfs -o size=64k tmpfs "$1"
dd if=/dev/zero of="$1/filler" bs=4k 2>/dev/null
shift
exec "$@"
"""


def with_full(folder: Path, laptop: Laptop, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`vmctl tunnel 8123 --background` where one folder is a disk that is full."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", FULL, "sh", folder,
         PROGRAM, "tunnel", "8123", "--port", "auto", "--background"],
        cwd=cwd, env=laptop.environ, stdin=subprocess.DEVNULL, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip


def record_folder(laptop: Laptop) -> Path:
    digest = hashlib.sha256(os.fsencode(laptop.home / "data")).hexdigest()[:8]
    return Path(f"/tmp/vmctl-{os.getuid()}/t-{digest}")


def test_no_tunnel_is_half_there_when_its_record_has_no_room(
    laptop: Laptop, shared_machine: Path
) -> None:
    done = with_full(record_folder(laptop), laptop, shared_machine)
    assert done.returncode == 2, done.stderr
    assert "This computer's disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert laptop.json("tunnels", cwd=shared_machine) == []


def test_a_tunnel_needs_no_room_for_its_log(laptop: Laptop, shared_machine: Path) -> None:
    done = with_full(laptop.home / "cache/tunnels", laptop, shared_machine)
    assert done.returncode == 0, done.stderr
    (record,) = laptop.json("tunnels", cwd=shared_machine)
    assert (record["what"], record["state"]) == ("8123", "up")
    laptop("tunnel", "stop", "8123", cwd=shared_machine)
    assert laptop.json("tunnels", cwd=shared_machine) == []


@pytest.mark.parametrize("words", [["logs"], ["no-such-command"], ["run", "nothing", "--json"]])
def test_an_exit_code_needs_no_room_for_its_message(
    laptop: Laptop, folder: Path, words: list[str]
) -> None:
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        told = laptop(*words, cwd=folder, code=None)
        process = laptop.start(*words, cwd=folder, stdout=subprocess.DEVNULL, stderr=full)
        assert process.wait(60) == told.returncode != 0
