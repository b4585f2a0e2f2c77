"""One bubblewrap sandbox per machine: its own user, pid, network, uts, ipc and mount namespaces."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .interface import MachineError
from .spawner import Spawner

# Started by root, every machine runs under this uid, which no user has.
MACHINE_UID = 1_879_048_300
PYTHON = "/usr/bin/python3"
GUEST = "/run/vmctl/seed"
IMAGE = "/run/vmctl/image"
LAYER = "/run/vmctl/layer"
DATA_DISKS = "/mnt/disks"
MOUNTS = "disks"  # of the boot disk's folder: shown there
FOLDERS_OF_LINKS = ("alternatives", "ssl/certs")  # of /etc, into /usr
IMAGE_TARGET = "/opt/python"
FIB_TRIE = Path("/proc/net/fib_trie")

# A read-only mount made in a machine's own namespace is one that the machine's root may make
# writable again. Made one user namespace further out, the kernel locks it. What is mounted below
# it there later appears in the machine, because it is shared.
LOCK = r"""
while [ "$1" != -- ]; do
  mount -n --rbind -o "$1" "$2" "$2" && mount -n --make-shared "$2" || exit 1; shift 2
done
shift
exec "$@"
"""
# A mount appears in the machine with the flags that it was made with: read-only ones are made so
# elsewhere first.
MOUNT = r"""
if [ -n "$1" ]; then mount -n --bind -o "$1" "$2" "$2" || exit 1; fi
mount -n --bind "$2" "$3" || exit 1
if [ -n "$1" ]; then umount -n -l "$2"; fi
"""
MOUNT_FLAGS = {
    os.ST_NOSUID: "nosuid", os.ST_NODEV: "nodev", os.ST_NOEXEC: "noexec",
    os.ST_NOATIME: "noatime", os.ST_NODIRATIME: "nodiratime",
}  # fmt: skip


def machine_uid() -> int | None:
    """The uid that machines are dropped to; None when the emulator is unprivileged itself."""
    return MACHINE_UID if os.geteuid() == 0 else None


@dataclass(frozen=True, slots=True)
class Launch:
    """The parts of a machine's command line."""

    disk: Path
    seed: Path
    hostname: str
    image: Path | None
    control_fd: int
    accepted_fd: int
    memory: int  # bytes that the machine may take; its /tmp is in there
    hub: int | None = None  # the process whose user namespace is around the machine's, if any
    address: str | None = None  # where its neighbours reach its sshd

    @property
    def data_disks(self) -> Path:
        """The folder of this computer below which data disks are mounted for the machine."""
        return self.disk / MOUNTS

    @property
    def shown(self) -> list[str]:
        """The folders of /etc for which the seed has an empty folder."""
        etc = self.seed / "etc"
        return [n for n in FOLDERS_OF_LINKS if (etc / n).is_dir() and not any((etc / n).iterdir())]


def guest_command(seed: Path | str, control_fd: int, accepted_fd: int, mode: str) -> list[str]:
    """Runs the guest's first process on the system's Python, which every sandbox can see."""
    code = f"import sys; sys.path.insert(0, {str(seed)!r}); from guest.init import main; "
    return [PYTHON, "-I", "-S", "-B", "-c", code + "main(sys.argv[1:])",
            str(control_fd), str(accepted_fd), mode]  # fmt: skip


def base_arguments() -> list[str]:
    """The namespaces. uid 0 in a namespace owned by an unprivileged host uid: it can mount, and
    is nobody on the computer."""
    return [
        "bwrap", "--unshare-user", "--uid", "0", "--gid", "0", "--cap-add", "ALL",
        "--unshare-pid", "--unshare-uts", "--unshare-ipc",
        "--unshare-cgroup-try", "--die-with-parent", "--as-pid-1", "--new-session",
    ]  # fmt: skip


def network_command(seed: Path | str, *words: str) -> list[str]:
    """Runs one of guest/network.py's commands."""
    code = f"import sys; sys.path.insert(0, {str(seed)!r}); from guest.network import run; "
    return [PYTHON, "-I", "-S", "-B", "-c", code + "run(sys.argv[1:])", *words]


