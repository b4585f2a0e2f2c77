"""The machine's own /etc, home folders and sshd configuration."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path

TYPE_CHECKING = False  # typing is not imported: every boot of a machine pays for it
if TYPE_CHECKING:
    from typing import Any

# Files that belong to the programs under /usr: copied at every boot.
FOLLOWS_USR = ("ld.so.c", "alternatives/", "ssl/certs/", "pip.conf")  # path prefixes
LINKED = ("alternatives", "ssl/certs")

PASSWD = """\
root:x:0:0:root:/root:/bin/bash
daemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
"""
# No group "tty": sshd would want to give terminals to it, which an unprivileged one cannot.
GROUP = """\
root:x:0:
daemon:x:1:
adm:x:4:
sudo:x:27:
video:x:44:
nogroup:x:65534:
"""
PROFILE = """\
PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export PATH
if [ -n "${BASH_VERSION-}" ] && [ -r /etc/bash.bashrc ]; then . /etc/bash.bashrc; fi
if [ -d /etc/profile.d ]; then
  for part in /etc/profile.d/*.sh; do
    if [ -r "$part" ]; then . "$part"; fi
  done
  unset part
fi
"""
BASHRC = """\
case $- in *i*) ;; *) return ;; esac
PS1='\\u@\\h:\\w\\$ '
shopt -s checkwinsize
"""
USER_PROFILE = """\
if [ -n "${BASH_VERSION-}" ] && [ -f "$HOME/.bashrc" ]; then . "$HOME/.bashrc"; fi
if [ -d "$HOME/bin" ]; then PATH="$HOME/bin:$PATH"; fi
if [ -d "$HOME/.local/bin" ]; then PATH="$HOME/.local/bin:$PATH"; fi
if [ -n "${VMCTL_PATH-}" ]; then PATH="$VMCTL_PATH:$PATH"; fi
"""
USER_BASHRC = """\
case $- in *i*) ;; *) return ;; esac
HISTCONTROL=ignoreboth
HISTSIZE=1000
alias ls='ls --color=auto'
alias ll='ls -l'
"""


def install_etc(seed: Path, etc: Path, inside: str = "") -> None:
    """Copies what is missing in etc, and always what belongs to /usr.

    Folders of hundreds of links are one link to the seed's: a machine that wants to change them
    puts a folder in its place, which is then filled like any other."""
    (etc / inside).mkdir(mode=0o755, parents=True, exist_ok=True)
    for entry in os.scandir(seed / inside):
        name = f"{inside}/{entry.name}".lstrip("/")
        target = etc / name
        present = os.path.lexists(target)
        if entry.is_dir(follow_symlinks=False):
            if name in LINKED and (target.is_symlink() or not present):
                target.unlink(missing_ok=True)
                target.symlink_to(entry.path)
            else:
                install_etc(seed, etc, name)
        elif not present or name.startswith(FOLLOWS_USR):
            target.unlink(missing_ok=True)
            shutil.copy2(entry.path, target, follow_symlinks=False)


def install_certificates(seed: Path, local: Path) -> None:
    """Copies the certificates that an administrator added; /etc/ssl/certs links to them."""
    for source in seed.glob("*"):
        local.mkdir(mode=0o755, parents=True, exist_ok=True)
        if not (local / source.name).exists():
            shutil.copy2(source, local / source.name)


def hosts(names: list[list[str]]) -> str:
    """The text of /etc/hosts: each of `names` is an address and its names."""
    lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback",
             "169.254.169.254 metadata.google.internal metadata"]  # fmt: skip
    return "".join(f"{line}\n" for line in [*lines, *map(" ".join, names)])


def write_own_files(root: Path, spec: dict[str, Any], dns: str | None) -> None:
    """Writes names, hosts, shells and accounts; the user's edits stay, except in what boot sets."""
    etc = root / "etc"
    name = spec["name"]
    always = {
        "hostname": f"{name}\n",
        "hosts": hosts([spec["own_name"]]),
        "nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"
        "networks: files\nprotocols: files\nservices: files\n",
        "motd": f"\n{name} is simulated by vmctl's emulator: a sandbox on your own computer.\n\n",
    }
    if dns is not None:
        always["resolv.conf"] = f"nameserver {dns}\n"
    once = {
        "passwd": PASSWD,
        "group": GROUP,
        "profile": PROFILE,
        "bash.bashrc": BASHRC,
        "skel/.profile": USER_PROFILE,
        "skel/.bashrc": USER_BASHRC,
        "shells": "/bin/sh\n/bin/bash\n",
    }
    for file, text in always.items():
        (etc / file).unlink(missing_ok=True)
        (etc / file).write_text(text)
    for file, text in once.items():
        if not (etc / file).exists():
            (etc / file).parent.mkdir(parents=True, exist_ok=True)
            (etc / file).write_text(text)
    profile = etc / "profile.d/image-python.sh"
    profile.parent.mkdir(exist_ok=True)
    profile.unlink(missing_ok=True)
    if spec["python"]:
        profile.write_text(f'PATH="{spec["python"]}/bin:$PATH"\nexport PATH\n')
    for file in ("/root/.profile", "/root/.bashrc"):
        target = root / file.lstrip("/")
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(etc / "skel" / target.name, target)


def sshd_config(root: Path, extra: list[str]) -> str:
    """For `sshd -i`, run unprivileged; `root` is where the machine's files are."""

    def quoted(path: str) -> str:
        return '"' + str(root / path).replace("%", "%%") + '"'

    lines = [
        f"Include {quoted('etc/ssh/sshd_config.d/*.conf')}",
        *(f"HostKey {quoted(f'etc/ssh/ssh_host_{t}_key')}" for t in ("ed25519", "ecdsa")),
        f'AuthorizedKeysFile {quoted("home")[:-1]}/%u/.ssh/authorized_keys"',
        "UsePAM no",
        "StrictModes no",
        "PermitRootLogin no",
        "PasswordAuthentication no",
        "KbdInteractiveAuthentication no",
        "MaxSessions 64",
        "X11Forwarding no",
        "PrintMotd yes",
        "PrintLastLog no",
        "PidFile none",
        "ClientAliveInterval 120",
        "Subsystem sftp internal-sftp",
        *extra,
    ]
    return "".join(f"{line}\n" for line in lines)


def install_shims(shims: Path, target: Path) -> None:
    """Puts sudo, shutdown, apt-get ... into the machine's /usr/local/bin, and no driver yet."""
    target.mkdir(parents=True, exist_ok=True)
    names = {
        "sudo.sh": ["sudo"],
        "shutdown.sh": ["shutdown", "poweroff", "halt", "reboot"],
        "apt_get.sh": ["apt-get", "apt"],
        "systemctl.sh": ["systemctl", "journalctl"],
        "package_lock.py": ["package_lock.py"],
    }
    (target / "nvidia-smi").unlink(missing_ok=True)
    for source, commands in names.items():
        for command in commands:
            _place(shims / source, target / command)


def install_driver(shims: Path, target: Path, gpus: list[str], cuda: str) -> None:
    """Installs nvidia-smi, which shows these GPUs and this version of CUDA."""
    (target / "nvidia-smi.gpus").write_text("".join(f"{line}\n" for line in [cuda, *gpus]))
    _place(shims / "nvidia_smi.py", target / "nvidia-smi")


def _place(source: Path, command: Path) -> None:
    partial = command.with_name(f".{command.name}.new")
    shutil.copyfile(source, partial)
    partial.chmod(0o755)
    partial.replace(command)


def plain_session(root: Path, environment: dict[str, str], session: Path) -> list[str]:
    """sshd_config lines for a machine without namespaces: its folders through the environment."""
    pairs = " ".join('"' + f"{name}={value}" + '"' for name, value in environment.items())
    return [f"SetEnv {pairs}", f"ForceCommand /bin/sh {shlex.quote(str(session))}"]
