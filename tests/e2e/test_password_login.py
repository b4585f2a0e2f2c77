"""A server that asks for a password: one login at a terminal, and every command rides on it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.folders import public_folder
from tests.harness.laptop import Laptop, project
from tests.harness.terminal import conversation

PASSWORD = "correct horse"
# as an administrator sets it: in the machine's own files, for the next connection
ASKING = f"""
hash=$(openssl passwd -6 {PASSWORD!r})
echo "$(id -un):$hash:19000:0:99999:7:::" >/etc/shadow
mkdir -p /etc/ssh/sshd_config.d
printf 'PasswordAuthentication yes\\nPubkeyAuthentication no\\n' >/etc/ssh/sshd_config.d/asks.conf
"""


@pytest.fixture(scope="module")
def desk(laptop: Laptop) -> Iterator[tuple[Laptop, Path, str]]:
    """A laptop, its project's folder, and a server as `--on` names it."""
    base = public_folder("password")
    runtime, home = base / "r", base / "home"
    runtime.mkdir(mode=0o700)
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    extra = {"HOME": str(home), "XDG_RUNTIME_DIR": str(runtime)}
    made = Laptop(base / "vmctl", laptop.emulator_home, extra)
    folder = project(base / "asking", '[vm]\ngpu = "none"\nimage = "debian"\n', {"a.py": "1"})
    made("up", cwd=folder)
    made("exec", "--", "sh", "-c", ASKING, cwd=folder)
    address = made.json("status", cwd=folder)["machine"]["address"]
    user = made("exec", "id", "-un", cwd=folder).stdout.strip()
    pins = "".join(path.read_text() for path in (base / "vmctl/data/hostkeys").iterdir())
    keys = "".join(f"{address} {key}\n" for key in re.findall(r"ssh-ed25519 \S+", pins))
    (home / ".ssh" / "known").write_text(keys)
    (home / ".ssh" / "config").write_text(
        f"Host lab\n HostName {address}\n User {user}\n UserKnownHostsFile {home}/.ssh/known\n"
    )
    yield made, folder, "ssh/lab"
    made("down", "--delete", "--yes", cwd=folder, code=None)
    shutil.rmtree(base, ignore_errors=True)


def test_one_login_at_a_terminal_carries_every_command(desk: tuple[Laptop, Path, str]) -> None:
    laptop, folder, lab = desk
    refused = laptop("--on", lab, "push", cwd=folder, code=5)
    assert "asks for a password" in refused.stderr
    assert f"vmctl login --on {lab}" in refused.stderr
    words = ["login", "--on", lab]
    nowhere = laptop(*words, cwd=folder, code=5)
    assert "no terminal" in nowhere.stderr
    code, seen = conversation(laptop, folder, words, 3 * [("password:", "wrong")])
    assert (code, "did not accept this login" in seen) == (5, True), seen
    code, seen = conversation(laptop, folder, words, [("password:", PASSWORD)])
    assert (code, "stays open for 8 h" in seen, PASSWORD in seen) == (0, True, False), seen
    laptop("--on", lab, "push", cwd=folder)
    assert laptop("--on", lab, "exec", "cat", "a.py", cwd=folder).stdout == "1"
    again = laptop("login", "--on", lab, cwd=folder)
    assert "Already logged in" in again.stdout
    for path in laptop.home.rglob("*"):
        assert not path.is_file() or PASSWORD.encode() not in path.read_bytes()