def list_own_networks(table: str) -> list[str]:
    """The IPv4 networks whose addresses this computer itself answers at, from its fib_trie."""
    found, address = {"127.0.0.0/8"}, ""
    for words in map(str.split, table.splitlines()):
        if words[:1] == ["|--"]:
            address = words[1]
        elif words[1:3] == ["host", "LOCAL"] and not address.startswith("127."):
            found.add(f"{address}{words[0]}")
    return sorted(found)


def lock_folders(folders: Iterable[Path], hub: int | None = None) -> list[str]:
    """Return the start of an argv whose namespaces make these folders read-only, and have a new
    network; namespaces made inside have no rights over either.

    They belong to the user namespace of the process `hub`, or to one of their own."""
    argv = ["unshare", "--user", "--map-root-user", "--mount", "--net", "--"]
    if hub is not None:
        argv = ["nsenter", f"--target={hub}", "--user", "--preserve-credentials", "--"]
        argv += ["unshare", "--mount", "--net", "--"]
    argv += ["/bin/sh", "-c", LOCK, "sh"]
    for folder in folders:
        argv += [read_only_flags(folder), str(folder)]
    return [*argv, "--"]


def read_only_flags(folder: Path) -> str:
    """Existing mount restrictions must be repeated, or the mount is refused."""
    present = os.statvfs(folder).f_flag
    return ",".join(["ro", *(name for flag, name in MOUNT_FLAGS.items() if present & flag)])


def mount_disk(pid: int, source: Path, target: Path, *, read_only: bool) -> None:
    """Shows a folder in a running machine, below its `data_disks`; MachineError if refused."""
    flags = read_only_flags(source) if read_only else ""
    _change_mounts(pid, ["/bin/sh", "-c", MOUNT, "sh", flags, str(source), str(target)])


def unmount_disk(pid: int, target: Path) -> None:
    """Takes it away, also while it is used; MachineError if refused."""
    _change_mounts(pid, ["umount", "-n", "-l", str(target)])


def _change_mounts(pid: int, argv: list[str]) -> None:
    """Runs argv in the namespaces around a machine, in which its mounts are shared."""
    enter = ["nsenter", f"--target={pid}", "--user", "--mount", "--preserve-credentials", "--"]
    uid = machine_uid()  # who owns these namespaces, and is root there
    done = subprocess.run(
        [*enter, *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        user=uid, group=uid, extra_groups=None if uid is None else [],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}, cwd="/",
    )  # fmt: skip
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"{argv[0]} failed"]
        raise MachineError(f"the disk could not be shown to the machine: {lines[0].strip()}")


