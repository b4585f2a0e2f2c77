"""What is secret stays out of logs, process lists and metadata."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path

import pytest

from tests.harness.crash_points import HeldCloud
from tests.harness.eventually import eventually
from tests.harness.laptop import project

TOML = """
[vm]
image = "debian-cloud/debian-12"
idle = "2h"
[jobs.upload]
command = 'test "${#API_TOKEN}" = 64 && echo ready && sleep 600'
env = ["API_TOKEN"]
[services.web]
port = 8642
command = "python3 -m http.server {port} --bind 127.0.0.1"
token = true
"""


def process_lists(marker: str) -> bytes:
    """The command lines of this computer's processes that belong to a folder."""
    lines = b""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words, environ = (entry / "cmdline").read_bytes(), (entry / "environ").read_bytes()
        except OSError:
            continue
        if marker.encode() in words + environ and entry.name != str(os.getpid()):
            lines += words
    return lines


@pytest.mark.slow
def test_a_secret_is_in_no_log_no_process_list_and_no_metadata(one_cloud: HeldCloud) -> None:
    cloud, token = one_cloud, secrets.token_hex(32)
    cloud.clear()
    folder = project(cloud.folder.parent / "quiet", TOML)

    def vmctl(*words: str) -> str:
        done = cloud.laptop(*words, cwd=folder, environ={"API_TOKEN": token})
        return done.stdout + done.stderr

    told = vmctl("up")
    told += vmctl("push", "--verbose")
    told += vmctl("--verbose", "--yes", "run", "--detach", "upload")
    told += vmctl("tunnel", "web", "--background", "--port", "auto")
    try:
        eventually(lambda: "ready" in vmctl("logs"))
        there = "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"
        lists = vmctl("exec", "--", "sh", "-c", there).encode()
        assert b"http.server" in lists  # it shows what runs there
        lists += process_lists(str(cloud.laptop.home))
        logs = "find ~/.vmctl /var/log -name '*log*' -type f -exec cat {} +"
        told += vmctl("logs") + vmctl("ps", "--json") + vmctl("status", "--json")
        told += vmctl("exec", "--", "sh", "-c", logs)
        place = "cat ~/.vmctl/services/web/token"
        web_token = vmctl("exec", "--", "sh", "-c", place).strip()
    finally:
        vmctl("tunnel", "stop", "all")
    assert "ready" in told

    private = (cloud.laptop.home / "data").rglob("*")
    keys = [path for path in private if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert keys
    secret = [token, *(line for path in keys for line in path.read_text().splitlines()[1:-1])]
    assert len(web_token) >= 32

    (machine,) = cloud.all("instances")
    shown = json.dumps(machine) + told
    emulator = cloud.laptop.emulator_home
    shown += (emulator / "emulator.log").read_text(errors="replace")
    shown += cloud.api(
        "GET",
        f"zones/{machine['zone'].rpartition('/')[2]}/instances/{machine['name']}/serialPort",
    )["contents"]
    kept = [path for path in cloud.laptop.home.rglob("*") if path.is_file() and path not in keys]
    for one in secret:
        assert one.encode() not in lists
        assert one not in shown
        assert not [path for path in kept if one.encode() in path.read_bytes()]
    assert web_token.encode() not in lists
    assert web_token not in json.dumps(machine)
    vmctl("down", "--delete", "--yes")
