"""Whatever the login shell is, prints or does at its start and end, helpers and jobs work."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.laptop import Laptop, project
from tests.harness.sshd import Sshd

# what sshd does with a user's login shell
LOGIN = """#!/bin/sh
cd "$HOME" || exit 1
SHELL={shell}; export SHELL
case "$SSH_ORIGINAL_COMMAND" in
"") exec {shell} -l ;;
internal-sftp*|*/sftp-server*) exec {shell} -c /usr/lib/openssh/sftp-server ;;
*) exec {shell} -c "$SSH_ORIGINAL_COMMAND" ;;
esac
"""
NOISE = "echo Welcome; printf 'no newline'; echo to-stderr >&2; cd /tmp"
START_FILES = {
    "bash": (".bashrc", f"{NOISE}; trap 'echo bye' EXIT\n"),
    "zsh": (".zshenv", f"{NOISE}; TRAPEXIT() {{ echo bye; }}\n"),
    "tcsh": (".tcshrc", "echo Welcome\ncd /tmp\nset prompt='x'\n"),
    "fish": (".config/fish/config.fish", "echo Welcome\nprintf 'no newline'\ncd /tmp\n"),
    "dash": (".profile", f"{NOISE}\n"),
}
# in every run one for each way of reading a line; dash and zsh read it as bash does
SHELLS = [
    pytest.param(shell, marks=[pytest.mark.exhaustive] if shell in ("dash", "zsh") else [])
    for shell in START_FILES
]
TOML = """
[jobs.where]
command = "pwd; python3 -c 'import sys; print(sys.argv[1:])'"
[jobs.pipe]
command = "python3 -c 'raise SystemExit(3)' | cat"
[jobs.windows]
command = "./run.sh"
[jobs.tee]
command = "python3 train.py 2>&1 | tee log"
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Laptop]]:
    """A server whose user has this login shell, and a laptop that works there."""
    folder = tmp_path_factory.mktemp("shells")
    sockets = Path(tempfile.mkdtemp(prefix="vmq", dir="/tmp"))
    server = Sshd(folder / "server", sockets)
    home = folder / "user"
    (home / ".ssh").mkdir(parents=True, mode=0o700)
    key = home / ".ssh" / "id"
    assert os.system(f"ssh-keygen -q -t ed25519 -N '' -f {key}") == 0
    server.authorized.write_text(Path(f"{key}.pub").read_text())
    server.start()
    (home / ".ssh" / "config").write_text(
        f"Host lab\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
        f" IdentityFile {key}\n UserKnownHostsFile {home}/.ssh/known\n"
    )
    (home / ".ssh" / "known").write_text(f"[127.0.0.1]:{server.port} {server.host_key}\n")
    extra = {"HOME": str(home), "XDG_RUNTIME_DIR": str(sockets), "VMCTL_LOCAL": "0",
             "VMCTL_ON": "ssh/lab"}  # fmt: skip
    laptop = Laptop(folder / "vmctl", folder / "none", extra)

    def become(shell: str) -> Laptop:
        program = shutil.which(shell)
        assert program, f"{shell} is not installed"
        login = server.folder / "login.sh"
        login.with_suffix(".new").write_text(LOGIN.format(shell=program))
        login.with_suffix(".new").chmod(0o755)
        login.with_suffix(".new").replace(login)
        shutil.rmtree(server.home)
        file, text = START_FILES[shell]
        (server.home / file).parent.mkdir(parents=True, exist_ok=True)
        (server.home / file).write_text(text)
        # Debian's bash reads .bashrc for sshd's commands, zsh .zshenv; dash only where ENV says
        return laptop

    yield become
    laptop("ssh", "exit", cwd=project(folder / "end", TOML), code=None)
    server.power_off()
    shutil.rmtree(sockets, ignore_errors=True)


@pytest.mark.parametrize(
    "shell",
    [
        "bash",
        "fish",
        "tcsh",
        *(pytest.param(shell, marks=pytest.mark.exhaustive) for shell in ("dash", "zsh")),
    ],
)
def test_every_command_works_under_every_login_shell(
    made: Callable[[str], Laptop], tmp_path: Path, shell: str
) -> None:
    laptop = made(shell)
    folder = project(tmp_path / shell, TOML, {"run.sh": "#!/bin/sh\r\necho hello\r\n"})
    (folder / "run.sh").chmod(0o755)
    (folder / "big.bin").write_bytes(os.urandom(6 << 20))
    laptop("push", cwd=folder)
    out = laptop("run", "where", "a b", "c'd", cwd=folder).stdout
    assert "/.vmctl/trees/" in out
    assert "['a b', \"c'd\"]" in out
    assert "succeeded" in laptop("ps", cwd=folder).stdout
    (folder / "big.bin").write_bytes(os.urandom(6 << 20))
    laptop("push", "--via", "rsync", cwd=folder)
    laptop("exec", "cp", "big.bin", "copy.bin", cwd=folder)
    laptop("fetch", "copy.bin", cwd=folder)
    assert (folder / "copy.bin").read_bytes() == (folder / "big.bin").read_bytes()
    assert "Python" in laptop("exec", "python3", "--version", cwd=folder).stdout
    assert laptop("exec", "exit 7", cwd=folder, code=7).returncode == 7


def test_scp_behind_a_shell_that_prints_is_one_sentence(
    made: Callable[[str], Laptop], tmp_path: Path
) -> None:
    laptop = made("bash")
    folder = project(tmp_path / "scp", TOML, {"a.bin": 100 * "a"})
    told = laptop("push", "--via", "scp", cwd=folder, code=4).stderr
    assert "A start file of the login shell" in told
    laptop("push", cwd=folder)


def test_a_crash_in_a_pipe_is_a_failure(made: Callable[[str], Laptop], tmp_path: Path) -> None:
    laptop = made("bash")
    folder = project(tmp_path / "pipe", TOML, {"run.sh": "#!/bin/sh\r\necho hello\r\n"})
    (folder / "run.sh").chmod(0o755)
    laptop("push", cwd=folder)
    laptop("run", "pipe", cwd=folder, code=3)
    out = laptop("run", "windows", cwd=folder, code=None).stdout
    assert "Windows line ends" in out
    assert "sed -i" in out
    err = laptop("run", "tee", "--epochs", "3", cwd=folder, code=2).stderr
    assert "the arguments would not reach its program" in err
