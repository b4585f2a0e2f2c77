"""A machine's folders on the computer, and the read-only seed that all machines boot from."""

from __future__ import annotations

import compileall
import configparser
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .file_modes import make_folder
from .interface import MachineError
from .sandbox import FOLDERS_OF_LINKS, machine_uid

# Folders of a new disk. `fs` is the machine's whole root, `local` its /usr/local, `layer` what it
# installed over the shared image.
FOLDERS = ("fs", "local", "layer")
COPYING = ".copying"  # at the end of the name of a disk that is being copied
MOUNT_POINTS = ("usr", "proc", "dev", "run", "tmp", "sys", "opt", "etc", "home", "root", "var")
USR_LINKS = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")

# What programs under /usr need of the computer's /etc; nothing else of it is shown.
ETC = (
    "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "alternatives", "ssl/certs", "ssl/openssl.cnf",
    "pki/tls/certs", "pki/tls/openssl.cnf", "pki/ca-trust/extracted", "crypto-policies",
    "ca-certificates.conf", "services", "protocols", "rpc", "mime.types", "magic", "terminfo",
    "inputrc", "localtime", "timezone", "os-release", "debian_version", "lsb-release",
    "login.defs", "gai.conf", "host.conf", "python3", "locale.alias", "fonts", "ssh/moduli",
)  # fmt: skip
LOCAL_CERTIFICATES = Path("/usr/local/share/ca-certificates")  # each machine has its own
CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
)
PIP_FILES = ("/etc/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf")
PIP_SETTINGS = ("index-url", "extra-index-url", "timeout", "retries")


def enclose(folder: Path) -> None:
    """Makes or tightens a folder that only the emulator's user and its machines may enter.

    A machine's files may have any mode, a setuid program among them: nobody else gets there."""
    uid = machine_uid()
    make_folder(folder, 0o700 if uid is None else 0o710, group=uid)


def provision(disk: Path, uid: int | None, *, blank: bool = False) -> None:
    """Makes a new disk's folders, owned by uid when that is given; a blank one has nothing in it.

    A disk that exists is left alone: what is in it belongs to the machine, and following its
    links with the emulator's rights would let it reach out."""
    enclose(disk)
    partial = disk / "fs.new"
    if (disk / "fs").exists():
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    for name in () if blank else MOUNT_POINTS:
        (partial / name).mkdir()
    for name in () if blank else USR_LINKS:
        source = Path("/") / name
        if source.is_symlink():
            (partial / name).symlink_to(source.readlink())
        elif source.is_dir():
            (partial / name).mkdir()
    for name in FOLDERS[1:]:
        (disk / name).mkdir(exist_ok=True)
    for folder in (partial, *partial.iterdir(), *(disk / name for name in FOLDERS[1:])):
        if not folder.is_symlink():
            folder.chmod(0o755)
        if uid is not None:
            os.chown(folder, uid, uid, follow_symlinks=False)
    partial.rename(disk / "fs")


