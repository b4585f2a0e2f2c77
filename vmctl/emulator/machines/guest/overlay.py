"""The writable layer over the shared image: the machine's own /opt/python."""

from __future__ import annotations

import shutil
from pathlib import Path

from .processes import Processes


def mount_overlay(processes: Processes, image: Path, layer: Path, target: Path) -> str | None:
    """Mounts image and layer at target; the reason when the kernel refuses."""
    upper, work = layer / "upper", layer / "work"
    for folder in (upper, work, target):
        folder.mkdir(parents=True, exist_ok=True)
    options = f"lowerdir={image},upperdir={upper},workdir={work},userxattr"
    status, output = processes.run(
        ["mount", "-n", "-t", "overlay", "overlay", "-o", options, str(target)]
    )
    return None if status == 0 else output.strip() or f"mount failed with {status}"


def thin_environment(image: Path, target: Path) -> None:
    """A virtual environment at target that sees the image's packages and installs into itself."""
    version = next((image / "lib").glob("python3.*")).name
    shared = image / "lib" / version / "site-packages"
    own = target / "lib" / version / "site-packages"
    if (own / "image.pth").exists() and (own / "image.pth").read_text() == f"{shared}\n":
        return
    own.mkdir(parents=True, exist_ok=True)
    binaries = target / "bin"
    binaries.mkdir(exist_ok=True)
    shutil.copy(image / "pyvenv.cfg", target / "pyvenv.cfg")
    for entry in (image / "bin").iterdir():
        there = binaries / entry.name
        there.unlink(missing_ok=True)
        if entry.is_symlink():
            there.symlink_to(entry.readlink())
            continue
        head, newline, rest = entry.read_bytes().partition(b"\n")
        if head.startswith(b"#!") and b"python" in head:
            head = f"#!{binaries}/python3".encode()
        there.write_bytes(head + newline + rest)
        there.chmod(0o755)
    # Last: its presence says that the rest is complete.
    (own / "image.pth").write_text(f"{shared}\n")