def build_command(launch: Launch, info_fd: int) -> list[str]:
    """bwrap's argv for a machine: its own disk as root, /usr read-only, nothing else."""
    disk = launch.disk
    shared = [f for f in (launch.seed, launch.image, launch.data_disks) if f is not None]
    closed = list_own_networks(FIB_TRIE.read_text())
    argv = [*lock_folders(shared, launch.hub)]
    argv += [*network_command(launch.seed, "prepare", launch.address or "", *closed), "--"]
    argv += [*base_arguments(), "--hostname", launch.hostname]
    argv += ["--info-fd", str(info_fd)]
    argv += ["--bind", str(disk / "fs"), "/", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        host = Path("/") / name
        if host.is_dir() and not host.is_symlink():
            argv += ["--ro-bind", str(host), str(host)]
    argv += ["--bind", str(disk / "local"), "/usr/local"]
    # read-only already; what is mounted below it is not to become so
    argv += ["--bind", str(launch.data_disks), DATA_DISKS]
    argv += ["--dev", "/dev", "--proc", "/proc"]
    for place, share in (("/tmp", 2), ("/run", 8)):
        size = ["--size", str(launch.memory // share)] if can_size_tmpfs() else []
        argv += [*size, "--tmpfs", place]
    argv += ["--ro-bind", str(launch.seed), GUEST]
    for name in launch.shown:
        argv += ["--ro-bind", f"/etc/{name}", f"{GUEST}/etc/{name}"]
    if launch.image is not None:
        argv += ["--ro-bind", str(launch.image), IMAGE, "--bind", str(disk / "layer"), LAYER]
    argv += ["--clearenv", "--setenv", "PATH", "/usr/sbin:/usr/bin:/sbin:/bin"]
    argv += ["--setenv", "LANG", "C.UTF-8", "--chdir", "/", "--"]
    return argv + guest_command(GUEST, launch.control_fd, launch.accepted_fd, "sandbox")


@cache
def can_size_tmpfs() -> bool:
    """Whether this bwrap can limit the size of a tmpfs; else that is half of all memory."""
    shown = subprocess.run(["bwrap", "--help"], capture_output=True, text=True, check=False)
    return "--size" in shown.stdout


def wait_started(descriptor: int) -> None:
    """Waits until --info-fd, whose text arrives in pieces, reports the sandbox's process."""
    data = b""
    while b"}" not in data:
        piece = os.read(descriptor, 4096)
        if not piece:
            raise MachineError("bubblewrap ended before the machine started")
        data += piece


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this computer allows: `refusal` says why no sandbox, `overlay` if layers can be
    mounted."""

    refusal: str | None
    overlay: bool


PROBE = r"""
mkdir -p /tmp/l /tmp/u /tmp/w /tmp/m || exit 3
unshare --user --map-user=1000 --map-group=1000 true || exit 4
mount -n -t overlay overlay -o lowerdir=/tmp/l,upperdir=/tmp/u,workdir=/tmp/w,userxattr /tmp/m \
  && touch /tmp/m/file && echo overlay
exit 0
"""


def probe(spawner: Spawner) -> Abilities:
    """Starts a real sandbox with a nested user namespace, as a machine needs, to find out."""
    for program in ("bwrap", "sshd", "nsenter", "unshare", "mount", "ssh-keygen"):
        if find_program(program) is None:
            return Abilities(f"{program} is not installed on this computer", False)
    argv = [*lock_folders([Path("/usr")]), *base_arguments(), "--ro-bind", "/usr", "/usr"]
    argv += ["--dev", "/dev", "--proc", "/proc"]
    for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32"):
        host = Path("/") / name
        if host.is_symlink():
            argv += ["--symlink", str(host.readlink()), str(host)]
        elif host.is_dir():
            argv += ["--ro-bind", str(host), str(host)]
    argv += ["--tmpfs", "/tmp", "--", "/bin/sh", "-c", PROBE]
    process = spawner.start(
        argv, uid=machine_uid(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
    )  # fmt: skip
    try:
        output, errors = process.communicate(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Abilities("a test sandbox did not end within 20 s", False)
    if process.returncode != 0:
        last = errors.decode("utf-8", "replace").strip().splitlines()
        reason = last[-1] if last else "no reason given"
        return Abilities(f"namespaces are refused here ({reason})", False)
    return Abilities(None, b"overlay" in output)


def find_program(name: str) -> str | None:
    """Return a system program's path, even if the caller's PATH lacks the sbin folders."""
    return shutil.which(name, path="/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")


def start(
    launch: Launch,
    spawner: Spawner,
    bind: Callable[[int], str],
    serial: int,
    control: socket.socket,
    accepted: socket.socket,
) -> subprocess.Popen[bytes]:
    """Starts the sandbox; returns bwrap, which stays in the network's own namespaces."""
    read, write = os.pipe()
    try:
        process = spawner.start_bound(
            build_command(launch, write), bind, uid=machine_uid(), stdout=serial, stderr=serial,
            pass_fds=(control.fileno(), accepted.fileno(), write),
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )  # fmt: skip
        os.close(write)
        write = -1
        try:
            wait_started(read)
            return process
        except MachineError:
            process.kill()
            process.wait()
            raise
    finally:
        os.close(read)
        if write >= 0:
            os.close(write)