def copy_disk(source: Path, target: Path) -> int:
    """Copies what a machine has on its disk, owners and modes too; returns its size in bytes.

    The target appears whole or not at all. A disk that no machine has booted from is empty."""
    if target.exists():  # an earlier copy was completed
        return measure_disk(target)
    partial = target.with_name(f"{target.name}{COPYING}")
    delete_disk(partial)
    enclose(partial)
    parts = [source / name for name in FOLDERS if (source / name).is_dir()]
    if parts:
        # a copy must not run on into a folder that the next emulator creates again
        bound = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []
        done = subprocess.run(
            [*bound, "cp", "-a", "--", *map(str, parts), str(partial)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        if done.returncode != 0:
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines()
            delete_disk(partial)
            raise MachineError(
                f"the disk could not be copied: {lines[-1] if lines else 'cp failed'}"
            )
    partial.rename(target)
    return measure_disk(target)


def measure_disk(folder: Path) -> int:
    """Return the bytes that a disk's files take on this computer."""
    found = 0
    for base, _, files in os.walk(folder):
        for name in files:
            with suppress(OSError):  # deleted meanwhile
                found += os.lstat(os.path.join(base, name)).st_blocks * 512  # noqa: PTH118 (speed)
    return found


def delete_disk(disk: Path) -> None:
    """Removes a disk, whatever its files' modes; a missing one is not an error."""

    def insist(function: Callable[..., object], path: str, _: object) -> None:
        parent = Path(path).parent
        for folder in (parent, Path(path)):
            if folder.is_relative_to(disk) and folder.is_dir() and not folder.is_symlink():
                folder.chmod(stat.S_IRWXU)
        if Path(path).is_dir() and not Path(path).is_symlink():
            shutil.rmtree(path)
        else:
            Path(path).unlink(missing_ok=True)

    if disk.exists():
        shutil.rmtree(disk, onerror=insist)


def make_seed(home: Path, *, sandboxed: bool) -> Path:
    """Copies the guest's programs and the needed part of /etc to HOME/seed; only for the start of
    an emulator, when no machine of this home runs.

    Of folders of links, which take longest, sandboxes are shown the computer's own: there are
    empty folders for them."""
    seed = home / "seed"
    partial = home / "seed.new"
    for old in (seed, partial):
        shutil.rmtree(old, ignore_errors=True)
    (partial / "etc").mkdir(parents=True)
    guest = Path(__file__).with_name("guest")
    # Compiled inside this package, once, where this user may write: the system's Python uses the
    # result if its version is the same, and ignores it otherwise.
    if not sys.dont_write_bytecode:
        compileall.compile_dir(guest, maxlevels=0, quiet=2)
    shutil.copytree(guest, partial / "guest", ignore=find_unreadable_caches)
    for name in ETC:
        source = Path("/etc") / name
        if sandboxed and name in FOLDERS_OF_LINKS and stays_in_usr(source):
            (partial / "etc" / name).mkdir(parents=True)
        elif source.exists() or source.is_symlink():
            copy_visible(source, partial / "etc" / name)
    for source in LOCAL_CERTIFICATES.glob("*.crt"):
        copy_visible(source, partial / "certificates" / source.name)
    write_pip_settings(partial / "etc/pip.conf")
    # The emulator may run with a tight umask; the machines' uid must read all of this.
    for folder, _, files in os.walk(partial):
        Path(folder).chmod(0o755)
        for file in files:
            path = Path(folder) / file
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
    partial.rename(seed)
    return seed


def find_unreadable_caches(folder: str, names: list[str]) -> set[str]:
    """Compiled files of another user, which this one may not read: Python does without them."""
    paths = [Path(folder) / name for name in names]
    return {
        path.name
        for path in paths
        if "__pycache__" in (path.name, path.parent.name)
        and not os.access(path, os.R_OK | os.X_OK * path.is_dir(), effective_ids=True)
    }


def stays_in_usr(folder: Path) -> bool:
    """Whether a machine has the targets of these links, in its own /usr or in the same folder."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    with os.scandir(folder) as entries:
        return all(
            "/" not in link
            or (link.startswith("/usr/") and not link.startswith("/usr/local/"))
            or Path(link).parent == LOCAL_CERTIFICATES
            for link in (os.readlink(one.path) for one in entries if one.is_symlink())  # noqa: PTH115
        )


def copy_visible(source: Path, target: Path) -> None:
    """Copies files; keeps links into /usr (not /usr/local, each machine's own) as links."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_symlink():
        link = source.readlink()
        aim = Path(os.path.normpath(source.parent / link))
        inside = aim.is_relative_to("/usr") and not aim.is_relative_to("/usr/local")
        if inside or any(aim.is_relative_to(Path("/etc") / name) for name in ETC):
            target.symlink_to(link)
            return
    try:
        if source.is_dir():
            target.mkdir(exist_ok=True)
            for entry in source.iterdir():
                copy_visible(entry, target / entry.name)
        elif source.is_file():
            shutil.copyfile(source, target)
    except PermissionError:
        pass  # a machine does without files that this user may not read


def write_pip_settings(target: Path) -> None:
    """Where this computer reaches its packages through a mirror, the machines do too; settings
    that name a folder of this computer or carry a password are left out."""
    settings: dict[str, str] = {}
    for file in PIP_FILES:
        parser = configparser.RawConfigParser()
        try:
            parser.read(Path(file).expanduser())
        except (OSError, configparser.Error):
            continue
        if parser.has_section("global"):
            settings.update(parser.items("global"))
    lines = []
    for key in PIP_SETTINGS:
        words = settings.get(key, "").split()
        kept = [w for w in words if "@" not in w and not w.startswith(("file:", "/", "."))]
        if kept:
            lines.append(f"{key} = {' '.join(kept)}\n")
    if "cert" in settings or os.environ.get("PIP_CERT"):
        lines += [f"cert = {file}\n" for file in CERTIFICATES if file.exists()][:1]
    if lines:
        target.write_text("[global]\n" + "".join(lines))


def check_traversable(path: Path) -> None:
    """MachineError when the machines' uid could not get to path."""
    for folder in [*reversed(path.resolve().parents), path.resolve()]:
        found = folder.stat()
        needed = stat.S_IXGRP if found.st_gid == machine_uid() else stat.S_IXOTH
        if not found.st_mode & needed:
            raise MachineError(
                f"{folder} is closed to other users, but machines run under an unprivileged uid "
                f"and must reach {path}: allow it with 'chmod o+x {folder}' or choose another "
                "folder with VMCTL_EMULATOR_HOME"
            )
